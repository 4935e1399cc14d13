"""The quickstart study: does normalization help when labels are skewed?

  python -m experiments.quickstart --workdir=runs/quickstart

Scikit-learn's digits, ten clients with one class each, a bias-free MLP
64-128-64-10 without norm, with feature normalization (FN) and with layer
normalization (LN); five client learning rates and three seeds.  The fifteen
points of one norm are one compiled program.  Finished norms are kept in the
working directory: the same command again computes only what is missing.
"""

import json
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

import fedjax_ls as fl
from experiments import commandline, quickstart_plots
from fedjax_ls import build, config, evaluate
from fedjax_ls import round as round_lib
from fedjax_ls.progress import progress
from fedjax_ls.train import use_compilation_cache

NORMS = ('none', 'fn', 'ln')
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
SEEDS = (0, 1, 2)
ROUNDS, EVAL_EVERY = 200, 10

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/quickstart', 'Folder for the results.'
)
# What differs between the points of a sweep: who owns which row.
_OWN = fl.Federation(x=None, y=None, index=0, size=0, labels=0, tier=0)


def configuration(norm: str, rate: float, seed: int) -> fl.Config:
  """One point of the study."""
  return fl.Config(
    seed=seed,
    rounds=ROUNDS,
    eval_every=EVAL_EVERY,
    data=config.Data('digits'),
    partition=config.Partition('classes', num_clients=10, classes_per_client=1),
    model=config.Model('mlp', hidden=(128, 64), norm=norm, initializer='torch'),
    client=fl.Client(learning_rate=rate, batch_size=32, amount=10),
  )


def sweep(configs: list[fl.Config]) -> dict[str, np.ndarray]:
  """Runs configurations that differ in numbers and seeds as one program.

  Args:
    configs: P configurations of one structure.

  Returns:
    `{metric: [evaluations, P]}` of the test set.
  """
  begin = time.perf_counter()
  # Clients and first model follow from the seed alone.
  of_seed = {c.seed: c for c in configs}
  prepared = {seed: build.prepare(c) for seed, c in of_seed.items()}
  experiments = [prepared[c.seed] for c in configs]
  jobs = [e.job for e in experiments]
  states = _stack([e.state for e in experiments])
  hypers = _stack([build.numbers(c) for c in configs])
  federation = _stack_federations([job.federation for job in jobs])
  test = _stack_federations([job.tests['test'] for job in jobs])
  first = jobs[0]

  def block(hyper, federation, test, state, rounds):
    state = round_lib.run_rounds(
      first.algorithm, hyper, federation, state, rounds, first.execution
    )
    return state, evaluate.evaluate(
      first.algorithm, first.model, hyper, state, federation, test
    )

  jitted = jax.jit(
    jax.vmap(block, in_axes=(0, _OWN, _OWN, 0, None)), donate_argnums=3
  )
  with jax.default_matmul_precision(first.precision):
    lowered = jitted.lower(hypers, federation, test, states, EVAL_EVERY)
  program = lowered.compile()
  print(f'prepared and compiled in {time.perf_counter() - begin:.1f} s')
  curves = []
  with progress('auto', ROUNDS) as shown:
    for done in range(EVAL_EVERY, ROUNDS + 1, EVAL_EVERY):
      states, metrics = program(hypers, federation, test, states, EVAL_EVERY)
      curves.append(jax.device_get(metrics))
      mean = float(curves[-1]['accuracy'].mean())
      shown.show(done, {'test/accuracy': mean})
  return jax.tree.map(lambda *a: np.stack(a), *curves)


def curves_of(norm: str, folder: pathlib.Path) -> np.ndarray:
  """Accuracy `[evaluations, rates, seeds]` of one norm, kept in a file."""
  path = folder / f'{norm}.json'
  configs = [configuration(norm, r, s) for r in RATES for s in SEEDS]
  described = [config.to_dict(c) for c in configs]
  if path.exists():
    kept = json.loads(path.read_text())
    if kept['configs'] == json.loads(json.dumps(described)):
      print(f'kept from before in {path}')
      return np.array(kept['test/accuracy'])
  accuracy = sweep(configs)['accuracy'].reshape(-1, len(RATES), len(SEEDS))
  content = {'test/accuracy': accuracy.tolist(), 'configs': described}
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(content))
  os.replace(partial, path)
  return accuracy


def grid(curves: dict[str, np.ndarray], at: int) -> str:
  """Norm x learning rate, mean +- standard deviation over seeds, in %."""
  rows = ['  norm ' + ''.join(f'{f"lr {rate:g}":>13}' for rate in RATES)]
  for norm, accuracy in curves.items():
    cells = 100 * accuracy[at // EVAL_EVERY - 1]
    rows.append(
      f'  {norm:<5}'
      + ''.join(f'{c.mean():7.1f} +- {c.std():<3.1f}' for c in cells)
    )
  return '\n'.join(rows)


def main(argv: Sequence[str]) -> None:
  """Runs what is missing, then prints the grids and draws the plots."""
  commandline.refuse_arguments(argv)
  logging.set_verbosity(logging.WARNING)
  folder = pathlib.Path(_WORKDIR.value)
  folder.mkdir(parents=True, exist_ok=True)
  cache = use_compilation_cache()
  begin = time.perf_counter()
  print(f'{__doc__.split(chr(10))[0]}\nCompiled programs are kept in {cache}.')
  curves = {}
  for norm in NORMS:
    print(f'\nnorm {norm}: {len(RATES)} learning rates x {len(SEEDS)} seeds')
    curves[norm] = curves_of(norm, folder)
  for at in (20, ROUNDS):
    print(f'\nTest accuracy in % at round {at}, mean +- std of {len(SEEDS)}')
    print(grid(curves, at))
  pictures = quickstart_plots.draw(curves, RATES, EVAL_EVERY, folder)
  print(f'\n{time.perf_counter() - begin:.0f} s.  Pictures:')
  for picture in pictures:
    print(f'  {picture}')
  print(
    'Next: one run with files, checkpoints and resume\n'
    '  .venv/bin/python -m experiments.run --config=configs/digits.py '
    '--workdir=runs/digits --config.model.norm=ln\n'
    'and another method: --config=configs/digits.py:scaffold'
  )


def _stack(trees: list[Any]) -> Any:
  return jax.tree.map(lambda *a: jnp.stack(a), *trees)


def _stack_federations(federations: list[fl.Federation]) -> fl.Federation:
  """Federations over the same examples, rows padded to the longest client."""
  longest = max(f.index.shape[1] for f in federations)

  def padded(index):
    return jnp.pad(index, ((0, 0), (0, longest - index.shape[1])))

  own = [f._replace(x=None, y=None, index=padded(f.index)) for f in federations]
  return _stack(own)._replace(x=federations[0].x, y=federations[0].y)


if __name__ == '__main__':
  app.run(main)
