"""Table and figure of `experiments.gradalign`."""

import pathlib
from typing import NamedTuple

import numpy as np

# Okabe and Ito's palette, told apart by most colour-blind readers.
COLORS = {
  'sequential': '#D55E00',
  'large batch': '#0072B2',
  'GradAlign': '#009E73',
}


class Study(NamedTuple):
  """What was found.

  Attributes:
    found: `{method: {name: [(evaluations,) multiples, rates, seeds]}}`.
    multiples: of each method, beta over learning rate.
    rates: learning rates.
    num_seeds: number of seeds.
    eval_every: updates between evaluations.
  """

  found: dict[str, dict[str, np.ndarray]]
  multiples: dict[str, tuple[float, ...]]
  rates: tuple[float, ...]
  num_seeds: int
  eval_every: int


def best(study: Study, method: str) -> tuple[int, int]:
  """Multiple and rate with the best mean validation accuracy at the end."""
  accuracy = study.found[method]['validation/accuracy'][-1].mean(-1)
  i, j = np.unravel_index(np.argmax(accuracy), accuracy.shape)
  return int(i), int(j)


def table(study: Study) -> str:
  """Every point at its last update, a Markdown table; * is the chosen one."""
  lines = [
    '| updates by | beta / rate | rate | test accuracy % | validation accuracy '
    '% | test loss | train loss | mean of \\|g - g_i\\|^2 |',
    '|---|---|---|---|---|---|---|---|',
  ]
  for method, found in study.found.items():
    for i, multiple in enumerate(study.multiples[method]):
      for j, rate in enumerate(study.rates):
        mark = '*' if (i, j) == best(study, method) else ''
        cells = [
          _spread(100 * found[f'{split}/accuracy'][-1, i, j])
          for split in ('test', 'validation')
        ]
        cells += [
          f'{found[name][-1, i, j].mean():.4f}'
          for name in ('test/loss', 'train/loss')
        ]
        cells.append(f'{found["variance"][i, j].mean():.2g}')
        names = f'{method}{mark}', f'{multiple:g}', f'{rate:g}'
        lines.append('| ' + ' | '.join([*names, *cells]) + ' |')
  return '\n'.join(lines) + '\n'


def draw(study: Study, path: pathlib.Path) -> None:
  """Writes the PNG: accuracy over updates, test loss and variance over beta."""
  from matplotlib import figure

  fig = figure.Figure((10.0, 3.2), dpi=90, layout='constrained')
  left, middle, right = fig.subplots(1, 3)
  for method, found in study.found.items():
    i, j = best(study, method)
    accuracy = found['validation/accuracy'][:, i, j]
    updates = study.eval_every * (1 + np.arange(len(accuracy)))
    mean, std = accuracy.mean(1), accuracy.std(1)
    left.plot(updates, mean, color=COLORS[method], label=method)
    left.fill_between(
      updates, mean - std, mean + std, color=COLORS[method], alpha=0.15, lw=0
    )
  for j, rate in enumerate(study.rates):
    line = {'marker': '.', 'color': f'C{j}', 'label': f'rate {rate:g}'}
    _over_beta(middle, study, 'test/loss', j, line)
    _over_beta(right, study, 'variance', j, line)
  left.set(title='best rate and beta', xlabel='update', ylim=(0.9, 0.96))
  middle.set(title='GradAlign; dashed: sequential', xlabel='beta / rate')
  right.set(xlabel='beta / rate', yscale='log')
  right.set(title='GradAlign; dashed: sequential')
  left.set_ylabel('validation accuracy')
  middle.set_ylabel('test loss')
  right.set_ylabel('mean of |g - g_i|^2')
  for panel in (left, middle, right):
    panel.grid(alpha=0.3)
    panel.legend(fontsize='small')
  fig.savefig(path, format='png')


def _over_beta(panel, study: Study, name: str, j: int, line: dict) -> None:
  """Draws what large batches and GradAlign end with at learning rate j."""
  ends = {m: _ends(study, m, name)[:, j] for m in study.found}
  values = [*ends['large batch'], *ends['GradAlign']]
  panel.plot([0.0, *study.multiples['GradAlign']], values, **line)
  panel.axhline(ends['sequential'][0], color=line['color'], ls='--', lw=0.8)


def _ends(study: Study, method: str, name: str) -> np.ndarray:
  """`[multiples, rates]` means over the seeds after the last update."""
  values = study.found[method][name]
  return (values if name == 'variance' else values[-1]).mean(-1)


def _spread(values: np.ndarray) -> str:
  return f'{values.mean():.2f} +- {values.std():.2f}'
