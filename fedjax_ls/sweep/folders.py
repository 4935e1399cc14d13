"""The folders of a study's points."""

import contextlib
import os
import pathlib
from typing import Any

from fedjax_ls import config as config_lib
from fedjax_ls import mirrors, train
from fedjax_ls.build import Plan
from fedjax_ls.checkpoint import Checkpoints, newest
from fedjax_ls.sweep.point import Point
from fedjax_ls.types import State
from fedjax_ls.writers import Folder


class Folders:
  """Where the points of a study are, `WORKDIR/points/NAME`.

  A point is found by the hash in its name, so that a study may name it by
  other fields later on.
  """

  def __init__(self, workdir: str | os.PathLike):
    """Looks at what is there."""
    self.path = pathlib.Path(workdir) / 'points'
    there = sorted(self.path.glob('*-*'))
    self._known = {path.name.rpartition('-')[2]: path for path in there}

  def of(self, point: Point) -> pathlib.Path:
    """The folder of a point, which may not exist yet."""
    return self._known.get(point.id, self.path / point.name)

  def done(self, point: Point) -> int:
    """Rounds after which a point can go on."""
    return newest(self.of(point) / 'checkpoints')

  def over(self, point: Point) -> bool:
    """Whether a point has diverged, or done all its rounds and its summary."""
    file = self.of(point) / 'summary.json'
    if not file.exists():
      return False
    summary = Folder(file.parent).read('summary.json')
    last = summary.get('last', {'round': 0})
    return 'diverged' in summary or last['round'] >= point.config.rounds


class Run:
  """A point that is running: its files."""

  def __init__(self, point: Point, folder: Folder):
    """Opens its folder, which must be locked."""
    self.point = point
    self.fault = ''
    self._folder = folder
    self._mirrors = contextlib.ExitStack()
    self._stored = folder.read('config.json')
    done = newest(folder.checkpoints)
    train.check_stored(point.config, self._stored, done, folder)
    keep = point.config.writers.keep
    self._checkpoints = Checkpoints(folder.checkpoints, keep)

  def begin(self, start: State, plan: Plan) -> State:
    """Writes what the run consists of; returns the state to go on from."""
    config = self.point.config
    train.write_description(config, plan, self._folder, self._stored or {})
    state = train.restore(start, self._folder, self._checkpoints)
    mirror = self._mirrors.enter_context(
      mirrors.mirrored(
        config.writers.extra, self._folder, config_lib.to_dict(config)
      )
    )
    self._recorder = train.Recorder(self._folder, self._checkpoints, mirror)
    return state

  def results(
    self, now: int, metrics: dict[str, float], on_schedule: bool
  ) -> None:
    """Writes the results of round `now`, {} for none."""
    self._recorder.results(now, metrics, on_schedule)

  def timing(self, line: dict[str, Any]) -> None:
    """Writes what something took."""
    self._folder.add_timing(line)

  def checkpoint(self, state: State) -> None:
    """Saves the state."""
    self._recorder.checkpoint(state)

  def diverge(self, now: int, fault: str) -> None:
    """Marks the run as diverged."""
    self.fault = fault
    note = {'diverged': {'round': now, 'what': fault}}
    train.conclude(self.point.config, self._folder, note)

  def close(self) -> None:
    """Waits for the checkpoints; sums a complete run up."""
    self._mirrors.close()
    self._checkpoints.close()
    config, lines = self.point.config, self._folder.metrics()
    if not self.fault and lines and lines[-1]['round'] == config.rounds:
      train.conclude(config, self._folder)
