"""Starts the entry points and checks their flags: one sentence an error."""

import difflib
import os
import pathlib
import runpy
import sys
import traceback
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from fedjax_ls.config import Config, ConfigError, leaves, unknown_field
from fedjax_ls.debug import ClientError
from fedjax_ls.loop import Diverged, OutOfMemory

USAGE = 'give --config=configs/FILE.py or --config=configs/FILE.py:METHOD'
_PARSERS: dict[type, flags.ArgumentParser] = {
  int: flags.IntegerParser(),
  float: flags.FloatParser(),
  bool: flags.BooleanParser(),
}
# More virtual devices each hold a copy of the examples.
MOST_CPU_DEVICES = 8
_WANTED = {int: 'whole number', float: 'number', bool: 'truth value'}


def run(
  main: Callable[[], None],
  needs_config: bool = True,
  needs_workdir: bool = True,
  wrong: type[Exception] = ConfigError,
) -> None:
  """Starts an entry point, whose errors are one sentence and an exit status.

  The status is 2 if what is asked is wrong, 1 if a run diverges, fails on a
  client or does not fit the memory, and 130 if it is interrupted.

  Args:
    main: the entry point; reads its flags.
    needs_config: whether there is `--config`, with fields as flags.
    needs_workdir: whether `--workdir` must be given, too.
    wrong: what `main` raises if what is asked is wrong.
  """

  def parsed(argv: Sequence[str]) -> list[str]:
    try:
      return parse(argv, needs_config, needs_workdir)
    except ConfigError as error:
      fail(error, 2)

  def start(argv: Sequence[str]) -> None:
    del argv
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)  # orbax tells every step it takes
    try:
      main()
    except wrong as error:
      fail(error, 2)
    except (Diverged, ClientError, OutOfMemory) as error:
      fail(error, 1)
    except KeyboardInterrupt:
      fail('interrupted; the same command resumes', 130)

  app.run(start, argv=sys.argv, flags_parser=parsed)


def parse(
  argv: Sequence[str], needs_config: bool = True, needs_workdir: bool = True
) -> list[str]:
  """Parses a command line with absl, after checking it.

  Args:
    argv: the program and its arguments.
    needs_config: whether there is `--config`, with fields as flags.
    needs_workdir: whether `--workdir` must be given, too.

  Returns:
    What is no flag, as `absl.app.run` wants it.

  Raises:
    ConfigError: a flag, a field, a value or the config file is wrong.
  """
  arguments = list(argv[1:])
  if not any(a.lstrip('-').startswith('help') for a in arguments):
    if needs_config:
      check(arguments, needs_workdir)
    else:
      check_flags(arguments)
  try:
    return flags.FLAGS(list(argv))
  except flags.Error as error:
    raise ConfigError(' '.join(str(error).split())) from error


def check_flags(arguments: Sequence[str]) -> None:
  """Checks the arguments of a command without `--config`.

  Raises:
    ConfigError: the first one that is no flag of the command.
  """
  given = _split(arguments)
  _refuse_stray([value for name, value in given if not name], '--FLAG')
  for name, _ in given:
    if not _known(name):
      raise ConfigError(_unknown_flag(name, _own()))


def check(arguments: Sequence[str], needs_workdir: bool = True) -> None:
  """Checks the arguments against the flags and the config file's fields.

  Raises:
    ConfigError: the first thing that is wrong.
  """
  paths = [value for name, value in _split(arguments) if name == 'config']
  if not paths:
    raise ConfigError(f'--config is missing; {USAGE}')
  fields = leaves(load(paths[-1]))
  given = _split(arguments, fields)
  _refuse_stray([value for name, value in given if not name])
  for name, value in given:
    if name.startswith('config.'):
      _check_field(name.removeprefix('config.'), value, fields)
    elif name.startswith('noconfig.'):
      _check_field(name.removeprefix('noconfig.'), 'false', fields)
    elif not _known(name):
      known = ['config', 'workdir', *_own(), *(f'config.{f}' for f in fields)]
      raise ConfigError(_unknown_flag(name, known))
  if needs_workdir and not any(n == 'workdir' and value for n, value in given):
    raise ConfigError(
      '--workdir is missing; give a folder for the results, such as '
      '--workdir=runs/first'
    )


def use_cores(devices: int = 0) -> None:
  """Makes several devices of a CPU; elsewhere this changes nothing.

  Args:
    devices: how many, 0 for one a core.
  """
  if 'host_platform_device_count' in os.environ.get('XLA_FLAGS', ''):
    return
  cores = min(len(os.sched_getaffinity(0)), MOST_CPU_DEVICES)
  jax.config.update('jax_num_cpu_devices', devices or cores)


def load(argument: str) -> Config:
  """The configuration of `FILE.py` or `FILE.py:METHOD`.

  Raises:
    ConfigError: the file is missing or fails, or the method is unknown.
  """
  path, *method = argument.split(':', 1)
  if not pathlib.Path(path).is_file():
    raise ConfigError(f'--config={argument} does not exist; {_nearest(path)}')
  try:
    config = runpy.run_path(path)['get_config'](*method)
  except KeyError as error:
    raise ConfigError(
      f'--config={argument} has no function get_config; define '
      'get_config(method) that returns a fedjax_ls.Config'
    ) from error
  except ValueError as error:
    raise ConfigError(f'--config={argument}: {error}') from error
  except Exception as error:
    line = traceback.extract_tb(error.__traceback__)[-1]
    raise ConfigError(
      f'--config={argument} fails in {line.filename}, line {line.lineno}: '
      f'{error!r}; repair it'
    ) from error
  if not isinstance(config, Config):
    raise ConfigError(
      f'--config={argument} gives a {type(config).__name__}; let get_config '
      'return a fedjax_ls.Config'
    )
  return config


def sweep_of(argument: str) -> Any:
  """What `get_sweep()` of a config file returns, None if it has none.

  Raises:
    ConfigError: it fails, or returns no list of settings.
  """
  path = argument.split(':', 1)[0]
  get_sweep = runpy.run_path(path).get('get_sweep')
  if get_sweep is None:
    return None
  try:
    made = get_sweep()
  except Exception as error:
    raise ConfigError(
      f'--config={argument}: get_sweep fails, {error!r}; repair it'
    ) from error
  if not isinstance(made, list) or not all(isinstance(p, dict) for p in made):
    raise ConfigError(
      f'--config={argument}: get_sweep gives a {type(made).__name__}; let it '
      "return a sweep, such as fedjax_ls.sweep.axis('seed', (0, 1))"
    )
  return made


def labels_of(argument: str) -> dict[str, dict[str, dict[str, Any]]]:
  """`ROWS` and `COLUMNS` of a config file, `{label: settings}`, if there.

  Raises:
    ConfigError: the file is missing or fails, or they are something else.
  """
  path = argument.split(':', 1)[0]
  load(path)
  names = runpy.run_path(path)
  found: dict[str, dict[str, dict[str, Any]]] = {
    k: names[k] for k in ('ROWS', 'COLUMNS') if k in names
  }
  for name, value in found.items():
    whole = isinstance(value, dict) and value
    if not whole or not all(isinstance(v, dict) for v in value.values()):
      raise ConfigError(
        f'--config={argument}: {name} = {value!r} has no labels; write '
        "{'label': {'dotted.field': value}}"
      )
  return found


def measures_of(argument: str) -> dict[str, tuple[str, float]]:
  """`MEASURES` of a config file, `{heading: (metric, factor)}`, if there.

  Raises:
    ConfigError: the file is missing or fails, or they are something else.
  """
  path = argument.split(':', 1)[0]
  load(path)
  found = runpy.run_path(path).get('MEASURES', {})
  for heading, value in found.items():
    match value:
      case (str(), int() | float()):
        pass
      case _:
        raise ConfigError(
          f'--config={argument}: MEASURES has {heading!r}: {value!r}; write '
          "{'heading': ('test/metric', factor)}"
        )
  return found


def fail(error: Exception | str, status: int) -> typing.NoReturn:
  """Prints one sentence and exits."""
  print(f'error: {error}', file=sys.stderr)
  sys.exit(status)


def _refuse_stray(
  arguments: Sequence[str], flag: str = '--config.FIELD'
) -> None:
  for argument in arguments:
    raise ConfigError(
      f'argument {argument!r} is no flag; write {flag}=VALUE, and values with '
      'spaces in quotes'
    )


def _known(name: str) -> bool:
  return name in flags.FLAGS or name.removeprefix('no') in flags.FLAGS


def _own() -> list[str]:
  """Names of the flags of the program that runs."""
  return [flag.name for flag in flags.FLAGS.get_flags_for_module(sys.argv[0])]


def _split(
  arguments: Sequence[str], fields: dict[str, Any] | None = None
) -> list[tuple[str, str]]:
  """Names and values of the flags, 'true' where there is no value.

  Like absl, a flag that is true or false takes no value after a space.  What
  is no flag has no name.
  """
  given = []
  rest = list(arguments)
  while rest:
    argument = rest.pop(0)
    if not argument.startswith('-') or not argument.strip('-'):
      given.append(('', argument))
      continue
    name, equals, value = argument.lstrip('-').partition('=')
    if not equals:
      value = 'true'
      if rest and rest[0][:1] != '-' and not _is_switch(name, fields or {}):
        value = rest.pop(0)
    given.append((name, value))
  return given


def _is_switch(name: str, fields: dict[str, Any]) -> bool:
  if name in flags.FLAGS:
    return flags.FLAGS[name].boolean
  kind, _ = fields.get(name.removeprefix('config.'), (None, None))
  return kind is bool or name.startswith('noconfig.')


def _check_field(name: str, value: str, fields: dict[str, Any]) -> None:
  if name == 'algorithm':
    raise ConfigError(
      f'--config.algorithm={value} is no field; choose the method with the '
      f'file, --config=FILE.py:{value}'
    )
  if name not in fields:
    raise unknown_field(name, fields)
  kind, default = fields[name]
  if kind in _PARSERS and not _parses(_PARSERS[kind], value):
    raise ConfigError(
      f'--config.{name}={value} is no {_WANTED[kind]}; give one, such as '
      f'--config.{name}={str(default).lower()}'
    )


def _parses(parser: flags.ArgumentParser, value: str) -> bool:
  try:
    parser.parse(value)
  except ValueError:
    return False
  return True


def _unknown_flag(name: str, known: Sequence[str]) -> str:
  # A field without its prefix is the likely slip.
  guess = f'config.{name}' if f'config.{name}' in known else ''
  near = guess or difflib.get_close_matches(name, known, 1, 0.0)[0]
  return f'flag --{name} is unknown; did you mean --{near}?'


def _nearest(path: str) -> str:
  folder = os.path.dirname(path) or '.'
  there = sorted(str(p) for p in pathlib.Path(folder).glob('*.py'))
  there = there or sorted(str(p) for p in pathlib.Path('configs').glob('*.py'))
  near = difflib.get_close_matches(path, there, 1, 0.0)
  return f'did you mean {near[0]}?' if near else USAGE
