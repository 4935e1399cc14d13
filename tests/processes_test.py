"""Several processes, each with devices of its own, run one program."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import pytest

import fedjax_ls as fl
from experiments import commandline
from fedjax_ls import config as config_lib
from fedjax_ls.train import train
from tests.train_test import lines

ROOT = pathlib.Path(__file__).parent.parent
FILE = f'{ROOT}/configs/digits.py:scaffold'
FIELDS = {
  'eval_every': 2,
  'model.hidden': (8,),
  'model.norm': 'ln',
  'client.amount': 2,
  'sampler.name': 'uniform',
  'sampler.cohort_size': 6,
  'writers.plots': False,
}


def configuration(data: str, rounds: int, devices: int) -> fl.Config:
  config = commandline.load(FILE)
  fields = {'rounds': rounds, 'execution.devices': devices}
  for name, value in {**FIELDS, **fields, 'execution.data': data}.items():
    config_lib.set_field(config, name, value)
  return config


def start(folder, data: str, port: int, process: int) -> subprocess.Popen:
  """One of two processes with two CPU devices each, for two rounds."""
  fields = {**FIELDS, 'rounds': 2, 'execution.devices': 0}
  others = re.sub(r'--xla_force\S*', '', os.environ['XLA_FLAGS'])
  count = '--xla_force_host_platform_device_count=2'
  cache = jax.config.values['jax_compilation_cache_dir']
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'experiments.run', f'--config={FILE}'),
      *(f'--config.{name}={value}' for name, value in fields.items()),
      *(f'--config.execution.data={data}', f'--workdir={folder}'),
      *(f'--coordinator=localhost:{port}', '--processes=2'),
      f'--process={process}',
    ],
    cwd=ROOT,
    env={
      **os.environ,
      'XLA_FLAGS': f'{others} {count}',
      'JAX_COMPILATION_CACHE_DIR': cache,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(processes: list[subprocess.Popen]) -> list[str]:
  """What they print; none may fail."""
  try:
    told = [process.communicate(timeout=120)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, output in zip(processes, told, strict=True):
    assert process.returncode == 0, output
  return told


def free_port() -> int:
  with socket.socket() as listening:
    listening.bind(('localhost', 0))
    return listening.getsockname()[1]


@pytest.mark.parametrize('data', ['device', 'host'])
def test_two_processes_equal_one_which_continues(tmp_path, capsys, data):
  port = free_port()
  told = finish([start(tmp_path / 'two', data, port, i) for i in range(2)])
  assert 'test/accuracy' in told[0]
  assert 'test/accuracy' not in told[1]
  train(configuration(data, 4, devices=4), tmp_path / 'one')
  one = lines(tmp_path / 'one')
  assert lines(tmp_path / 'two') == [pytest.approx(one[0], rel=1e-5)]
  train(configuration(data, 4, devices=1), tmp_path / 'two')
  assert 'resumed at round 2' in capsys.readouterr().out
  two = lines(tmp_path / 'two')
  assert two == [pytest.approx(line, rel=1e-5) for line in one]
