"""Stopped and continued runs end with the same bits as one that was not."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import round as round_lib
from fedjax_ls.checkpoint import Checkpoints, newest
from fedjax_ls.train import train
from tests import toy
from tests.train_test import lines, tiny

ROOT = pathlib.Path(__file__).parent.parent


def arrays(folder: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  checkpoints = Checkpoints(folder / 'checkpoints')
  found, _ = checkpoints.read(step)
  checkpoints.close()
  return found


def assert_same_run(ours: pathlib.Path, theirs: pathlib.Path, step: int):
  metrics = [(f / 'metrics.jsonl').read_bytes() for f in (ours, theirs)]
  assert metrics[0] == metrics[1]
  a, b = arrays(ours, step), arrays(theirs, step)
  assert a.keys() == b.keys()
  for name, value in a.items():
    assert value.tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize('method', ['scaffold', 'fedga', 'ifca'])
def test_blocks_of_any_length_are_bit_equal(method):
  p = toy.problem(method)

  @jax.jit
  def advance(numbers, data, state, num_rounds):
    return round_lib.run_rounds(p.algorithm, numbers, data, state, num_rounds)

  whole = advance(p.hyper, p.federation, p.state, 40)
  state = p.state
  for num_rounds in (10, 7, 3, 20):
    state = advance(p.hyper, p.federation, state, num_rounds)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize('first', [3, 4, 7])
def test_larger_rounds_continue(tmp_path, first):
  """Also from a last round that is no multiple of `eval_every`."""
  config = tiny(
    'scaffold', rounds=9, sampler__name='uniform', sampler__cohort_size=4
  )
  train(config, tmp_path / 'whole')
  config.rounds = first
  train(config, tmp_path / 'parts')
  assert lines(tmp_path / 'parts')[-1]['round'] == first
  config.rounds = 9
  train(config, tmp_path / 'parts')
  assert_same_run(tmp_path / 'whole', tmp_path / 'parts', 9)


def test_the_last_line_survives_a_start_that_was_killed(tmp_path, monkeypatch):
  """Round 7 is off schedule: a longer run goes on without its line."""
  train(tiny(rounds=7), tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  summary = (tmp_path / 'summary.json').read_bytes()

  def killed(self, state, record):
    raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(Checkpoints, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
      train(tiny(rounds=9), tmp_path)
  assert lines(tmp_path)[-1]['round'] == 8
  train(tiny(rounds=7), tmp_path)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert (tmp_path / 'summary.json').read_bytes() == summary


# Reads that were under way when the first one failed end without a listener.
late_reads = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@late_reads
@pytest.mark.parametrize(
  'damaged', ['record/metadata', '_CHECKPOINT_METADATA', 'state/d', 'state']
)
@pytest.mark.parametrize('rounds', [6, 8])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
  tmp_path, capsys, damaged, rounds
):
  config = tiny('scaffold', rounds=rounds)
  train(config, tmp_path / 'whole')
  config.rounds = 6
  train(config, tmp_path / 'parts')
  remove(tmp_path / 'parts' / 'checkpoints' / '6' / damaged)
  config.rounds = rounds
  capsys.readouterr()
  train(config, tmp_path / 'parts')
  told = capsys.readouterr().out
  # What is finished needs no arrays.
  finished = rounds == 6 and damaged.startswith('state')
  assert ('finished' if finished else 'resumed at round 4') in told
  if not finished:
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts', rounds)


@late_reads
def test_without_a_readable_checkpoint_a_run_is_refused(tmp_path):
  train(tiny(), tmp_path)
  for step in ('4', '6'):
    remove(tmp_path / 'checkpoints' / step / 'state')
  with pytest.raises(fl.ConfigError, match=r'round 6 .* is damaged; restore'):
    train(tiny(rounds=8), tmp_path)
  assert {p.name for p in (tmp_path / 'checkpoints').iterdir()} == {'4', '6'}


def remove(path: pathlib.Path) -> None:
  assert path.exists()
  shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_checkpoints_between_evaluations(tmp_path):
  """Fewer or more checkpoints than evaluations change no result."""
  config = tiny(rounds=12, eval_every=4)
  train(config, tmp_path / 'whole')
  for every in (3, 8):
    config.writers.checkpoint_every = every
    config.rounds = 10
    train(config, tmp_path / str(every))
    config.rounds = 12
    train(config, tmp_path / str(every))
    assert_same_run(tmp_path / 'whole', tmp_path / str(every), 12)


ARGUMENTS = [
  f'--config={ROOT}/configs/digits.py:scaffold',
  '--config.rounds=60',
  '--config.eval_every=3',
  '--config.model.hidden=8',
  '--config.model.norm=fn',
  '--config.sampler.name=uniform',
  '--config.sampler.cohort_size=4',
  '--config.writers.plots=false',
]


def launch(folder: pathlib.Path) -> subprocess.Popen:
  cache = jax.config.values['jax_compilation_cache_dir']
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      'experiments.run',
      *ARGUMENTS,
      f'--workdir={folder}',
    ],
    cwd=ROOT,
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def killed(process: subprocess.Popen, num_lines: int, seconds: float) -> bool:
  """Kills at a random moment after some lines; whether that was in time."""
  assert process.stdout is not None
  with process.stdout as output:
    for line in output:
      num_lines -= line.startswith('round')
      if num_lines <= 0:
        break
    try:
      process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_killed_runs_end_like_one_that_was_not(tmp_path):
  whole = launch(tmp_path / 'whole')
  output, _ = whole.communicate()
  assert whole.returncode == 0, output
  random = np.random.RandomState(0)
  parts = tmp_path / 'parts'
  kills, reached = 0, 0
  while kills < 5 and newest(parts / 'checkpoints') < 60:
    process = launch(parts)
    kills += killed(process, random.randint(1, 5), random.uniform(0, 0.06))
    now = newest(parts / 'checkpoints')
    assert now >= reached
    reached = now
  last = launch(parts)
  output, _ = last.communicate()
  assert last.returncode == 0, output
  assert kills >= 3
  assert f'resumed at round {reached}' in output
  assert_same_run(tmp_path / 'whole', parts, 60)
