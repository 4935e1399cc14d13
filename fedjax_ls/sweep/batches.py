"""Runs the points of a batch, block of rounds by block of rounds."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_ls import build, loop
from fedjax_ls import config as config_lib
from fedjax_ls.progress import progress
from fedjax_ls.sweep import programs
from fedjax_ls.sweep.folders import Folders, Run
from fedjax_ls.sweep.groups import Group
from fedjax_ls.sweep.layouts import Batch, Place
from fedjax_ls.sweep.point import Point
from fedjax_ls.sweep.programs import Arguments, Common, Layout, Own, Pack
from fedjax_ls.types import State
from fedjax_ls.writers import Folder

Tree = Any

# Seconds between checkpoints where `writers.checkpoint_every` leaves it open.
CHECKPOINT_SECONDS = 60.0


class Ready(NamedTuple):
  """A group that is compiled.

  Attributes:
    group: its points.
    layout: how many run at a time.
    compiled: the programs for that.
    common: what all points read, on the devices.
  """

  group: Group
  layout: Layout
  compiled: programs.Programs
  common: Common


def start_state(group: Group, point: Point, common: Common) -> State:
  """The state of a point before its first round."""
  federation = group.clients_of(point).federation
  job = group.job._replace(
    hyper=build.numbers(point.config),
    federation=federation._replace(x=common.x, y=common.y),
  )
  seeds = config_lib.seeds(point.config)
  return loop.initial_state(job, seeds['model'], seeds['train'])


def arguments_of(
  group: Group,
  batch: Batch,
  layout: Layout,
  common: Common,
  states: dict[str, State],
  now: int = 0,
) -> Arguments:
  """Everything that the programs take for a batch in its grid.

  Args:
    group: the points that share a program.
    batch: those of them that run now.
    layout: their grid, G packs of V points.
    common: what all points read, on the devices.
    states: of each point, by its id.
    now: round that these states are at.

  Returns:
    NumPy arrays but for `common`: `[G, ...]` of a pack, `[G, V, ...]` of a
    point.
  """
  grid = batch.grid(layout)
  firsts = [pack[0] for pack in grid]
  clients = [group.clients_of(point) for point in firsts]
  pack = Pack(
    _stack([c.federation for c in clients]),
    _stack([c.tests for c in clients]),
    np.array([config_lib.seeds(p.config)['train'] for p in firsts], np.uint32),
  )
  hyper = _stack([_stack([_numbers(p) for p in pack]) for pack in grid])
  own = _stack(
    [_stack([Own(*states[p.id][:4]) for p in pack]) for pack in grid]
  )
  return Arguments(common, np.int32(now), pack, hyper, own)


def _numbers(point: Point) -> Tree:
  settings = build.settings(point.config)
  return jax.tree.map(np.float32, settings)


def _stack(trees: list[Any]) -> Any:
  return jax.tree.map(lambda *a: np.stack([np.asarray(b) for b in a]), *trees)


def run_batch(ready: Ready, batch: Batch, folders: Folders, until: int) -> None:
  """Brings the points of a batch to round `until`.

  Points that a stop has left behind catch up first.  A point always has the
  same place in the same program, whoever else is running, so that it ends with
  the same bits as if it had never stopped.

  Args:
    ready: the compiled group.
    batch: its points that run side by side.
    folders: of the study.
    until: the round to come to.

  Raises:
    ValueError: a folder is in use, or holds another run.
    fedjax_ls.loop.OutOfMemory: the batch does not fit a device.
  """
  while True:
    ahead = {p.id: folders.done(p) for p in batch.points if not folders.over(p)}
    now = min(ahead.values(), default=until)
    if now >= until:
      return
    stop = min([until, *(done for done in ahead.values() if done > now)])
    points = [p for p in batch.points if ahead.get(p.id) == now]
    _run_points(ready, batch, points, folders, now, stop)


def _run_points(
  ready: Ready,
  batch: Batch,
  points: list[Point],
  folders: Folders,
  now: int,
  until: int,
) -> None:
  """Runs some points of a batch; their folders are locked meanwhile.

  Returns at once where a damaged checkpoint has thrown one back.
  """
  group, layout = ready.group, ready.layout
  chosen = {
    'execution.chunk': group.job.execution.chunk,
    'points_at_once': layout.packs * layout.points,
  }
  runs: dict[str, Run] = {}
  # What is in the places of the others is not read.
  states = {p.id: start_state(group, p, ready.common) for p in batch.points}
  with contextlib.ExitStack() as stack:
    try:
      for point in points:
        folder = Folder(folders.of(point))
        stack.enter_context(folder.locked())
        run = runs[point.id] = Run(point, folder)
        plan = group.clients_of(point).plan
        plan = plan._replace(resolved={**plan.resolved, **chosen})
        states[point.id] = run.begin(states[point.id], plan)
        run.timing({'compile_seconds': ready.compiled.seconds})
      if all(states[point.id].round == now for point in points):
        _advance(ready, batch, runs, states, now, until)
    finally:
      for run in runs.values():
        run.close()


def _advance(
  ready: Ready,
  batch: Batch,
  runs: dict[str, Run],
  states: dict[str, State],
  now: int,
  until: int,
) -> None:
  config = batch.points[0].config
  places = [(point, at) for point, at in batch.places() if point.id in runs]
  saved = time.perf_counter()
  with progress(config.writers.progress, until, now) as shown:
    for stop in _stops(ready, batch, states, now, until):
      _record(stop, places, runs)
      alive = [(p, at) for p, at in places if not runs[p.id].fault]
      clock = time.perf_counter()
      every = config.writers.checkpoint_every
      late = clock - saved > CHECKPOINT_SECONDS
      due = stop.round % every == 0 if every else late
      if due or stop.round == until:
        saved = clock
        own = jax.device_get(stop.own)
        for point, at in alive:
          runs[point.id].checkpoint(_state(own, at, stop.round, point))
      shown.show(stop.round, _means(stop.metrics, [at for _, at in alive]))
      if not alive:
        return


def _record(stop: 'Stop', places: list[Place], runs: dict[str, Run]) -> None:
  """Writes results, and marks who has diverged."""
  timing = {
    'round': stop.round,
    'seconds': stop.seconds,
    'points': len(places),
  }
  for point, at in places:
    run = runs[point.id]
    if run.fault:
      continue
    values = {k: loop.shortest(v[at]) for k, v in stop.metrics.items()}
    fault = loop.divergence(stop.round, values, bool(stop.healthy[at]))
    if fault:
      run.diverge(stop.round, fault)
    else:
      told = stop.on_schedule or stop.round == point.config.rounds
      run.results(stop.round, values if told else {}, stop.on_schedule)
      run.timing(timing)


class Stop(NamedTuple):
  """A batch between two blocks of rounds; metrics are `[G, V]`."""

  round: int
  own: Own
  metrics: dict[str, np.ndarray]
  healthy: np.ndarray
  on_schedule: bool
  seconds: float


def _stops(
  ready: Ready, batch: Batch, states: dict[str, State], now: int, until: int
) -> Iterator[Stop]:
  """Runs from stop to stop, as `loop.run` does."""
  group, layout, compiled, common = ready
  arguments = arguments_of(group, batch, layout, common, states, now)
  arguments = programs.place(arguments, group, layout)
  config = batch.points[0].config
  every = config.writers.checkpoint_every
  while now < until:
    begin = time.perf_counter()
    end = loop.next_stop(now, until, config.eval_every, every)
    count = programs.put_number(end - now, group, layout)
    later = programs.put_number(end, group, layout)
    with loop.memory_named(group.job), jax.transfer_guard('disallow'):
      own = compiled.advance(*arguments, count)
      arguments = arguments._replace(own=own, now=later)
      judged = compiled.judge(*arguments)
      metrics, healthy = jax.device_get(judged)
    now = end
    on_schedule = now % config.eval_every == 0
    if on_schedule:
      arguments = arguments._replace(own=_emptied(own, group, layout))
    seconds = time.perf_counter() - begin
    yield Stop(now, arguments.own, metrics, healthy, on_schedule, seconds)


def _emptied(own: Own, group: Group, layout: Layout) -> Own:
  """With the tally of a new beginning."""
  zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), own.tally)
  return own._replace(tally=programs.put_own(zeros, group, layout))


def _state(own: Own, at: tuple[int, int], now: int, point: Point) -> State:
  """One point's state, of NumPy arrays."""
  seed: Any = np.uint32(config_lib.seeds(point.config)['train'])
  rounds: Any = np.int32(now)
  mine = jax.tree.map(lambda a: a[at], own)
  return State(
    mine.server, mine.clients, mine.sampler, mine.tally, seed, rounds
  )


def _means(
  metrics: dict[str, np.ndarray], places: list[tuple[int, int]]
) -> dict[str, float]:
  """Mean over the points that have not diverged."""
  if not places:
    return {}
  return {
    k: float(np.mean([v[at] for at in places])) for k, v in metrics.items()
  }
