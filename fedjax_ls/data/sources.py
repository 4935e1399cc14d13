"""Where samples come from: one function per source, one line to register it.

A source maps a path, and options of its own, to NumPy arrays on the host by
name: `x_train`, `y_train`, `x_test`, `y_test` and, where it has them,
`client_train`, `client_test`, `num_classes`, `left_out`.  `load` checks every
data set alike, so that a source only has to read.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from fedjax_ls.data import checks, leaf, pfllib, synthetic, text, tfds
from fedjax_ls.data.dataset import NO_CLIENTS, Dataset, read_arrays


def load(name: str, path: str = '', **options: Any) -> Dataset:
  """Reads and checks a data set.

  Args:
    name: a key of `SOURCES`, the field `data.name`; a source with variants
      takes one after a colon, such as `tfds:mnist`.
    path: what the source reads, the field `data.path`.
    **options: numbers and words that a source takes.  Each takes those that
      its signature names, and the others are for other sources: one group of
      settings serves all of them.

  Returns:
    The data set.

  Raises:
    ValueError: one sentence on an unknown name or option, an unreadable file,
      a missing array, mismatched rows, NaN, or labels that are no class
      numbers.

  >>> load('digits').x_train.shape
  (1437, 8, 8, 1)
  >>> load('synthetic', num_clients=3, alpha=1.0, beta=1.0).x_test.shape
  (253, 60)
  """
  source, _, variant = name.partition(':')
  if source not in SOURCES:
    raise checks.unknown('data.name', source, SOURCES)
  taken = inspect.signature(SOURCES[source]).parameters
  known = {
    option: None
    for function in SOURCES.values()
    for option in list(inspect.signature(function).parameters)[1:]
  }
  for option in options:
    if option not in known:
      raise checks.unknown('option of a source', option, known)
  if variant:
    checks.require(
      'variant' in taken,
      f'data.name = {name!r} names a variant but {source!r} has none; use '
      f'data.name = {source!r}',
    )
    options['variant'] = variant
  options = {k: value for k, value in options.items() if k in taken}
  return _checked(SOURCES[source](path, **options))


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


SOURCES: dict[str, Callable[..., dict[str, Any]]] = {
  'digits': digits,
  'npz': npz,
  'tfds': tfds.read,
  'leaf': leaf.read,
  'text': text.read,
  'synthetic': synthetic.draw,
  'pfllib': pfllib.read,
}


def _checked(arrays: dict[str, Any]) -> Dataset:
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
    # A source may know of classes that no row happens to have.
    num_classes=max(num_classes, arrays.get('num_classes', 0)),
    left_out=arrays.get('left_out', 0),
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


def _owners(arrays: dict[str, Any], split: str) -> np.ndarray:
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
