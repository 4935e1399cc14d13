"""Sweeps as values: lists of settings, and what is made of them.

A sweep is a list of settings `{dotted field: value}`, one a point.  `axis`
makes one from the values of a field; `product`, `zip_` and `chain` combine
sweeps.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from fedjax_ls.config import ConfigError

Settings = dict[str, Any]
Sweep = list[Settings]


def axis(field: str, values: Sequence[Any]) -> Sweep:
  """One point for each value of a field.

  Raises:
    ConfigError: there are no values, or one is there twice.

  >>> axis('seed', (0, 1))
  [{'seed': 0}, {'seed': 1}]
  """
  values = list(values)
  if not values:
    raise ConfigError(f'the sweep over {field} has no values; give some')
  for i, value in enumerate(values):
    if value in values[:i]:
      raise ConfigError(
        f'the sweep over {field} has {value!r} twice; leave one out'
      )
  return [{field: value} for value in values]


def product(*sweeps: Sweep) -> Sweep:
  """Every combination of points, the last sweep running fastest.

  Raises:
    ConfigError: two sweeps set the same field.

  >>> product(axis('seed', (0, 1)), axis('rounds', (5, 9)))
  ... # doctest: +NORMALIZE_WHITESPACE
  [{'seed': 0, 'rounds': 5}, {'seed': 0, 'rounds': 9},
   {'seed': 1, 'rounds': 5}, {'seed': 1, 'rounds': 9}]
  """
  return [_merged(parts) for parts in itertools.product(*sweeps)]


def zip_(*sweeps: Sweep) -> Sweep:
  """The first points together, the second points together, and so on.

  Raises:
    ConfigError: the sweeps have different lengths, or set the same field.

  >>> zip_(axis('client.amount', (1, 5)), axis('client.batch_size', (50, 10)))
  ... # doctest: +NORMALIZE_WHITESPACE
  [{'client.amount': 1, 'client.batch_size': 50},
   {'client.amount': 5, 'client.batch_size': 10}]
  """
  lengths = [len(sweep) for sweep in sweeps]
  if len(set(lengths)) > 1:
    raise ConfigError(
      f'sweeps of {", ".join(map(str, lengths))} points cannot be zipped; give '
      'them the same length'
    )
  return [_merged(parts) for parts in zip(*sweeps, strict=True)]


def chain(*sweeps: Sweep) -> Sweep:
  """The points of one sweep after those of the other, each once.

  >>> chain(axis('seed', (0, 1)), axis('seed', (1, 2)))
  [{'seed': 0}, {'seed': 1}, {'seed': 2}]
  """
  points: Sweep = []
  for point in itertools.chain(*sweeps):
    if point not in points:
      points.append(point)
  return points


def _merged(parts: Sequence[Settings]) -> Settings:
  merged: Settings = {}
  for part in parts:
    for field in part:
      if field in merged:
        raise ConfigError(
          f'{field} is in two sweeps that are combined; leave it out of one'
        )
    merged |= part
  return merged
