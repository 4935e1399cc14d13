"""How much clients differ in their labels: numbers from class counts."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Skew(NamedTuple):
  """One number a client; NaN where a client has no rows.

  Attributes:
    rows: `[C]` number of labels (of rows, where a row has one).
    classes: `[C]` number of classes held.
    effective_classes: `[C]` exp of the entropy of the class shares: n for n
      equally frequent classes.
    total_variation: `[C]` `sum_y |p_c(y) - p(y)| / 2`, distance in [0, 1] to
      the class shares of all clients together; the earth mover's distance of
      Zhao et al. 2018 (https://arxiv.org/abs/1806.00582) is twice that.
  """

  rows: np.ndarray
  classes: np.ndarray
  effective_classes: np.ndarray
  total_variation: np.ndarray


def measure(counts: np.ndarray) -> Skew:
  """Measures the skew of a partition.

  Args:
    counts: `[C, Y]` class counts, from `statistics`.

  Returns:
    The numbers of each client.

  >>> skew = measure(np.array([[5, 5, 0, 0], [0, 0, 10, 0], [1, 1, 2, 0]]))
  >>> skew.effective_classes.round(3)
  array([2.   , 1.   , 2.828])
  >>> skew.total_variation.round(3)
  array([0.5, 0.5, 0. ])
  """
  rows = counts.sum(1)
  with np.errstate(invalid='ignore'):
    share = counts / rows[:, None]
  whole = counts.sum(0) / max(counts.sum(), 1)
  logs = np.log(np.where(share > 0, share, 1))
  return Skew(
    rows,
    (counts > 0).sum(1),
    np.exp(-(share * logs).sum(1)),
    np.abs(share - whole).sum(1) / 2,
  )


def table(skew: Skew, *, most: int = 50) -> str:
  """A table of the clients, and of their spread.

  Args:
    skew: from `measure`.
    most: beyond so many clients only the spread is shown.

  Returns:
    Lines of text.

  >>> print(table(measure(np.array([[3, 1], [0, 4]]))))
    client    rows  classes  effective    TV
         0       4        2       1.75  0.38
         1       4        1       1.00  0.38
       min       4        1       1.00  0.38
    median       4      1.5       1.38  0.38
      mean       4      1.5       1.38  0.38
       max       4        2       1.75  0.38
  """
  columns = [np.asarray(column, float) for column in skew]
  lines = [f'{"client":>8}{"rows":>8}{"classes":>9}{"effective":>11}{"TV":>6}']
  if len(skew.rows) <= most:
    lines += [
      _line(str(client), row)
      for client, row in enumerate(zip(*columns, strict=True))
    ]
  summaries: dict[str, Callable] = {
    'min': np.nanmin,
    'median': np.nanmedian,
    'mean': np.nanmean,
    'max': np.nanmax,
  }
  for name, summary in summaries.items():
    lines.append(_line(name, tuple(summary(column) for column in columns)))
  return '\n'.join(lines)


def _line(name: str, row: tuple[float, ...]) -> str:
  rows, classes, effective, distance = row
  return f'{name:>8}{rows:8.6g}{classes:9.3g}{effective:11.2f}{distance:6.2f}'
