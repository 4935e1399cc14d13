"""Pictures of the quickstart study."""

import pathlib
from collections.abc import Sequence

import numpy as np

TITLES = {'none': 'no norm', 'fn': 'FN', 'ln': 'LN'}
# Okabe and Ito's palette, told apart by most colour-blind readers.
COLORS = {'none': '#D55E00', 'fn': '#0072B2', 'ln': '#009E73'}
MARKERS = {'none': 'o', 'fn': 's', 'ln': '^'}


def draw(
  curves: dict[str, np.ndarray],
  rates: Sequence[float],
  eval_every: int,
  folder: pathlib.Path,
) -> list[pathlib.Path]:
  """Draws both pictures.

  Args:
    curves: `{norm: accuracy [evaluations, rates, seeds]}`.
    rates: client learning rates.
    eval_every: rounds between evaluations.
    folder: where the PNG files go.

  Returns:
    Their paths.
  """
  import matplotlib

  matplotlib.use('Agg')
  return [
    _learning_curves(curves, rates, eval_every, folder),
    _over_learning_rates(curves, rates, eval_every, folder),
  ]


def _learning_curves(curves, rates, eval_every, folder):
  from matplotlib import colormaps
  from matplotlib import pyplot as plt

  figure, panels = plt.subplots(
    1, len(curves), figsize=(11, 3.6), sharey=True, layout='constrained'
  )
  colors = colormaps['viridis'](np.linspace(0, 0.9, len(rates)))
  for panel, (norm, accuracy) in zip(panels, curves.items(), strict=True):
    rounds = eval_every * (1 + np.arange(len(accuracy)))
    for i, rate in enumerate(rates):
      mean, std = accuracy[:, i].mean(1), accuracy[:, i].std(1, ddof=1)
      panel.plot(rounds, mean, color=colors[i], label=f'{rate:g}')
      panel.fill_between(
        rounds, mean - std, mean + std, color=colors[i], alpha=0.2, lw=0
      )
    panel.set(title=TITLES[norm], xlabel='round', ylim=(0, 1))
    panel.grid(alpha=0.3)
  panels[0].set_ylabel('test accuracy')
  panels[-1].legend(title='client learning rate', loc='lower right')
  return _saved(figure, folder / 'learning_curves.png')


def _over_learning_rates(curves, rates, eval_every, folder):
  from matplotlib import pyplot as plt

  some = next(iter(curves.values()))
  stops = [20, eval_every * len(some)]
  figure, panels = plt.subplots(
    1, 2, figsize=(8, 3.6), sharey=True, layout='constrained'
  )
  for panel, stop in zip(panels, stops, strict=True):
    for norm, accuracy in curves.items():
      at = accuracy[stop // eval_every - 1]
      panel.errorbar(
        rates, at.mean(1), at.std(1, ddof=1), color=COLORS[norm], capsize=3,
        marker=MARKERS[norm], label=TITLES[norm],
      )  # fmt: skip
    panel.set(
      title=f'round {stop}', xscale='log', xlabel='client learning rate',
      ylim=(0, 1),
    )  # fmt: skip
    panel.grid(alpha=0.3)
  panels[0].set_ylabel('test accuracy')
  panels[-1].legend(loc='lower right')
  return _saved(figure, folder / 'accuracy_over_learning_rate.png')


def _saved(figure, path: pathlib.Path) -> pathlib.Path:
  from matplotlib import pyplot as plt

  figure.savefig(path, dpi=150)
  plt.close(figure)
  return path
