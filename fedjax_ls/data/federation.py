"""Samples and who owns them, as arrays: what a round trains on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_ls.data import checks

Array = Any  # numpy.ndarray, jax.Array or a tracer


class Federation(NamedTuple):
  """All samples and who owns them; always an argument of the program.

  Closing over the samples instead would make them constants, which takes
  seconds to compile.

  Attributes:
    x: `[N, ...]` inputs of any dtype.
    y: `[N, ...]` int32 class numbers, or float targets.
    index: `[C, L]` int32 rows of each client, the first `size` valid, then
      the client's own first row over and over (row 0 without any).
    size: `[C]` int32 number of rows.
    labels: `[C, Y]` int32 counts of the classes, `[C, 0]` for float targets.
    tier: `[C]` int32 resource tier of each client.
  """

  x: Array
  y: Array
  index: Array
  size: Array
  labels: Array
  tier: Array

  @property
  def num_clients(self) -> int:
    """Number of clients C."""
    return self.size.shape[0]


def federate(
  x: np.ndarray,
  y: np.ndarray,
  parts: Sequence[np.ndarray],
  *,
  num_classes: int | None = None,
  tier: np.ndarray | None = None,
  allow_empty: bool = False,
) -> Federation:
  """Builds the federation of NumPy arrays from samples and a partition.

  Args:
    x: `[N, ...]` inputs of any dtype.
    y: `[N, ...]` class numbers, or float targets.
    parts: rows of every client, such as `Partition.train`.
    num_classes: number of classes Y, `max(y) + 1` when left out.
    tier: `[C]` integer resource tier of each client, zeros when left out.
    allow_empty: whether a client may be without rows, as in a test set.

  Returns:
    The federation; `jax.device_put` moves it to a device.

  Raises:
    ValueError: mismatched rows, NaN, a label or a row number out of range, or
      a client without rows unless allowed, naming it.

  >>> federation = federate(np.ones((3, 2)), np.array([0, 1, 1]), [[0], [1, 2]])
  >>> federation.index
  array([[0, 0],
         [1, 2]], dtype=int32)
  >>> federation.labels
  array([[1, 0],
         [0, 2]], dtype=int32)
  """
  x, y = np.asarray(x), np.asarray(y)
  checks.same_rows('x', x, 'y', y)
  checks.finite('x', x)
  checks.finite('y', y)
  parts = [np.asarray(p) if len(p) else np.zeros(0, int) for p in parts]
  size = _sizes(parts, len(x), allow_empty)
  num_clients = len(size)
  tier = np.zeros(num_clients) if tier is None else np.asarray(tier)
  checks.require(
    tier.shape == (num_clients,),
    f'tier has shape {tier.shape}; give one tier for each of the '
    f'{num_clients} clients',
  )
  if y.dtype.kind != 'f':
    if num_classes is None:
      num_classes = checks.count_classes('y', y)
    checks.class_numbers('y', y, num_classes)
    y = y.astype(np.int32)
  return Federation(
    x=x,
    y=y,
    index=_index(parts, size),
    size=size,
    labels=_labels(y, parts, size, num_classes or 0),
    tier=tier.astype(np.int32),
  )


def _sizes(
  parts: Sequence[np.ndarray], num_rows: int, allow_empty: bool
) -> np.ndarray:
  """`[C]` sizes, after checking that all rows exist."""
  checks.require(
    len(parts) > 0, 'parts = [] has no client; give rows of at least one'
  )
  for client, part in enumerate(parts):
    checks.require(
      allow_empty or len(part) > 0,
      f'client {client} has no rows; give it some or leave it out',
    )
    if not len(part):
      continue
    checks.require(
      part.dtype.kind in 'iu' and part.ndim == 1,
      f'client {client} has rows {part.dtype}{list(part.shape)}; '
      'give row numbers, integers in one dimension',
    )
    checks.require(
      part.min() >= 0 and part.max() < num_rows,
      f'client {client} has row numbers {part.min()}..{part.max()}; '
      f'keep them in 0..{num_rows - 1}',
    )
  return np.array([len(part) for part in parts], np.int32)


def _index(parts: Sequence[np.ndarray], size: np.ndarray) -> np.ndarray:
  """`[C, L]` rows, padded with each client's first (0 without any)."""
  index = np.empty((len(parts), max(size.max(), 1)), np.int32)
  index[:] = [[part[0] if len(part) else 0] for part in parts]
  index[np.arange(index.shape[1]) < size[:, None]] = np.concatenate(parts)
  return index


def _labels(
  y: np.ndarray,
  parts: Sequence[np.ndarray],
  size: np.ndarray,
  num_classes: int,
) -> np.ndarray:
  """`[C, Y]` class counts; a row of several labels counts each of them."""
  shape = len(size), num_classes
  if y.dtype.kind == 'f':
    return np.zeros((len(size), 0), np.int32)
  labels = y[np.concatenate(parts)].reshape(
    int(size.sum()), math.prod(y.shape[1:])
  )
  client = np.repeat(np.arange(len(size)), size)[:, None]
  cell = (client * num_classes + labels).ravel()
  counts = np.bincount(cell, minlength=shape[0] * shape[1])
  return counts.reshape(shape).astype(np.int32)
