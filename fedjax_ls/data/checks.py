"""One-sentence errors shared by the data files: field, value, fix."""

import difflib
from collections.abc import Iterable

import numpy as np


def unknown(field: str, value: object, names: Iterable[str]) -> ValueError:
  """The error for a name that is none of `names`, with the nearest one.

  >>> print(unknown('data.name', 'digit', ['digits', 'npz']))
  data.name = 'digit' is unknown; did you mean 'digits'? (digits, npz)
  """
  names = list(names)
  near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.0)
  return ValueError(
    f'{field} = {value!r} is unknown; did you mean {near[0]!r}? '
    f'({", ".join(names)})'
  )


def require(good: bool, sentence: str) -> None:
  """Raises ValueError(`sentence`) unless `good`."""
  if not good:
    raise ValueError(sentence)


def finite(name: str, x: np.ndarray) -> None:
  """Refuses dtypes that are no numbers, NaN and infinity.

  Args:
    name: what the array is called in the message.
    x: `[N, ...]` array.

  Raises:
    ValueError: naming the dtype, or the first row with such an element.
  """
  require(
    x.dtype.kind in 'buif',
    f'{name} has dtype {x.dtype}; store real numbers',
  )
  if x.dtype.kind != 'f':
    return
  good = np.isfinite(x).reshape(len(x), -1).all(1)
  require(
    bool(good.all()),
    f'{name} holds NaN or infinity, first in row {np.argmin(good)}; '
    'drop or impute such rows',
  )


def same_rows(x_name: str, x: np.ndarray, y_name: str, y: np.ndarray) -> None:
  """Refuses arrays without rows or with different numbers of rows."""
  require(
    x.ndim > 0 and y.ndim > 0 and len(x) > 0,
    f'{x_name} has shape {x.shape} and {y_name} {y.shape}; '
    'the first axis counts rows and needs at least one',
  )
  require(
    len(x) == len(y),
    f'{x_name} has {len(x)} rows but {y_name} has {len(y)}; '
    'give one label per row',
  )


def same_kind(a_name: str, a: np.ndarray, b_name: str, b: np.ndarray) -> None:
  """Refuses arrays whose rows differ in shape or are numbers of two kinds.

  A network scales bytes (uint8) to [0, 1] and takes other numbers as they are.
  """
  require(
    a.shape[1:] == b.shape[1:],
    f'{a_name} rows have shape {a.shape[1:]} but {b_name} rows {b.shape[1:]}; '
    'store both alike',
  )
  a_type, b_type = np.dtype(a.dtype), np.dtype(b.dtype)
  require(
    a_type.kind == b_type.kind and (a_type == np.uint8) == (b_type == np.uint8),
    f'{a_name} has dtype {a_type} but {b_name} {b_type}; store both alike',
  )


def count_classes(name: str, y: np.ndarray) -> int:
  """Number of classes, the largest class number and one more.

  Raises:
    ValueError: it is far more than there are labels.
  """
  num_classes = int(y.max()) + 1
  require(
    num_classes <= max(y.size, 1000),
    f'{name} has class numbers up to {num_classes - 1} in {len(y)} rows; '
    'number the classes from 0, without gaps',
  )
  return num_classes


def class_numbers(name: str, y: np.ndarray, num_classes: int) -> None:
  """Refuses class numbers outside `[0, num_classes)`, naming the first row.

  Args:
    name: what the array is called in the message.
    y: `[N, ...]` integer array.
    num_classes: number of classes.

  Raises:
    ValueError: at the first row with a label out of range.
  """
  bad = ((y < 0) | (y >= num_classes)).reshape(len(y), -1).any(1)
  row = int(np.argmax(bad))
  require(
    not bad.any(),
    f'{name} row {row} is {y[row].tolist()}, outside 0..{num_classes - 1}; '
    'number the classes from 0',
  )
