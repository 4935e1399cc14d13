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
