"""One run from a configuration.

python -m experiments.run --config=configs/FILE.py[:METHOD] --workdir=DIR
  [--config.FIELD=VALUE ...]

The same command again resumes a run that was stopped.  Exits with 2 if the
command line or the configuration is wrong, with 1 if the run diverges or does
not fit the memory, with 130 if it is interrupted.

Several processes, on one machine or many, run one program over all their
devices: start each with the same command (execution.devices = 0), a folder
that all see, and

  --coordinator=HOST:PORT --processes=N --process=I

On clusters that JAX knows (Cloud TPU, SLURM, Open MPI) --coordinator=auto alone
does.
"""

import os
import sys

import jax
from absl import flags
from ml_collections import config_flags

from experiments import commandline
from fedjax_ls.config import ConfigError
from fedjax_ls.train import train

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration, FILE.py or FILE.py:METHOD.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for the results.')
_COORDINATOR = flags.DEFINE_string(
  'coordinator', '', 'HOST:PORT of the first of several processes, or auto.'
)
_PROCESSES = flags.DEFINE_integer('processes', 1, 'Number of processes.')
_PROCESS = flags.DEFINE_integer('process', 0, 'Number of this one, from 0.')


def main() -> None:
  """Trains, or says in one sentence what is wrong."""
  if _COORDINATOR.value:
    _join()
  if jax.process_index() != 0:
    sys.stdout = open(os.devnull, 'w')  # noqa: SIM115
  train(_CONFIG.value, _WORKDIR.value or '')


def _join() -> None:
  """Joins the other processes."""
  if _COORDINATOR.value != 'auto':
    jax.distributed.initialize(
      _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    )
    return
  try:
    jax.distributed.initialize()
  except ValueError as error:
    raise ConfigError(
      f'--coordinator=auto finds no cluster here ({error}); give '
      '--coordinator=HOST:PORT --processes=N --process=I'
    ) from error


if __name__ == '__main__':
  commandline.run(main)
