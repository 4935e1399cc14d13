"""Runs a study: structure by structure, batch by batch, block by block."""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_ls import build, loop, rules, train
from fedjax_ls import config as config_lib
from fedjax_ls.checkpoint import Checkpoints, newest
from fedjax_ls.config import ConfigError
from fedjax_ls.consistency import require
from fedjax_ls.progress import progress
from fedjax_ls.sweep import groups, halving, layouts, programs
from fedjax_ls.sweep.folders import Folders, Run
from fedjax_ls.sweep.groups import Group
from fedjax_ls.sweep.layouts import Batch
from fedjax_ls.sweep.point import Point
from fedjax_ls.sweep.programs import Arguments, Common, Layout, Own, Pack
from fedjax_ls.types import State
from fedjax_ls.validate import check_range
from fedjax_ls.writers import Folder

Tree = Any

# Seconds between checkpoints where `writers.checkpoint_every` leaves it open.
CHECKPOINT_SECONDS = 60.0
# Points at a time on a CPU: as many as keep all their parameters in the cache.
CPU_POINTS, CPU_BYTES = 8, 1_250_000


class Options(NamedTuple):
  """How a study runs.

  Attributes:
    points_at_once: on each device, 0 to choose.
    devices: that points spread over, 0 for all.
    halving: `(round, settings that go on)`, see `halving`.
  """

  points_at_once: int = 0
  devices: int = 1
  halving: tuple[tuple[int, int], ...] = ()


def run(
  points: list[Point],
  workdir: str | os.PathLike,
  options: Options = Options(),  # noqa: B008
) -> dict[str, list[Point]]:
  """Runs what is not done yet.

  Each point gets a folder in `WORKDIR/points` with the files of a single run,
  which can also be continued as one.

  Args:
    points: the study, or the part of it for this machine.
    workdir: its folder.
    options: how to run it.

  Returns:
    `{'finished' | 'diverged' | 'stopped': points}`.

  Raises:
    ConfigError: something does not fit, or a folder holds another run.
    fedjax_ls.loop.OutOfMemory: a single point does not fit a device.
  """
  halving.check(points, options.halving)
  _check(options)
  folders = Folders(workdir)
  members = groups.structures([p for p in points if not folders.over(p)])
  for later in members[1:]:  # before hours are spent on the first
    groups.prepare(later)
  alive = points
  stopped: list[Point] = []
  for until, keep in (*options.halving, (0, 0)):
    _run_until(alive, folders, options, until)
    if keep:
      alive, out = halving.survivors(alive, folders, until, keep)
      stopped += out
  diverged = [p for p in points if p not in stopped and _diverged(p, folders)]
  finished = [p for p in points if p not in (*stopped, *diverged)]
  return {'finished': finished, 'diverged': diverged, 'stopped': stopped}


def share(points: list[Point], index: int, of: int) -> list[Point]:
  """The share of one of several machines, with few structures on each.

  Raises:
    ConfigError: there is no such share.
  """
  if not 0 <= index < of:
    raise ConfigError(
      f'--index={index} --of={of} is no share; choose --index in 0..--of - 1'
    )
  ordered = [p for members in groups.structures(points) for p in members]
  return ordered[index * len(ordered) // of : (index + 1) * len(ordered) // of]


def _run_until(
  points: list[Point], folders: Folders, options: Options, until: int
) -> None:
  """Runs all points up to round `until`, or to their last one for 0."""
  for members in groups.structures(points):
    todo = [p for p in members if not folders.over(p)]
    done = {p.id: folders.done(p) for p in todo}
    to = until or members[0].config.rounds
    for point in todo:
      if done[point.id] >= to == point.config.rounds:
        _complete(point, folders)
    todo = [p for p in todo if done[p.id] < to]
    if not todo:
      continue
    execution = todo[0].config.execution
    if execution.debug or execution.data == 'host':
      _one_by_one(todo, folders)
      continue
    stored = _stored(folders.of(todo[0]))
    for group in groups.prepare(todo, stored):
      _run_group(group, done, folders, options, to)


def _run_group(
  group: Group,
  done: dict[str, int],
  folders: Folders,
  options: Options,
  until: int,
) -> None:
  """Compiles once, then runs batch after batch."""
  layout, compiled, common = fitting(group, done, options)
  batches = layouts.deal(group, group.points, done, layout)
  print(
    f'{len(group.points)} points, {layout.grid[0] * layout.grid[1]} at a time '
    f'on {layout.devices} devices; compiled in {compiled.seconds:.1f} s',
    flush=True,
  )
  for batch in batches:
    _run_batch(group, batch, layout, compiled, common, folders, until)


def fitting(
  group: Group, done: dict[str, int], options: Options
) -> tuple[Layout, programs.Programs, Common]:
  """The layout with most points at a time that fits, and its programs."""
  on_cpu = jax.default_backend() == 'cpu'
  automatic = not options.points_at_once
  at_once = options.points_at_once or (
    _cached_points(group) if on_cpu else len(group.points)
  )
  clients = group.job.execution.mesh is not None
  devices = 1 if clients else options.devices or jax.local_device_count()
  sizes = layouts.sizes(group, group.points, done)
  while True:
    layout = layouts.choose(
      sizes, devices, at_once, mixed=not (on_cpu and automatic)
    )
    batch = layouts.deal(group, group.points, done, layout)[0]
    with loop.memory_named(None):
      common = programs.put_common(
        Common(group.x, group.y, group.tests), group, layout
      )
    # Only shapes are read, so the state of one point stands for all.
    start = start_state(group, batch.points[0], common)
    states = {point.id: start for point in batch.points}
    arguments = arguments_of(group, batch, layout, common, states)
    try:
      compiled = programs.compile_group(group, layout, arguments)
    except loop.OutOfMemory as error:
      if at_once == 1:
        raise
      if not automatic:
        raise loop.OutOfMemory(
          f'{at_once} points at a time do not fit the memory; use '
          f'--points_at_once={at_once // 2}'
        ) from error
      at_once //= 2
      continue
    budget = build.MEMORY_SHARE * build.free_bytes()
    if compiled.memory <= budget or at_once == 1 or not automatic:
      return layout, compiled, common
    at_once = max(1, min(at_once // 2, int(at_once * budget / compiled.memory)))


def _cached_points(group: Group) -> int:
  params, _ = jax.eval_shape(group.job.model.init, jax.random.key(0))
  size = sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(params))
  return min(max(CPU_BYTES // size, 1), CPU_POINTS)


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
) -> Arguments:
  """Everything for a batch in its grid, of NumPy arrays but for `common`."""
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
  return Arguments(common, np.int32(batch.done), pack, hyper, own)


def _numbers(point: Point) -> Tree:
  settings = build.settings(point.config)
  return jax.tree.map(np.float32, settings)


def _stack(trees: list[Any]) -> Any:
  return jax.tree.map(lambda *a: np.stack([np.asarray(b) for b in a]), *trees)


def _run_batch(
  group: Group,
  batch: Batch,
  layout: Layout,
  compiled: programs.Programs,
  common: Common,
  folders: Folders,
  until: int,
) -> None:
  """Runs the points of a batch; their folders are locked meanwhile."""
  at_once = layout.packs * layout.points
  with contextlib.ExitStack() as stack:
    runs, states = {}, {}
    for point in batch.points:
      folder = Folder(folders.of(point))
      stack.enter_context(folder.locked())
      made = runs[point.id] = Run(point, folder)
      plan = group.clients_of(point).plan
      resolved = {**plan.resolved, 'points_at_once': at_once}
      start = start_state(group, point, common)
      states[point.id] = made.begin(start, plan, resolved)
      made.timing({'compile_seconds': compiled.seconds})
    arguments = arguments_of(group, batch, layout, common, states)
    arguments = programs.place(arguments, group, layout)
    try:
      _advance(batch, runs, arguments, group, layout, compiled, until)
    finally:
      for point in batch.points:
        runs[point.id].close(last=_at_end(point, folders))


def _advance(
  batch: Batch,
  runs: dict[str, Run],
  arguments: Arguments,
  group: Group,
  layout: Layout,
  compiled: programs.Programs,
  until: int,
) -> None:
  config = batch.points[0].config
  every = config.writers.checkpoint_every
  saved = time.perf_counter()
  with progress(config.writers.progress, until, batch.done) as shown:
    for stop in _stops(batch, arguments, group, layout, compiled, until):
      alive = [(p, at) for p, at in batch.places() if not runs[p.id].fault]
      for point, at in alive:
        values = {k: loop.shortest(v[at]) for k, v in stop.metrics.items()}
        fault = loop.divergence(stop.round, values, bool(stop.healthy[at]))
        if fault:
          runs[point.id].diverge(stop.round, fault)
          continue
        told = stop.round == config.rounds or stop.on_schedule
        runs[point.id].results(
          stop.round, values if told else {}, stop.on_schedule
        )
        runs[point.id].timing(
          {
            'round': stop.round,
            'seconds': stop.seconds,
            'points': len(batch.points),
          }
        )
      alive = [(p, at) for p, at in alive if not runs[p.id].fault]
      now = time.perf_counter()
      due = (
        stop.round % every == 0 if every else now - saved > CHECKPOINT_SECONDS
      )
      if due or stop.round == until:
        saved = now
        own = jax.device_get(stop.own)
        for point, at in alive:
          runs[point.id].checkpoint(_state(own, at, stop.round, point))
      shown.show(stop.round, _means(stop.metrics, [at for _, at in alive]))
      if not alive:
        return


class Stop(NamedTuple):
  """A batch between two blocks of rounds; metrics are `[G, V]`."""

  round: int
  own: Own
  metrics: dict[str, np.ndarray]
  healthy: np.ndarray
  on_schedule: bool
  seconds: float


def _stops(
  batch: Batch,
  arguments: Arguments,
  group: Group,
  layout: Layout,
  compiled: programs.Programs,
  until: int,
) -> Iterator[Stop]:
  """Runs from stop to stop, as `loop.run` does."""
  config = batch.points[0].config
  every = config.writers.checkpoint_every
  now = batch.done
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


def _one_by_one(points: list[Point], folders: Folders) -> None:
  """Single runs, for what is no program of its own (host data, debugging)."""
  for point in points:
    path = folders.of(point)
    print(f'point {path.name}', flush=True)
    try:
      train.train(point.config, path)
    except loop.Diverged as error:
      folder = Folder(path)
      now = newest(folder.checkpoints)
      note = {'diverged': {'round': now, 'what': str(error)}}
      train.conclude(point.config, folder, note)


def _complete(point: Point, folders: Folders) -> None:
  """Writes what a stop right after the last checkpoint has left out."""
  folder = Folder(folders.of(point))
  with folder.locked():
    checkpoints = Checkpoints(folder.checkpoints, point.config.writers.keep)
    done = newest(folder.checkpoints)
    train.finished(point.config, folder, checkpoints, done)
    checkpoints.close()
    train.conclude(point.config, folder)


def _at_end(point: Point, folders: Folders) -> bool:
  lines = Folder(folders.of(point)).metrics()
  return bool(lines) and lines[-1]['round'] == point.config.rounds


def _diverged(point: Point, folders: Folders) -> bool:
  summary = Folder(folders.of(point)).read('summary.json') or {}
  return 'diverged' in summary


def _stored(path: pathlib.Path) -> dict[str, Any] | None:
  """What an earlier start resolved to."""
  content = Folder(path).read('config.json') if path.exists() else None
  return content['resolved'] if content else None


def _check(options: Options) -> None:
  for name in ('points_at_once', 'devices'):
    check_range(f'--{name}', getattr(options, name), rules.NOT_NEGATIVE)
  require(
    jax.process_count() == 1,
    f'a study runs in one process but there are {jax.process_count()}; give '
    'each machine a share of the points, --index=I --of=N',
  )
  require(
    options.devices <= jax.local_device_count(),
    f'--devices={options.devices} is more than the '
    f'{jax.local_device_count()} devices of this machine; choose fewer, or 0 '
    'for all',
  )
