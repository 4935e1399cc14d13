"""Copies of the results for other tools, by stand-ins of their packages."""

import importlib.machinery
import json
import pathlib
import struct
import sys
import types

import pytest

from fedjax_ls import config as config_lib
from fedjax_ls import sweep
from fedjax_ls.checkpoint import Checkpoints
from fedjax_ls.mirrors import TensorBoard
from fedjax_ls.train import train
from tests.messages_test import says
from tests.train_test import lines, tiny


class SummaryWriter:
  """Like tensorboardX's, but one JSON line an event."""

  def __init__(self, logdir: str):
    pathlib.Path(logdir).mkdir(parents=True, exist_ok=True)
    self._path = pathlib.Path(logdir) / 'events'
    self._waiting: list[str] = []

  def add_scalar(self, name: str, value: float, step: int) -> None:
    self._waiting.append(json.dumps([name, value, step]) + '\n')

  def flush(self) -> None:
    with open(self._path, 'a') as file:
      file.writelines(self._waiting)
    self._waiting = []

  def close(self) -> None:
    self.flush()


class Run:
  """Like an offline run of wandb, each in a folder of its own."""

  def __init__(self, *, id, dir, config, mode, **more):
    assert mode == 'offline'
    Run.count += 1
    self.config = config
    self._path = (
      pathlib.Path(dir) / 'wandb' / f'offline-run-{Run.count}-{id or Run.count}'
    )
    self._path.mkdir(parents=True)

  def log(self, values: dict, step: int) -> None:
    with open(self._path / 'events', 'a') as file:
      for name, value in values.items():
        file.write(json.dumps([name, value, step]) + '\n')

  def finish(self) -> None:
    (self._path / 'finished').touch()


def stand_in(monkeypatch, name: str, **members) -> None:
  module = types.ModuleType(name)
  module.__spec__ = importlib.machinery.ModuleSpec(name, None)
  vars(module).update(members)
  monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def tools(monkeypatch):
  Run.count = 0
  stand_in(monkeypatch, 'tensorboardX', SummaryWriter=SummaryWriter)
  stand_in(monkeypatch, 'wandb', init=Run, Settings=dict)


BOTH = ('tensorboard', 'wandb')


def copies(folder: pathlib.Path) -> dict[str, list]:
  """What each tool holds, from its only run."""
  (run,) = (folder / 'wandb').iterdir()
  assert (run / 'finished').exists()
  files = {'tensorboard': folder / 'tensorboard', 'wandb': run}
  return {
    tool: [json.loads(e) for e in (path / 'events').read_text().splitlines()]
    for tool, path in files.items()
  }


def expected(folder: pathlib.Path) -> list:
  return [
    [name, value, line['round']]
    for line in lines(folder)
    for name, value in line.items()
    if name != 'round' and value is not None
  ]


def test_a_stopped_run_is_copied_once(tmp_path, monkeypatch, tools):
  save = Checkpoints.save

  def killed(self, state, record):
    if int(state.round) > 2:
      raise KeyboardInterrupt
    save(self, state, record)

  with monkeypatch.context() as patched:
    patched.setattr(Checkpoints, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
      train(tiny(writers__extra=BOTH), tmp_path)
  assert {e[2] for e in copies(tmp_path)['wandb']} == {2, 4}
  train(tiny(writers__extra=BOTH), tmp_path)
  assert [line['round'] for line in lines(tmp_path)] == [2, 4, 6]
  wanted = expected(tmp_path)
  assert copies(tmp_path) == {'tensorboard': wanted, 'wandb': wanted}
  (run,) = (tmp_path / 'wandb').iterdir()
  assert run.name == 'offline-run-2-1'  # made anew, with the same id


def test_they_are_no_part_of_a_run(tmp_path, tools):
  train(tiny(rounds=2), tmp_path / 'without')
  train(tiny(rounds=2, writers__extra=BOTH), tmp_path / 'with')
  texts = [
    (tmp_path / name / 'metrics.jsonl').read_bytes()
    for name in ('without', 'with')
  ]
  assert texts[0] == texts[1]
  # A run that had none gets them, from its beginning, where it goes on.
  train(tiny(rounds=4, writers__extra=BOTH), tmp_path / 'without')
  assert {e[2] for e in copies(tmp_path / 'without')['tensorboard']} == {2, 4}
  assert not config_lib.differences(tiny(), tiny(writers__extra=BOTH))


def test_the_points_of_a_study_have_their_own(tmp_path, tools):
  base = tiny(rounds=2, writers__extra=BOTH)
  text = 'client.learning_rate=0.05,0.1'
  points = sweep.points(base, sweep.parse(text, base))
  sweep.run(points, tmp_path, sweep.Options(devices=1))
  for point in points:
    folder = tmp_path / 'points' / point.name
    assert copies(folder)['wandb'] == expected(folder) != []


@pytest.mark.parametrize('tool', BOTH)
def test_a_missing_package_is_named(monkeypatch, tmp_path, tool):
  package = {'tensorboard': 'tensorboardX', 'wandb': 'wandb'}[tool]
  monkeypatch.setitem(sys.modules, package, None)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with says(f'needs the package {package}', f'fedjax_ls[{tool}]'):
    train(tiny(writers__extra=(tool,)), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_an_unknown_tool_is_named(tmp_path):
  with says("writers.extra = 'tensorbord'", "did you mean 'tensorboard'?"):
    train(tiny(writers__extra=('tensorbord',)), tmp_path)


def test_tensorboard_reads_what_is_written(tmp_path):
  """With the package itself; a record is a length, its check, data, a check."""
  pytest.importorskip('tensorboardX')
  from tensorboardX.proto import event_pb2

  for _ in range(2):
    mirror = TensorBoard(tmp_path, {})
    mirror.write({'round': 5, 'test/accuracy': 0.5, 'test/loss': None})
    mirror.close()
  (file,) = (tmp_path / 'tensorboard').iterdir()
  data, found = file.read_bytes(), []
  while data:
    (size,) = struct.unpack('<Q', data[:8])
    event = event_pb2.Event.FromString(data[12 : 12 + size])
    found += [(v.tag, v.simple_value, event.step) for v in event.summary.value]
    data = data[16 + size :]
  assert found == [('test/accuracy', 0.5, 5)]
