"""Where samples come from: one function per source, one line to register it.

A source maps a path to a `Dataset` of NumPy arrays on the host.  `load` checks
every data set alike, so that a source only has to read.
"""

import zipfile
from collections.abc import Callable
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
  """

  x_train: np.ndarray
  y_train: np.ndarray
  x_test: np.ndarray
  y_test: np.ndarray
  client_train: np.ndarray
  client_test: np.ndarray
  num_classes: int


NO_CLIENTS = np.zeros(0, np.int64)


def load(name: str, path: str = '') -> Dataset:
  """Reads and checks a data set.

  Args:
    name: a key of `SOURCES`, the field `data.name`.
    path: what the source reads, the field `data.path`.

  Returns:
    The data set.

  Raises:
    ValueError: one sentence on an unknown name, an unreadable file, a missing
      array, mismatched rows, NaN, or labels that are no class numbers.

  >>> load('digits').x_train.shape
  (1437, 8, 8, 1)
  """
  if name not in SOURCES:
    raise checks.unknown('data.name', name, SOURCES)
  return _checked(SOURCES[name](path))


def digits(path: str = '') -> dict[str, np.ndarray]:
  """Scikit-learn's bundled 8x8 digits, values in [0, 1], no download.

  The split of the 1797 images into 1437 and 360 is fixed and stratified:
  every fifth image of the shuffled classes, one after the other.
  """
  try:
    from sklearn import datasets
  except ImportError as error:
    raise ValueError(
      "data.name = 'digits' needs scikit-learn; "
      "install it with pip install 'fedjax_ls[run]'"
    ) from error
  x, y = datasets.load_digits(return_X_y=True)
  x = (x / 16).astype(np.float32).reshape(-1, 8, 8, 1)
  order = np.random.RandomState(0).permutation(len(y))
  order = order[np.argsort(y[order], kind='stable')]
  test = np.sort(order[::5])
  train = np.setdiff1d(order, test)
  return {
    'x_train': x[train],
    'y_train': y[train],
    'x_test': x[test],
    'y_test': y[test],
  }


def npz(path: str) -> dict[str, np.ndarray]:
  """One NumPy archive with x_train, y_train, x_test, y_test.

  `client_train` and `client_test`, integer owners of the rows, are optional.
  Images without a channel axis (`[N, H, W]`) gain one; class numbers stored
  as a column (`[N, 1]`) lose it.
  """
  arrays = read_arrays(
    'data.path',
    path,
    ('x_train', 'y_train', 'x_test', 'y_test'),
    ('client_train', 'client_test'),
  )
  for split in ('train', 'test'):
    x, y = arrays[f'x_{split}'], arrays[f'y_{split}']
    arrays[f'x_{split}'] = x[..., None] if x.ndim == 3 else x
    column = y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in 'iu'
    arrays[f'y_{split}'] = y[:, 0] if column else y
  return arrays


SOURCES: dict[str, Callable[[str], dict[str, np.ndarray]]] = {
  'digits': digits,
  'npz': npz,
}


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


def _checked(arrays: dict[str, np.ndarray]) -> Dataset:
  """The data set, after all checks and with int32 class numbers."""
  for split in ('train', 'test'):
    x, y = arrays[f'x_{split}'], arrays[f'y_{split}']
    checks.same_rows(f'x_{split}', x, f'y_{split}', y)
    checks.finite(f'x_{split}', x)
    checks.finite(f'y_{split}', y)
  x_train, x_test = arrays['x_train'], arrays['x_test']
  checks.same_kind('x_train', x_train, 'x_test', x_test)
  y_train, y_test, num_classes = _labels(arrays['y_train'], arrays['y_test'])
  return Dataset(
    x_train=x_train,
    y_train=y_train,
    x_test=x_test,
    y_test=y_test,
    client_train=_owners(arrays, 'train'),
    client_test=_owners(arrays, 'test'),
    num_classes=num_classes,
  )


def _labels(
  y_train: np.ndarray, y_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
  """Int32 class numbers and their count, or float targets and 0."""
  kinds = y_train.dtype.kind, y_test.dtype.kind
  checks.require(
    y_train.shape[1:] == y_test.shape[1:]
    and (kinds[0] == 'f') == (kinds[1] == 'f'),
    f'y_train is {y_train.dtype}{list(y_train.shape[1:])} a row but y_test '
    f'{y_test.dtype}{list(y_test.shape[1:])}; store both alike',
  )
  if kinds[0] == 'f':
    return y_train, y_test, 0
  num_classes = max(
    checks.count_classes('y_train', y_train),
    checks.count_classes('y_test', y_test),
  )
  for name, y in (('y_train', y_train), ('y_test', y_test)):
    checks.class_numbers(name, y, num_classes)
  return y_train.astype(np.int32), y_test.astype(np.int32), num_classes


def _owners(arrays: dict[str, np.ndarray], split: str) -> np.ndarray:
  """`[N]` int64 client ids of a split, `[0]` when the source has none."""
  name = f'client_{split}'
  owners = arrays.get(name, NO_CLIENTS)
  if not owners.size:
    return NO_CLIENTS
  checks.require(
    owners.dtype.kind in 'iu'
    and owners.shape == arrays[f'y_{split}'].shape[:1],
    f'{name} is {owners.dtype}{list(owners.shape)}; '
    f'store one integer for each of the {len(arrays[f"y_{split}"])} rows',
  )
  return owners.astype(np.int64)
