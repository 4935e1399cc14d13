"""A study: many configurations in one launch, one program a structure.

python -m experiments.sweep --config=configs/FILE.py[:METHOD] --workdir=DIR
  --sweep='client.learning_rate=0.03,0.1,0.3;seed=0,1,2' [--config.FIELD=VALUE]

';' combines fields, '|' puts one sweep after another; without --sweep the
config file's get_sweep() says what to run.  Points that differ in numbers,
seeds or clients run in one program; --dry_run tells which those are.  Each
point gets a folder DIR/points/NAME with the files of a single run.  The same
command again continues, and a larger sweep runs only what is new.

  --index=I --of=N      only this share; merge the folders by copying them
  --halving=20:8,60:2   8 settings go on after round 20, and 2 after round 60
  --points_at_once=N    on each device; 0 chooses
  --devices=N           that points spread over; 0 for all, on a CPU one a core

Exits with 2 if the command line or the configuration is wrong, with 1 if a
point diverged or does not fit the memory, with 130 if it is interrupted.
"""

from absl import flags
from ml_collections import config_flags

from experiments import commandline
from fedjax_ls import config as config_lib
from fedjax_ls import sweep
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.sweep import halving
from fedjax_ls.train import use_compilation_cache

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration, FILE.py or FILE.py:METHOD.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for the results.')
_SWEEP = flags.DEFINE_string(
  'sweep', '', "Fields and values, FIELD=VALUE,VALUE;FIELD=VALUE,VALUE; the"
  " config file's get_sweep() if empty.",
)  # fmt: skip
_INDEX = flags.DEFINE_integer('index', 0, 'Which share of the points, from 0.')
_OF = flags.DEFINE_integer('of', 1, 'Number of shares.')
_HALVING = flags.DEFINE_string(
  'halving', '', 'ROUND:SETTINGS,ROUND:SETTINGS that go on after a round.'
)
_POINTS = flags.DEFINE_integer(
  'points_at_once', 0, 'Points at a time on each device, 0 to choose.'
)
_DEVICES = flags.DEFINE_integer(
  'devices', 0, 'Devices that points spread over, 0 for all.'
)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Only tell what would run.')


def main() -> None:
  """Runs the study, or says in one sentence what is wrong."""
  diverged = _run()
  if diverged:
    names = ', '.join(point.name for point in diverged[:3])
    commandline.fail(f'{len(diverged)} points diverged: {names}', 1)


def _run() -> list[sweep.Point]:
  """Runs the study; returns the points that diverged."""
  points = _points()
  plan = halving.parse(_HALVING.value)
  if plan and _OF.value > 1:
    raise ConfigError(
      f'--halving compares all points but --of={_OF.value} shares them out; '
      'leave one of the two out'
    )
  points = sweep.share(points, _INDEX.value, _OF.value)
  commandline.use_cores(_DEVICES.value)
  options = sweep.Options(_POINTS.value, _DEVICES.value, plan)
  print(f'compiled programs are kept in {use_compilation_cache()}')
  if _DRY_RUN.value:
    for line in sweep.dry_run(points, _WORKDIR.value or '', options):
      print(line, flush=True)
    return []
  done = sweep.run(points, _WORKDIR.value or '', options)
  told = ', '.join(f'{len(v)} {name}' for name, v in done.items())
  print(f'{told}; written to {_WORKDIR.value}/points', flush=True)
  return done['diverged']


def _points() -> list[sweep.Point]:
  flag = flags.FLAGS['config']
  file = config_flags.get_config_filename(flag)
  overridden = config_flags.get_override_values(flag)
  base: Config = _CONFIG.value
  made = sweep.parse(_SWEEP.value, base) if _SWEEP.value else None
  if made is None:
    made = commandline.sweep_of(file)
  if made is None:
    raise ConfigError(
      f'--sweep is missing and {file} has no get_sweep(); give one, such as '
      "--sweep='client.learning_rate=0.03,0.1;seed=0,1'"
    )

  def of_method(name: str) -> Config:
    config = commandline.load(f'{file.split(":")[0]}:{name}')
    known = config_lib.leaves(config)
    for field, value in overridden.items():
      if field not in known:
        raise config_lib.unknown_field(field, known)
      config_lib.set_field(config, field, value)
    return config

  return sweep.points(base, made, of_method)


if __name__ == '__main__':
  commandline.run(main)
