"""The quickstart study: does normalization help when labels are skewed?

  python -m experiments.quickstart --workdir=runs/quickstart

Scikit-learn's digits, ten clients with one class each, a bias-free MLP
64-128-64-10 without norm, with feature normalization (FN) and with layer
normalization (LN); five client learning rates and three seeds.  The fifteen
points of one norm are one compiled program.  The same command again continues
what was stopped, or draws what is there.
"""

import pathlib
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

import fedjax_ls as fl
from experiments import commandline, quickstart_plots
from fedjax_ls import config, study, sweep
from fedjax_ls.train import use_compilation_cache

NORMS = ('none', 'fn', 'ln')
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
SEEDS = (0, 1, 2)
ROUNDS, EVAL_EVERY = 200, 10

_WORKDIR = flags.DEFINE_string(
  'workdir', 'runs/quickstart', 'Folder for the results.'
)


def points(rounds: int = ROUNDS) -> list[sweep.Point]:
  """Norms x learning rates x seeds."""
  base = fl.Config(
    rounds=rounds,
    eval_every=EVAL_EVERY,
    data=config.Data('digits'),
    partition=config.Partition('classes', num_clients=10, classes_per_client=1),
    model=config.Model('mlp', hidden=(128, 64), initializer='torch'),
    client=fl.Client(batch_size=32, amount=10),
  )
  grid = sweep.product(
    sweep.axis('model.norm', NORMS),
    sweep.axis('client.learning_rate', RATES),
    sweep.axis('seed', SEEDS),
  )
  return sweep.points(base, grid)


def curves(records: Sequence[study.Record]) -> dict[str, np.ndarray]:
  """Test accuracy `[evaluations, rates, seeds]` of each norm."""
  fields = ('model.norm', 'client.learning_rate', 'seed')
  found = {
    tuple(record.fields[field] for field in fields): [
      line[study.ACCURACY] for line in record.lines
    ]
    for record in records
  }
  return {
    norm: np.stack(
      [np.array([found[norm, r, s] for s in SEEDS]).T for r in RATES], axis=1
    )
    for norm in NORMS
  }


def grid(accuracy: dict[str, np.ndarray], at: int) -> str:
  """Norm x learning rate, mean +- standard deviation over seeds, in %."""
  rows = ['  norm ' + ''.join(f'{f"lr {rate:g}":>13}' for rate in RATES)]
  for norm, values in accuracy.items():
    cells = 100 * values[at // EVAL_EVERY - 1]
    rows.append(
      f'  {norm:<5}'
      + ''.join(f'{c.mean():7.1f} +- {c.std(ddof=1):<3.1f}' for c in cells)
    )
  return '\n'.join(rows)


def main() -> None:
  """Runs what is missing, then prints the grids and draws the plots."""
  folder = pathlib.Path(_WORKDIR.value)
  begin = time.perf_counter()
  commandline.use_cores()
  print(
    f'{__doc__.split(chr(10))[0]}\n'
    f'{len(NORMS)} norms, {len(RATES)} learning rates, {len(SEEDS)} seeds; '
    f'compiled programs are kept in {use_compilation_cache()}'
  )
  sweep.run(points(), folder)
  accuracy = curves(study.read(folder))
  for at in (20, ROUNDS):
    print(f'\nTest accuracy in % at round {at}, mean +- std of {len(SEEDS)}')
    print(grid(accuracy, at))
  pictures = quickstart_plots.draw(accuracy, RATES, EVAL_EVERY, folder)
  print(f'\n{time.perf_counter() - begin:.0f} s.  Pictures:')
  for picture in pictures:
    print(f'  {picture}')
  print(
    'Next: the tables, curves and spreads of this study on one page\n'
    f'  .venv/bin/python -m experiments.report --workdir={folder} '
    '--reference=norm=none\n'
    'one run, with its own files\n'
    '  .venv/bin/python -m experiments.run --config=configs/digits.py '
    '--workdir=runs/digits --config.model.norm=ln\n'
    'and another method: --config=configs/digits.py:scaffold'
  )


if __name__ == '__main__':
  commandline.run(main, needs_config=False, needs_workdir=False)
