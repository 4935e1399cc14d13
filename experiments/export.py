"""The model of a run in one file, for other programs.

python -m experiments.export --workdir=DIR --out=model.npz [--tier=N]

Writes the parameters and statistics of the global model as it is judged, of a
run or of a study's point, as NumPy's `.npz` or as `.safetensors`, by names such
as `params/dense0/kernel`.  --tier=N cuts out the small network of tier N.

Exits with 2 if the command line or the folder is wrong.
"""

import sys
from collections.abc import Sequence

from absl import app, flags, logging

from experiments import commandline
from fedjax_ls import saved
from fedjax_ls.config import ConfigError

_WORKDIR = flags.DEFINE_string('workdir', '', 'Folder of the run.')
_OUT = flags.DEFINE_string('out', '', 'The file, .npz or .safetensors.')
_TIER = flags.DEFINE_integer('tier', None, 'Whose small network, from 0.')


def main(argv: Sequence[str]) -> None:
  """Writes the file, or says in one sentence what is wrong."""
  commandline.refuse_arguments(argv)
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # orbax tells every step it takes
  try:
    if not _WORKDIR.value or not _OUT.value:
      raise ConfigError(
        '--workdir and --out are needed; give --workdir=DIR --out=model.npz'
      )
    found = saved.load(_WORKDIR.value, _TIER.value)
    path = saved.write(found.variables, _OUT.value)
  except ConfigError as error:
    commandline.fail(error, 2)
  count = sum(a.size for a in saved.named(found.variables['params']).values())
  print(f'{count} parameters written to {path}')


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    return flags.FLAGS(list(argv))
  except flags.Error as error:
    commandline.fail(' '.join(str(error).split()), 2)


if __name__ == '__main__':
  app.run(main, argv=sys.argv, flags_parser=_parse)
