"""From a sweep to the configurations of its points, and back from text."""

import copy
import hashlib
import json
import re
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_ls import algorithms
from fedjax_ls import config as config_lib
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.sweep.algebra import Settings, Sweep, axis, chain, product
from fedjax_ls.validate import validate

OfMethod = Callable[[str], Config]

# The field that names the method; its settings are a group of its own.
METHOD = 'algorithm'


class Point(NamedTuple):
  """One run of a study.

  Attributes:
    settings: what the sweep sets.
    config: the whole configuration, valid.
    name: of its folder; the settings and a hash of the configuration.
  """

  settings: Settings
  config: Config
  name: str

  @property
  def id(self) -> str:
    """The hash at the end of the name."""
    return self.name.rpartition('-')[2]


def points(
  base: Config, sweep: Sweep, of_method: OfMethod | None = None
) -> list[Point]:
  """The points of a sweep, those of equal configurations once.

  Args:
    base: where a point starts from.
    sweep: what each point sets; `algorithm` is the name of a method.
    of_method: the configuration that a point of another method than `base`'s
      starts from; `base` with that method's defaults if left out.

  Returns:
    The points, in the order of the sweep.

  Raises:
    ConfigError: a field is unknown, or a value wrong.

  >>> for point in points(Config(), axis('client.learning_rate', (0.1, 0.2))):
  ...   print(point.name)
  learning_rate=0.1-d47615f5e4
  learning_rate=0.2-c647493342
  """
  found: dict[str, Point] = {}
  for settings in sweep:
    config = validate(_configured(base, settings, of_method))
    config.writers.plots = False  # nobody looks at hundreds of pictures
    digest = _digest(config)
    if digest not in found:
      name = f'{_slug(settings)}-{digest}'
      found[digest] = Point(settings, config, name)
  return list(found.values())


def parse(text: str, base: Config) -> Sweep:
  """A sweep from text, such as `client.learning_rate=0.1,0.3;seed=0,1,2`.

  Fields are separated by `;` and combine as a product; `|` chains sweeps.
  Lists are written in parentheses, `model.hidden=(64,),(128,64)`.

  Args:
    text: the sweep.
    base: a configuration, for the types of its fields.

  Raises:
    ConfigError: the text, or the name of a field, is wrong.

  >>> parse('client.amount=1,5|algorithm=fedga;algorithm.beta=1', Config())
  ... # doctest: +NORMALIZE_WHITESPACE
  [{'client.amount': 1}, {'client.amount': 5},
   {'algorithm': 'fedga', 'algorithm.beta': 1.0}]
  """
  return chain(*(_parse_product(part, base) for part in text.split('|')))


def _parse_product(text: str, base: Config) -> Sweep:
  given = [_split_field(part) for part in text.split(';')]
  known = config_lib.leaves(base)
  for field, values in given:
    if field == METHOD:
      for name in values:
        method = config_lib.as_config_error(algorithms.find, name)
        fields = config_lib.leaves(method.settings(), f'{METHOD}.')
        known = {**fields, **known}
  axes = []
  for field, values in given:
    if field != METHOD and field not in known:
      raise config_lib.unknown_field(field, known)
    kind = str if field == METHOD else known[field][0]
    axes.append(axis(field, [_value(kind, value) for value in values]))
  return product(*axes)


def _split_field(text: str) -> tuple[str, list[str]]:
  """A field and the texts of its values; commas in parentheses stay."""
  field, equals, values = text.partition('=')
  parts = [part.strip() for part in re.split(r',(?![^()]*\))', values)]
  good = all(re.fullmatch(r'\([^()]*\)|[^()]+', part) for part in parts)
  if not equals or not field.strip() or not good:
    raise ConfigError(
      f'the sweep has {text.strip()!r}; write FIELD=VALUE,VALUE and separate '
      "fields by ';', such as 'client.learning_rate=0.1,0.3;seed=0,1'"
    )
  return field.strip(), parts


def _value(kind: Any, text: str) -> Any:
  """The value that a text means; one that means none stays a text.

  `validate` then says what is wrong with it.
  """
  if typing.get_origin(kind) is tuple:
    element = typing.get_args(kind)[0]
    inside = text.removeprefix('(').removesuffix(')')
    parts = [part.strip() for part in inside.split(',')]
    return tuple(_value(element, part) for part in parts if part)
  if kind is bool:
    return {'true': True, 'false': False}.get(text.lower(), text)
  try:
    return kind(text)
  except ValueError:
    return text


def _configured(
  base: Config, settings: Settings, of_method: OfMethod | None
) -> Config:
  """`base` with a point's settings, the method first."""
  config = copy.deepcopy(base)
  name = settings.get(METHOD, config_lib.method_name(base))
  if name != config_lib.method_name(base):
    method = config_lib.as_config_error(algorithms.find, name)
    if of_method is None:
      config.algorithm = method.settings()
    else:
      config = copy.deepcopy(of_method(name))
  known = config_lib.leaves(config)
  for field, value in settings.items():
    if field == METHOD:
      continue
    if field not in known:
      raise _missing(field, value, name, known)
    if field == 'rounds' or field.split('.')[0] in config_lib.OTHERS:
      raise ConfigError(
        f'{field} is swept but does not make another run; set {field} = '
        f'{value} for all points'
      )
    config_lib.set_field(config, field, value)
  return config


def _missing(field: str, value: Any, method: str, known: Any) -> ConfigError:
  if not field.startswith(f'{METHOD}.'):
    return config_lib.unknown_field(field, known)
  return ConfigError(
    f'{field} = {value!r} is swept but method {method} has no such setting; '
    f"sweep it with its own method alone, and chain sweeps by '|', such as "
    f"'algorithm={method}|algorithm=OTHER;{field}={value}'"
  )


def _digest(config: Config) -> str:
  """Hash of what makes a run another one, stable when fields are added."""
  method = algorithms.METHODS[config_lib.method_name(config)]
  plain = Config(algorithm=method.settings())
  changed = config_lib.differences(config, plain)
  content = {k: value for k, (value, _) in changed.items()}
  content['algorithm.name'] = method.name
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:10]


def _slug(settings: Settings) -> str:
  """The settings as the name of a folder."""
  parts = []
  for field, value in settings.items():
    group, _, last = field.rpartition('.')
    clash = sum(f.rpartition('.')[2] == last for f in settings) > 1
    shown = f'{group}.{last}' if clash and group else last
    text = f'{value:g}' if isinstance(value, float) else str(value)
    parts.append(f'{shown}={text}')
  return re.sub(r'[^\w.,=+-]+', '_', ','.join(parts))[:80] or 'point'
