"""Small batches in a row, one large batch, and GradAlign, on digits.

  python -m experiments.gradalign --out=runs/gradalign

The setting is `configs/gradalign_digits.py`: workers with one mini-batch each.
An update is a step on one mini-batch after the other, reshuffled every epoch
(sequential), on all workers' together (large batch), or GradAlign's with beta
a multiple of the learning rate; half of it is what a sequential epoch does in
the mean over orders.  All points of a method (multiples, learning rates, seeds
of data, model and order) are one compiled program.
"""

import itertools
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import fedjax_ls as fl
from experiments import commandline, gradalign_report
from fedjax_ls import build, diagnostics, evaluate, loop
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms.fedga import FedGA
from fedjax_ls.train import use_compilation_cache

RATES = (0.1, 0.3, 1.0)
MULTIPLES = {
  'sequential': (0.0,),
  'large batch': (0.0,),
  'GradAlign': (0.5, 2.0, 4.0),
}  # beta over learning rate
SEEDS = (0, 1, 2, 3, 4)
CONFIG = pathlib.Path(__file__).parent.parent / 'configs/gradalign_digits.py'


def configuration(
  method: str, multiple: float, rate: float, seed: int
) -> fl.Config:
  """One point: of `MULTIPLES`, `RATES` and `SEEDS`."""
  aligned = method == 'GradAlign'
  config = commandline.load(f'{CONFIG}:{"fedga" if aligned else "fedavg"}')
  config.seed, config.client.learning_rate = seed, rate
  if aligned:
    config.algorithm = FedGA(multiple * rate, 'gradient')
  if method == 'sequential':
    updates = config.partition.num_clients  # of a round
    config.partition.num_clients, config.client.unit = 1, 'epochs'
    config.rounds //= updates
    config.eval_every //= updates
  return config


def sweep(
  configs: Sequence[fl.Config], workers: dict[int, build.Experiment]
) -> dict[str, np.ndarray]:
  """Runs P configurations of one structure as one program.

  Args:
    configs: they differ in numbers and seeds.
    workers: by seed, on whose mini-batches gradients are measured at the end.

  Returns:
    `{name: array}`: accuracy and loss on test and validation rows and the
    train loss, `[evaluations, P]`, and `variance[P]`, the mean of
    |g - g_i|^2 over the workers at the end.
  """
  # All but the numbers follows from the seed.
  made = {c.seed: build.prepare(c) for c in configs[: len(SEEDS)]}
  config, first = configs[0], made[configs[0].seed].job
  data = _stack([_data(c, made[c.seed]) for c in configs])
  state = _stack([made[c.seed].state for c in configs])

  def block(data, state):
    hyper, federation, tests = data
    state = round_lib.run_rounds(
      first.algorithm, hyper, federation, state, config.eval_every
    )
    return state, judged(first, hyper, federation, tests, state)

  program = jax.jit(jax.vmap(block), donate_argnums=1)
  curves = []
  for _ in range(config.rounds // config.eval_every):
    state, metrics = program(data, state)
    curves.append(jax.device_get(metrics))
  found = jax.tree.map(lambda *a: np.stack(a), *curves)
  at_end = [workers[c.seed] for c in configs]
  return found | {'variance': variances(at_end, state.server)}


def judged(
  job: loop.Job, hyper, federation, tests, state
) -> dict[str, jax.Array]:
  """Accuracy and loss on held-out rows, and the loss on train rows."""
  metrics = {}
  for split, rows in tests.items():
    found = evaluate.evaluate(
      job.algorithm, job.model, hyper, state, federation, rows
    )
    for name in ('accuracy', 'loss'):
      metrics[f'{split}/{name}'] = found[name]
  params, stats = job.algorithm.model(state.server)
  losses = evaluate.per_example(
    job.model, params, stats, federation.x, federation.y, 512
  )
  return metrics | {'train/loss': jnp.mean(losses['loss'])}


def variances(workers: Sequence[build.Experiment], server) -> np.ndarray:
  """`[P]` mean over the workers of |g - g_i|^2, at the servers' models."""
  job = workers[0].job

  def of(data, server, state):
    hyper, federation, tests = data
    state = state._replace(server=server)
    ids = jnp.arange(len(federation.size))
    seen = diagnostics.diagnose(
      job.algorithm, job.model, hyper, federation, state, tests['test'], ids
    )
    return jnp.mean(seen['gradient/distance'] ** 2)

  data = _stack([(w.job.hyper, w.job.federation, w.job.tests) for w in workers])
  states = _stack([w.state for w in workers])
  return np.asarray(jax.jit(jax.vmap(of))(data, server, states))


def study() -> gradalign_report.Study:
  """Runs all methods."""
  found = {}
  together = [configuration('large batch', 0.0, RATES[0], s) for s in SEEDS]
  workers = {c.seed: build.prepare(c) for c in together}
  for method, multiples in MULTIPLES.items():
    begin = time.perf_counter()
    points = itertools.product(multiples, RATES, SEEDS)
    arrays = sweep([configuration(method, *p) for p in points], workers)
    grid = (len(multiples), len(RATES), len(SEEDS))
    found[method] = {
      name: a.reshape(*a.shape[:-1], *grid) for name, a in arrays.items()
    }
    print(f'{method}: {time.perf_counter() - begin:.0f} s', flush=True)
  every = together[0].eval_every
  return gradalign_report.Study(found, MULTIPLES, RATES, len(SEEDS), every)


def main() -> None:
  """Runs the study and writes its table and figure."""
  use_compilation_cache()
  begin = time.perf_counter()
  made = study()
  folder = pathlib.Path(flags.FLAGS.out)
  folder.mkdir(parents=True, exist_ok=True)
  table = gradalign_report.table(made)
  (folder / 'table.md').write_text(table)
  gradalign_report.draw(made, folder / 'gradalign.png')
  print(f'{table}\n{time.perf_counter() - begin:.0f} s; {folder}')


def _data(config: fl.Config, made: build.Experiment) -> tuple[Any, Any, Any]:
  return build.numbers(config), made.job.federation, made.job.tests


def _stack(trees: list[Any]) -> Any:
  return jax.tree.map(lambda *a: jnp.stack(a), *trees)


if __name__ == '__main__':
  flags.DEFINE_string(
    'out', 'runs/gradalign', 'Folder for table.md and gradalign.png.'
  )
  commandline.run(main, needs_config=False)
