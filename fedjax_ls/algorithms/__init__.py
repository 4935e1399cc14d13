"""Methods of federated learning, one file each, found by discovery."""

import difflib
import importlib
import pkgutil

from fedjax_ls.algorithms.base import Identity, Method, Parts

__all__ = ['METHODS', 'Identity', 'Method', 'Parts', 'find']


def _discover() -> dict[str, Method]:
  names = (m.name for m in pkgutil.iter_modules(__path__))
  modules = (importlib.import_module(f'{__name__}.{n}') for n in names)
  methods = (m.METHOD for m in modules if hasattr(m, 'METHOD'))
  return {method.name: method for method in methods}


METHODS = _discover()


def find(name: str) -> Method:
  """The method called `name`.

  Raises:
    ValueError: there is none; names the nearest.
  """
  if name in METHODS:
    return METHODS[name]
  near = difflib.get_close_matches(name, METHODS, 1, 0)
  raise ValueError(
    f'method {name!r} is unknown; did you mean {near[0]!r}? There are: '
    f'{", ".join(METHODS)}.'
  )
