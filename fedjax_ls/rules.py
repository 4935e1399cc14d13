"""Ranges of numbers: a test of the value, and the fix that an error names."""

from collections.abc import Callable
from typing import Any

Rule = tuple[Callable[[Any], bool], str]

COUNT: Rule = (lambda v: v >= 1, 'choose 1 or more')
NOT_NEGATIVE: Rule = (lambda v: v >= 0, 'choose 0 or more')
POSITIVE: Rule = (lambda v: v > 0, 'choose a number above 0')
FRACTION: Rule = (lambda v: 0 <= v <= 1, 'choose it in [0, 1]')
FACTOR: Rule = (lambda v: 0 < v <= 1, 'choose it in (0, 1]')
SHARE: Rule = (lambda v: 0 <= v < 1, 'choose it in [0, 1)')
SEED: Rule = (lambda v: 0 <= v < 2**32, 'choose 0 to 4294967295')
OWN_SEED: Rule = (
  lambda v: -1 <= v < 2**32,
  'choose 0 to 4294967295, or -1 to follow seed',
)
SPEEDS: Rule = (
  lambda v: all(speed > 0 for speed in v),
  'give numbers above 0, one a tier or one for all',
)


def one_of(*names: str) -> Rule:
  """The rule of a value that is one of a few names."""
  return (lambda v: v in names, f'choose {" or ".join(names)}')
