"""How the time of a round grows: with cohort, clients, parameters, devices.

Command: python -m experiments.benchmarks.growth
Time: two minutes on 2 CPU cores.

Measures FedAvg rounds of an MLP on random pixels and draws one figure each
into --folder, with the numbers next to them.  Virtual CPU devices share the
machine's cores: beyond the number of cores they can gain nothing.
"""

import os
import pathlib

import numpy as np
from absl import app

from experiments.benchmarks import harness, problems, sides

SECONDS = 2.0  # to spend on each point, about

Point = tuple[float, float]

LABELS = {
  'cohort': 'clients of a cohort',
  'clients': 'clients in all, cohorts of 10',
  'parameters': 'parameters of the model, cohorts of 10',
  'devices': 'virtual devices on {cores} cores, cohorts of 64',
}


def problem(num_clients: int, hidden: int) -> problems.Problem:
  """MNIST-like clients of 20 examples and an MLP with one hidden layer."""
  return problems.PROBLEMS['mnist_lr']._replace(
    net=('mlp', {'hidden': (hidden,)}),
    num_clients=num_clients,
    mean_size=20,
    partition=('iid', {}),
  )


def start(num_clients: int, hidden: int, cohort: int, devices: int):
  """One point's rounds, in a process of its own; see `harness.Side`."""
  import jax

  jax.config.update('jax_num_cpu_devices', devices)
  made = problem(num_clients, hidden)
  table = problems.cohorts(num_clients, cohort, 20)
  data = problems.federation(made)
  return sides.rounds_of(made, data, table, 1, devices)


def parameters(hidden: int) -> int:
  """Number of parameters of `problem`'s network."""
  return (784 + 1) * hidden + (hidden + 1) * 10


def measure(seconds: float) -> dict[str, list[Point]]:
  """`{what grows: [(how much, seconds of a round)]}`, each curve in turns."""
  grid = {
    'cohort': {k: (1024, 32, k, 1) for k in (1, 4, 16, 64, 256, 1024)},
    'clients': {c: (c, 32, 10, 1) for c in (10, 100, 1000, 10_000, 50_000)},
    'parameters': {
      parameters(h): (100, h, 10, 1) for h in (1, 8, 64, 512, 4096)
    },
    'devices': {d: (64, 256, 64, d) for d in (1, 2, 4, 8)},
  }
  return {name: _curve(points, seconds) for name, points in grid.items()}


def draw(
  measured: dict[str, list[Point]], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Draws one figure each; returns their paths."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  paths = []
  for name, points in measured.items():
    figure, axes = pyplot.subplots(figsize=(4.5, 3.2), layout='constrained')
    x, y = np.array(points).T
    axes.plot(x, y, 'o-', color='#0072B2')
    axes.set_xscale('log', base=2 if x.max() < 100 else 10)
    if y.max() > 10 * y.min():
      axes.set_yscale('log')
    else:
      axes.set_ylim(0)
    axes.set_xlabel(LABELS[name].format(cores=os.cpu_count()))
    axes.set_ylabel('seconds of a round')
    axes.grid(alpha=0.3, which='both')
    path = folder / f'{name}.png'
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    paths.append(path)
  return paths


def _curve(points: dict[int, tuple], seconds: float) -> list[Point]:
  curve = []
  for x, args in points.items():
    side = harness.Side(start, *args)
    timed = harness.compare({'': side}, args[2], seconds)['']
    side.close()
    print(f'{x:>10} {timed.seconds:.5f} s', flush=True)
    curve.append((float(x), timed.seconds))
  return curve


def main(argv) -> None:
  del argv
  folder = pathlib.Path(harness.FOLDER.value)
  measured = measure(SECONDS)
  content = {'machine': harness.machine(), 'seconds_of_a_round': measured}
  harness.write(folder / 'growth.json', content)
  for path in draw(measured, folder):
    print(f'drawn to {path}')


if __name__ == '__main__':
  app.run(main)
