"""Spectra of several runs on one log-scale picture.

python -m experiments.spectra --workdir=DIR,DIR,... --out=FILE.png
  [--round=N]

The runs must have `diagnostics/` (set `diagnostics.every`), such as one a
Dirichlet alpha.  Each is labelled by the fields in which its configuration
differs from the others', and drawn at its last diagnosed round, or `--round`.

Exits with 2 if the command line or a folder is wrong.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from experiments import commandline
from fedjax_ls import config as config_lib
from fedjax_ls import diagnostic_plots
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.writers import Folder


def main() -> None:
  """Draws the picture, or says in one sentence what is missing."""
  given = flags.FLAGS
  draw(given.workdir, given.out, given.round)
  print(given.out)


def draw(workdirs: Sequence[str], out: str, at: int = 0) -> None:
  """Draws the spectra of runs.

  Args:
    workdirs: their folders.
    out: the PNG file.
    at: round, 0 for the last of each.

  Raises:
    ConfigError: nothing is asked for, or a folder has no such diagnostics.
  """
  if not workdirs or not out:
    raise ConfigError(
      '--workdir and --out are needed; give --workdir=DIR,DIR --out=FILE.png'
    )
  configs = [_stored(path) for path in workdirs]
  lines = {}
  for path, label in zip(workdirs, labels(configs), strict=True):
    label = label or pathlib.Path(path).name
    lines[label] = _found(path, at)
  diagnostic_plots.spectra(lines, pathlib.Path(out))


def labels(configs: Sequence[Config]) -> list[str]:
  """What tells each configuration from the others, '' for nothing.

  Fields go by their last name, and kinds and methods by their value.

  >>> labels([Config(), Config(seed=1), Config(seed=2)])
  ['seed = 0', 'seed = 1', 'seed = 2']
  """
  fields = {
    name: None
    for config in configs
    for name in config_lib.differences(configs[0], config)
  }
  told = []
  for config in configs:
    values = {k: v for k, (_, v) in config_lib.leaves(config).items()}
    values['algorithm.name'] = config_lib.method_name(config)
    told.append(', '.join(_told(k, values[k]) for k in fields if k in values))
  return told


def _told(field: str, value: object) -> str:
  last = field.split('.')[-1]
  return str(value) if last in ('name', 'kind') else f'{last} = {value}'


def _stored(path: str) -> Config:
  if not pathlib.Path(path, 'config.json').exists():
    raise ConfigError(f'{path} has no config.json; give the folder of a run')
  return config_lib.from_dict(Folder(path).read('config.json')['config'])


def _found(path: str, at: int) -> diagnostic_plots.Found:
  found = Folder(path).diagnostics()
  if not found:
    raise ConfigError(
      f'{path} has no diagnostics; run it with diagnostics.every above 0'
    )
  if at and at not in found:
    raise ConfigError(
      f'--round={at} is not among the diagnosed rounds of {path}; use one of '
      f'{", ".join(map(str, found))}'
    )
  return found[at or max(found)]


if __name__ == '__main__':
  flags.DEFINE_list('workdir', [], 'Folders of runs.')
  flags.DEFINE_string('out', '', 'The PNG file.')
  flags.DEFINE_integer('round', 0, 'Round to draw, 0 for the last.')
  commandline.run(main, needs_config=False)
