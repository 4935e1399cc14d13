"""The folders of a study's points, and what is known of its groups."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from fedjax_ls import config as config_lib
from fedjax_ls import mirrors, train
from fedjax_ls.build import Plan
from fedjax_ls.checkpoint import Checkpoints, newest
from fedjax_ls.sweep.point import Point
from fedjax_ls.sweep.programs import Layout
from fedjax_ls.types import State
from fedjax_ls.writers import Folder, read_json, write_json


class Begun(NamedTuple):
  """A group that has begun: which points share its program, and how.

  Attributes:
    points: their ids, in the order in which they are dealt to batches.
    layout: how many run at a time.
    asked: `points_at_once` and `devices` of the options it was chosen for.
  """

  points: list[str]
  layout: Layout
  asked: list[int]


class Folders:
  """Where the points of a study are, `WORKDIR/points/NAME`.

  A point is found by the hash in its name, so that a study may name it by
  other fields later on.  `WORKDIR/groups/NAME.json` says which points began
  together, so that they go on in the same program.
  """

  def __init__(self, workdir: str | os.PathLike):
    """Looks at what is there."""
    self.path = pathlib.Path(workdir) / 'points'
    self._groups = pathlib.Path(workdir) / 'groups'
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

  def resolved(self, points: Iterable[Point]) -> dict[str, Any] | None:
    """What the first of some points that has begun resolved to."""
    for point in points:
      file = self.of(point) / 'config.json'
      if file.exists():
        return Folder(file.parent).read('config.json')['resolved']
    return None

  def begin(self, begun: Begun) -> None:
    """Remembers a group, under a hash of it."""
    self._groups.mkdir(parents=True, exist_ok=True)
    content = begun._asdict()
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    write_json(self._groups / f'{digest[:10]}.json', content)

  def begun(self) -> list[Begun]:
    """The groups that have begun, the largest first."""
    contents = [read_json(file) for file in sorted(self._groups.glob('*.json'))]
    found = [
      Begun(**{**content, 'layout': Layout(*content['layout'])})
      for content in contents
    ]
    return sorted(found, key=lambda begun: -len(begun.points))


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
