"""The model of a run in one file, for other programs.

python -m experiments.export --workdir=DIR --out=model.npz [--tier=N]

Writes the parameters and statistics of the global model as it is judged, of a
run or of a study's point, as NumPy's `.npz` or as `.safetensors`, by names such
as `params/dense0/kernel`.  --tier=N cuts out the small network of tier N.

Exits with 2 if the command line or the folder is wrong.
"""

from absl import flags

from experiments import commandline
from fedjax_ls import saved
from fedjax_ls.config import ConfigError

_WORKDIR = flags.DEFINE_string('workdir', '', 'Folder of the run.')
_OUT = flags.DEFINE_string('out', '', 'The file, .npz or .safetensors.')
_TIER = flags.DEFINE_integer('tier', None, 'Whose small network, from 0.')


def main() -> None:
  """Writes the file, or says in one sentence what is wrong."""
  if not _WORKDIR.value or not _OUT.value:
    raise ConfigError(
      '--workdir and --out are needed; give --workdir=DIR --out=model.npz'
    )
  found = saved.load(_WORKDIR.value, _TIER.value)
  path = saved.write(found.variables, _OUT.value)
  count = sum(a.size for a in saved.named(found.variables['params']).values())
  print(f'{count} parameters written to {path}')


if __name__ == '__main__':
  commandline.run(main, needs_config=False)
