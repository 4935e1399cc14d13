"""Who owns which row: a partition of a data set over clients, and its file.

A partition is made once, on the host, from a NumPy `RandomState` (whose
streams are frozen across NumPy versions), so that a seed means the same
clients on every machine.  Internally each kind decides one number a train
row, its owner; the test set is cut so that every client's share of a class is
the same as in the train set.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjax_ls.data import checks, deal
from fedjax_ls.data.dataset import read_arrays


class Partition(NamedTuple):
  """Rows of every client.

  Attributes:
    train: one ascending int64 array of train rows a client, none empty.
    test: one ascending int64 array of test rows a client, may be empty.
  """

  train: list[np.ndarray]
  test: list[np.ndarray]

  @property
  def hash(self) -> str:
    """Sha256 (hex) of who owns what; a file's name or time do not enter.

    >>> Partition([np.array([0, 2]), np.array([1])], []).hash[:8]
    '972fc409'
    """
    digest = hashlib.sha256()
    for array in self._arrays().values():
      digest.update(np.int64(len(array)).astype('<i8').tobytes())
      digest.update(array.astype('<i8').tobytes())
    return digest.hexdigest()

  def save(self, path: str) -> None:
    """Writes the partition as an .npz file of four int64 arrays."""
    with open(path, 'wb') as file:
      np.savez(file, **self._arrays())  # type: ignore[arg-type]

  @classmethod
  def load(cls, path: str) -> 'Partition':
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is missing, unreadable or no partition.
    """
    names = [f'{s}_{a}' for s in ('train', 'test') for a in ('rows', 'offsets')]
    arrays = read_arrays('partition file', path, tuple(names))
    train, test = (
      np.split(arrays[f'{split}_rows'], arrays[f'{split}_offsets'][1:])[:-1]
      for split in ('train', 'test')
    )
    return cls(train, test)

  def _arrays(self) -> dict[str, np.ndarray]:
    """Rows of all clients in a line, and where each client's begin."""
    arrays = {}
    for split, parts in (('train', self.train), ('test', self.test)):
      rows = np.concatenate(parts) if parts else np.zeros(0)
      offsets = np.cumsum([0, *map(len, parts)])
      arrays[f'{split}_rows'] = rows.astype(np.int64)
      arrays[f'{split}_offsets'] = offsets.astype(np.int64)
    return arrays


def statistics(
  parts: Sequence[np.ndarray], y: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts every client's classes.

  Args:
    parts: rows of every client, `Partition.train` or `Partition.test`.
    y: `[N, ...]` class numbers; a row of several labels counts each of them.
    num_classes: number of classes Y.

  Returns:
    `[C, Y]` int64 counts.

  >>> statistics([np.array([0, 1]), np.array([2])], np.array([1, 1, 0]), 2)
  array([[0, 2],
         [1, 0]])
  """
  size = [len(part) for part in parts]
  owner = np.repeat(np.arange(len(parts)), size)
  owner = owner.repeat(math.prod(y.shape[1:]))
  labels = y[np.concatenate(parts)].ravel()
  return deal.count(owner, labels, len(parts), num_classes)


def cut_alike(
  counts: np.ndarray, y_test: np.ndarray | None, rng: np.random.RandomState
) -> list[np.ndarray]:
  """Test rows of every client, in proportion to its train `counts`.

  Test rows of a class that nobody trains on are left out.
  """
  if y_test is None:
    return [np.zeros(0, np.int64) for _ in counts]
  rows = np.bincount(y_test, minlength=counts.shape[1])[: counts.shape[1]]
  return deal.group(
    deal.owners(y_test, deal.shares(counts, rows), rng), len(counts)
  )


def check_clients(num_clients: int, num_rows: int) -> None:
  """Refuses more clients than rows, and none."""
  checks.require(
    1 <= num_clients <= num_rows,
    f'partition.num_clients = {num_clients} is impossible with {num_rows} '
    f'train rows; choose 1..{num_rows}',
  )


def check_class_numbers(kind: str, y: np.ndarray) -> None:
  """Refuses targets that are not one class number a row."""
  checks.require(
    y.dtype.kind in 'iu' and y.ndim == 1 and bool((y >= 0).all()),
    f'partition.kind = {kind!r} needs one class number a row but y is '
    f'{y.dtype}{list(y.shape)}; choose iid or natural',
  )
