"""Each method as a plain loop in NumPy, found by the method's name."""

import importlib
import pkgutil

from tests.oracles.base import (
  ROUNDS,
  Data,
  forward,
  gradient,
  loss,
  mean,
  weights_of,
)

__all__ = [
  'ORACLES',
  'ROUNDS',
  'Data',
  'forward',
  'gradient',
  'loss',
  'mean',
  'weights_of',
]

_names = [m.name for m in pkgutil.iter_modules(__path__) if m.name != 'base']
ORACLES = {
  name: importlib.import_module(f'{__name__}.{name}').oracle for name in _names
}
