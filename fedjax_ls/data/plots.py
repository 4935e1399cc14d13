"""Pictures of a partition; matplotlib is imported when one is drawn."""

from typing import IO

import numpy as np

# Beyond this many, single clients cannot be read off a picture.
NAMED_CLIENTS = 50


def partition_heatmap(counts: np.ndarray, path: str | IO[bytes]) -> None:
  """Writes a PNG of how many rows of each class each client holds.

  More than 50 clients are sorted by their largest class, and by its share
  inside, so that neighbours look alike however small they are drawn.

  Args:
    counts: `[C, Y]` class counts, from `statistics`.
    path: name of the PNG file, or an open one.

  Raises:
    ValueError: matplotlib is not installed.
  """
  try:
    from matplotlib import colors, figure
  except ImportError as error:
    raise ValueError(
      'partition_heatmap needs matplotlib; '
      "install it with pip install 'fedjax_ls[run]'"
    ) from error
  num_clients, num_classes = counts.shape
  named = num_clients <= NAMED_CLIENTS
  if not named:
    counts = counts[_by_largest_class(counts)]
  # A bare Figure draws without a display and leaves pyplot's state alone.
  height = 1.5 + min(0.25 * num_clients, 7.0)
  fig = figure.Figure((4.0 + min(0.25 * num_classes, 7.0), height), dpi=120)
  axes = fig.add_subplot()
  # White is none, and a square root keeps few apart from many.
  image = axes.imshow(
    np.ma.masked_equal(counts, 0),
    cmap='cividis_r',
    norm=colors.PowerNorm(0.5, vmin=0, vmax=max(int(counts.max()), 1)),
    aspect='auto',
    interpolation='none',
  )
  axes.set_xlabel('class')
  axes.set_ylabel('client' if named else 'clients, sorted by largest class')
  axes.set_title(f'{num_clients} clients, {int(counts.sum())} rows')
  axes.set_xticks(_ticks(num_classes))
  axes.set_yticks(_ticks(num_clients) if named else [])
  fig.colorbar(image, ax=axes, label='rows')
  fig.savefig(path, format='png', bbox_inches='tight')


def _ticks(number: int) -> list[int]:
  """At most twenty of the numbers from 0, evenly spaced."""
  return list(range(0, number, -(-number // 20)))


def _by_largest_class(counts: np.ndarray) -> np.ndarray:
  """`[C]` clients in order of largest class, then of falling share in it."""
  share = counts.max(1) / np.maximum(counts.sum(1), 1)
  return np.lexsort((-share, counts.argmax(1)))
