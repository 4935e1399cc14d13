"""Pictures of diagnostics; matplotlib is imported when one is drawn."""

import pathlib
from typing import IO, Any

import numpy as np

Found = dict[str, np.ndarray]


def draw(found: dict[int, Found], folder: pathlib.Path) -> None:
  """Draws all there is to see of one run; nothing if there is nothing.

  Args:
    found: `{round: what diagnose returned}`.
    folder: where `diagnostics.png`, `spectra.png` and `class_accuracy.png` go.
  """
  if not found:
    return
  over_rounds(found, folder / 'diagnostics.png')
  lines = {f'round {now}': arrays for now, arrays in found.items()}
  spectra(lines, folder / 'spectra.png')
  last = found[max(found)]
  if 'global/accuracy' in last:
    class_accuracy(last, folder / 'class_accuracy.png')


def over_rounds(found: dict[int, Found], path: pathlib.Path) -> None:
  """Writes a PNG of effective rank, cosines, gradients and drift."""
  rounds = sorted(found)
  fig = _figure(7.0, 5.2)
  panels = fig.subplots(2, 2).flat
  for panel, (title, lines) in zip(panels, _PANELS.items(), strict=True):
    for label, value in lines.items():
      values = [value(found[now]) for now in rounds]
      panel.plot(rounds, values, marker='.', label=label)
    panel.set(title=title, xlabel='round')
    panel.grid(alpha=0.3)
    panel.legend()
  fig.savefig(path, format='png')


def spectra(lines: dict[str, Found], path: pathlib.Path | IO[bytes]) -> None:
  """Writes a PNG of singular values of feature covariances, on a log scale.

  Of the clients' models it shows the geometric mean.  What is lost in the
  rounding of float32, 1e-7 of the largest value, is left out.

  Args:
    lines: what was diagnosed, by label: rounds of a run, or several runs.
    path: the file, or one that is open.
  """
  from matplotlib import colormaps

  columns = min(len(lines), max(1, 110 // (8 + max(map(len, lines)))))
  fig = _figure(8.0, 3.4 + 0.2 * -(-len(lines) // columns))
  left, right = fig.subplots(1, 2, sharey=True)
  colors = colormaps['viridis'](np.linspace(0, 0.9, len(lines)))
  for color, (label, arrays) in zip(colors, lines.items(), strict=True):
    _spectrum(left, arrays['global/spectrum'], color, label)
    mean = _log_mean(arrays['client/spectrum'])
    _spectrum(right, mean, color, label)
  left.set(title='global model', ylabel='singular value', yscale='log')
  right.set(title='clients after local training')
  for panel in (left, right):
    panel.set(xlabel='number of the singular value')
    panel.grid(alpha=0.3)
  fig.legend(
    *right.get_legend_handles_labels(),
    loc='outside lower center', ncols=columns, fontsize='small', frameon=False,
  )  # fmt: skip
  fig.savefig(path, format='png')


def class_accuracy(arrays: Found, path: pathlib.Path) -> None:
  """Writes a PNG of each class's accuracy before and after local training."""
  fig = _figure(8.0, 1.5 + min(0.25 * len(arrays['ids']), 6.0))
  panels = fig.subplots(1, 2, sharey=True)
  names = {
    'before local training': 'client/accuracy_before',
    'after local training': 'client/accuracy',
  }
  for panel, (title, name) in zip(panels, names.items(), strict=True):
    image = panel.imshow(
      arrays[name], vmin=0, vmax=1, cmap='cividis', aspect='auto',
      interpolation='none',
    )  # fmt: skip
    panel.set(title=title, xlabel='class')
  count = len(arrays['ids'])
  at = range(0, count, -(-count // 20))
  panels[0].set_yticks(at, [str(arrays['ids'][i]) for i in at])
  panels[0].set_ylabel('client')
  fig.colorbar(image, ax=panels, label='accuracy')
  fig.savefig(path, format='png')


def mean_cosine(cosines: np.ndarray) -> float:
  """Mean of the pairs of different clients of `cosines[K, K]`.

  >>> print(mean_cosine(np.array([[1.0, 0.5], [0.5, 1.0]])))
  0.5
  """
  pairs = ~np.eye(len(cosines), dtype=bool)
  return float(cosines[pairs].mean()) if len(cosines) > 1 else np.nan


_PANELS: dict[str, dict[str, Any]] = {
  'effective rank of the features': {
    'global': lambda a: a['global/effective_rank'],
    'clients': lambda a: a['client/effective_rank'].mean(),
  },
  'mean cosine of pairs of clients': {
    'gradients': lambda a: mean_cosine(a['gradient/cosine']),
    'updates': lambda a: mean_cosine(a['update/cosine']),
  },
  'gradients of the clients': {
    '|g - g_i| / |g|': lambda a: a['gradient/ratio'].mean(),
  },
  'client drift': {'|y_i - x|': lambda a: a['client/drift'].mean()},
}


def _figure(width: float, height: float):
  from matplotlib import figure

  return figure.Figure((width, height), dpi=110, layout='constrained')


def _spectrum(panel, values: np.ndarray, color, label: str) -> None:
  shown = np.where(values > 1e-7 * values[0], values, np.nan)
  panel.plot(1 + np.arange(len(values)), shown, color=color, label=label)


def _log_mean(values: np.ndarray) -> np.ndarray:
  """Geometric mean over clients of `values[K, D]`, of those above zero."""
  positive = values > 0
  logs = np.log(np.where(positive, values, 1)).sum(0)
  count = positive.sum(0)
  return np.where(count > 0, np.exp(logs / np.maximum(count, 1)), 0)
