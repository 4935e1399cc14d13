"""Samples on the host: the type, reading named arrays, the validation cut."""

import zipfile
from typing import NamedTuple

import numpy as np

from fedjax_ls.data import checks


class Dataset(NamedTuple):
  """Samples on the host.

  Attributes:
    x_train: `[N, ...]` inputs, dtype as stored (images stay uint8).
    y_train: `[N, ...]` int32 class numbers, or float targets.
    x_test: `[M, ...]` inputs of the central test set.
    y_test: `[M, ...]` their labels.
    client_train: `[N]` int64 owner of each row, `[0]` where there is none.
    client_test: `[M]` int64 owner of each test row, or `[0]`.
    num_classes: number of classes, 0 for float targets.
    left_out: clients of the source with too few samples to be used.
  """

  x_train: np.ndarray
  y_train: np.ndarray
  x_test: np.ndarray
  y_test: np.ndarray
  client_train: np.ndarray
  client_test: np.ndarray
  num_classes: int
  left_out: int = 0


NO_CLIENTS = np.zeros(0, np.int64)


def read_arrays(
  field: str, path: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
  """Reads named arrays of a NumPy archive.

  Args:
    field: the configuration field that holds `path`, for messages.
    path: file name.
    needed: arrays that must be there.
    optional: arrays that are read when they are there.

  Returns:
    The arrays found, by name.

  Raises:
    ValueError: the file is missing, unreadable, or lacks a needed array.
  """
  try:
    with open(path, 'rb') as file, np.load(file) as archive:
      stored = set(archive.files)
      names = [n for n in (*needed, *optional) if n in stored]
      arrays = {name: archive[name] for name in names}
  except FileNotFoundError as error:
    raise ValueError(
      f'{field} = {path!r} does not exist; give the path of an .npz file'
    ) from error
  except Exception as error:
    # zipfile, zlib, lzma and NumPy each have errors of their own here.
    detail = 'not a zip archive' if not _is_zip(path) else str(error)
    raise ValueError(
      f'{field} = {path!r} cannot be read as .npz ({detail}); '
      'write it again with numpy.savez'
    ) from error
  missing = [name for name in needed if name not in arrays]
  checks.require(
    not missing,
    f'{field} = {path!r} lacks {", ".join(missing)} '
    f'(it holds {", ".join(sorted(stored))}); add the missing arrays',
  )
  return arrays


def _is_zip(path: str) -> bool:
  try:
    return zipfile.is_zipfile(path)
  except OSError:
    return False


def split_validation(
  dataset: Dataset, fraction: float, seed: int
) -> tuple[Dataset, np.ndarray, np.ndarray]:
  """Cuts a validation set from the train rows.

  The cut is stratified by class where `y` holds one class number a row; a
  class or a client never loses its last train row.

  Args:
    dataset: the data set.
    fraction: share of the train rows, in [0, 1); the field `data.validation`.
    seed: seed of the shuffle.

  Returns:
    The data set without those rows, `x_val` and `y_val`.

  Raises:
    ValueError: the fraction is out of range or too small to take one row.
  """
  checks.require(
    0 <= fraction < 1,
    f'data.validation = {fraction} is out of range; choose it in [0, 1)',
  )
  y = dataset.y_train
  taken = np.zeros(len(y), bool)
  order = _spare_rows(dataset, np.random.RandomState(seed).permutation(len(y)))
  stratum = y if dataset.num_classes and y.ndim == 1 else np.zeros(len(y), int)
  for value, size in zip(*np.unique(stratum, return_counts=True), strict=True):
    wanted = min(int(fraction * size + 0.5), size - 1)
    taken[order[stratum[order] == value][:wanted]] = True
  checks.require(
    bool(taken.any()) or fraction == 0,
    f'data.validation = {fraction} takes none of {len(y)} rows; '
    'choose a larger share or 0',
  )
  owners = dataset.client_train
  rest = dataset._replace(
    x_train=dataset.x_train[~taken],
    y_train=y[~taken],
    client_train=owners[~taken] if len(owners) else owners,
  )
  return rest, dataset.x_train[taken], y[taken]


def _spare_rows(dataset: Dataset, order: np.ndarray) -> np.ndarray:
  """`order` without the first row of each client, which it must keep."""
  if not len(dataset.client_train):
    return order
  _, first = np.unique(dataset.client_train[order], return_index=True)
  return np.delete(order, first)
