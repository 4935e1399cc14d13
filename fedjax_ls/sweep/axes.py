"""What a swept field changes: numbers, arrays, or the program."""

import json
from typing import Any

from fedjax_ls import build
from fedjax_ls import config as config_lib
from fedjax_ls.config import Config
from fedjax_ls.sweep.point import METHOD, Point

NUMBER, DATA, STRUCTURE = 'number', 'data', 'structure'

# Fields that change what arrays hold, and perhaps their shapes, but nothing
# else about the program; groups end with a dot.
_DATA = (
  'seed', 'train_seed', 'model.seed', 'partition.', 'tiers.', 'data.alpha',
  'data.beta',
)  # fmt: skip


def kind(field: str, config: Config) -> str:
  """`number` (traced), `data` (in arrays) or `structure` (another program).

  >>> fields = 'client.momentum', 'seed', 'model.norm'
  >>> [kind(field, Config()) for field in fields]
  ['number', 'data', 'structure']
  """
  if field in numbers(config):
    return NUMBER
  return DATA if _among(field, _DATA) else STRUCTURE


def reason(field: str, config: Config) -> str:
  """Why a field is of its kind, for people."""
  sort = kind(field, config)
  if sort == NUMBER:
    return 'a number that the program takes as an argument'
  if sort == DATA:
    return 'seeds and clients, which are arrays'
  if field == METHOD:
    return 'another method is another program'
  value_type = config_lib.leaves(config)[field][0]
  if value_type is float:
    return 'a number that is part of the network or the data'
  name = getattr(value_type, '__name__', 'value')
  return f'{_ARTICLES.get(name, "a")} {name} that shapes the program'


def numbers(config: Config) -> set[str]:
  """Fields that are leaves of the settings that a round reads."""
  traced = list(build.settings(config))
  return {
    f'{group}.{field}'
    for group, value in vars(config).items()
    if any(value is settings for settings in traced)
    for field, (value_type, _) in config_lib.leaves(value).items()
    if value_type is float
  }


def structure(config: Config) -> str:
  """Text that is the same for configurations of one program."""
  free = numbers(config)
  kept = {
    field: value
    for field, (_, value) in config_lib.leaves(config).items()
    if field not in free and not _among(field, (*_DATA, 'writers.'))
  }
  return json.dumps([config_lib.method_name(config), kept], default=list)


def samples(config: Config) -> str:
  """Text that is the same for configurations with the same clients."""
  kept: dict[str, Any] = {
    field: value
    for field, (_, value) in config_lib.leaves(config).items()
    if _among(field, ('data.', 'partition.', 'tiers.'))
  }
  kept['partition.seed'] = config_lib.seeds(config)['partition']
  return json.dumps(kept, default=list)


def alone(config: Config) -> bool:
  """Whether a point runs by itself: host data, debugging, diagnostics."""
  execution = config.execution
  looked_at = config.diagnostics.every > 0
  return execution.data == 'host' or execution.debug or looked_at


def swept(points: list[Point]) -> dict[str, list[Any]]:
  """`{field: values}` of the fields in which points differ by their sweep."""
  values: dict[str, list[Any]] = {}
  for point in points:
    for field, value in point.settings.items():
      seen = values.setdefault(field, [])
      if value not in seen:
        seen.append(value)
  return values


def which(part: list[Point], points: list[Point]) -> str:
  """What sets one structure apart from the others of a study, for people."""
  config, settings = part[0].config, part[0].settings
  fields = [
    f'{field} = {settings[field]}'
    for field in swept(points)
    if field in settings and kind(field, config) == STRUCTURE
  ]
  return ': ' + ', '.join(fields) if fields else ''


_ARTICLES = {'int': 'an'}


def _among(field: str, names: tuple[str, ...]) -> bool:
  return any(
    field.startswith(name) if name.endswith('.') else field == name
    for name in names
  )
