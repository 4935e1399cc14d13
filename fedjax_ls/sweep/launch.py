"""Runs a study, structure by structure."""

import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax

from fedjax_ls import build, loop, rules, train
from fedjax_ls.checkpoint import Checkpoints, newest
from fedjax_ls.config import ConfigError
from fedjax_ls.consistency import require
from fedjax_ls.sweep import axes, groups, halving, layouts, programs
from fedjax_ls.sweep.batches import Ready, arguments_of, run_batch, start_state
from fedjax_ls.sweep.folders import Begun, Folders
from fedjax_ls.sweep.groups import Group
from fedjax_ls.sweep.point import Point
from fedjax_ls.sweep.programs import Common, Layout
from fedjax_ls.validate import check_range
from fedjax_ls.writers import Folder

# Points at a time on a CPU: as many as keep all their parameters in the cache,
# or one where the model says who takes part, so that no batches are shared.
CPU_POINTS, CPU_BYTES = 8, 1_250_000


class Options(NamedTuple):
  """How a study runs.

  Attributes:
    points_at_once: on each device, 0 to choose.
    devices: that points spread over, 0 for all; a point whose clients spread
      over some (`execution.devices`) takes as many of them.
    halving: `(round, settings that go on)`, see `halving`.
  """

  points_at_once: int = 0
  devices: int = 0
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
      f'index = {index} is no share of {of}; choose index in 0..{of - 1}'
    )
  ordered = [p for members in groups.structures(points) for p in members]
  return ordered[index * len(ordered) // of : (index + 1) * len(ordered) // of]


def _run_until(
  points: list[Point], folders: Folders, options: Options, until: int
) -> None:
  """Runs all points up to round `until`, or to their last one for 0."""
  structures = groups.structures(points)
  for i, members in enumerate(structures):
    to = until or members[0].config.rounds
    todo = []
    for point in members:
      if folders.over(point):
        continue
      ended = folders.done(point) >= to == point.config.rounds
      if folders.done(point) < to or (ended and not _completed(point, folders)):
        todo.append(point)
    if not todo:
      continue
    print(
      f'structure {i + 1} of {len(structures)}{axes.which(members, points)}'
    )
    if axes.alone(todo[0].config):
      _one_by_one(todo, folders)
      continue
    for ready in readied(members, todo, folders, options):
      ids = [point.id for point in ready.group.points]
      folders.begin(Begun(ids, ready.layout, _asked(options)))
      _run_group(ready, folders, to)


def readied(
  members: list[Point],
  todo: list[Point],
  folders: Folders,
  options: Options,
) -> Iterator[Ready]:
  """Compiles what is to run: groups that have begun as they were, then others.

  Args:
    members: all points of a structure.
    todo: those that are to run.
    folders: of the study.
    options: how to run it.
  """
  known = {point.id: point for point in members}
  for begun in folders.begun():
    rest = [point for point in todo if point.id not in begun.points]
    fits = known.keys() >= set(begun.points) and _fits(begun, options)
    if fits and len(rest) < len(todo):
      points = [known[name] for name in begun.points]
      for group in groups.prepare(points, folders.resolved(points)):
        yield _compiled(group, begun.layout)
      todo = rest
  if todo:
    for group in groups.prepare(todo, folders.resolved(todo)):
      yield fitting(group, options)


def _fits(begun: Begun, options: Options) -> bool:
  """Whether a group can go on as it has begun."""
  layout = begun.layout
  here = layout.devices * layout.clients <= jax.local_device_count()
  return here and begun.asked == _asked(options)


def _asked(options: Options) -> list[int]:
  return [options.points_at_once, options.devices]


def _run_group(ready: Ready, folders: Folders, until: int) -> None:
  """Runs batch after batch."""
  group, layout = ready.group, ready.layout
  print(
    f'{len(group.points)} points, {math.prod(layout.grid)} at a time on '
    f'{layout.devices * layout.clients} devices; compiled in '
    f'{ready.compiled.seconds:.1f} s',
    flush=True,
  )
  for batch in layouts.deal(group, layout):
    run_batch(ready, batch, folders, until)


def fitting(group: Group, options: Options) -> Ready:
  """Compiles for as many points at a time as fit, or as `options` say."""
  on_cpu = jax.default_backend() == 'cpu'
  automatic = not options.points_at_once
  at_once = options.points_at_once or (
    _cached_points(group) if on_cpu else len(group.points)
  )
  mesh = group.job.execution.mesh
  clients = 1 if mesh is None else mesh.size
  devices = options.devices or jax.local_device_count()
  while True:
    layout = layouts.choose(
      layouts.sizes(group),
      max(devices // clients, 1),
      at_once,
      mixed=not (on_cpu and automatic),
    )._replace(clients=clients)
    smaller = _smaller_chunk(group)
    try:
      ready = _compiled(group, layout)
      needed: float = ready.compiled.memory
    except loop.OutOfMemory as error:
      if at_once > 1 and not automatic:
        raise loop.OutOfMemory(
          f'{at_once} points at a time do not fit the memory; use '
          f'points_at_once = {at_once // 2}'
        ) from error
      if at_once == 1 and smaller is group:
        raise
      needed = math.inf
    budget = build.MEMORY_SHARE * build.free_bytes()
    last = at_once == 1 and smaller is group
    if needed <= budget or last or not automatic:
      return ready
    if at_once == 1:
      group = smaller
    most = at_once if needed == math.inf else at_once * budget / needed
    at_once = max(1, min(at_once // 2, int(most)))


def _compiled(group: Group, layout: Layout) -> Ready:
  """Compiles for one layout."""
  with loop.memory_named(None):
    common = programs.put_common(
      Common(group.x, group.y, group.tests), group, layout
    )
  batch = layouts.deal(group, layout)[0]
  # Only shapes are read, so the state of one point stands for all.
  start = start_state(group, batch.points[0], common)
  states = {point.id: start for point in batch.points}
  arguments = arguments_of(group, batch, layout, common, states)
  compiled = programs.compile_group(group, layout, arguments)
  return Ready(group, layout, compiled, common)


def _smaller_chunk(group: Group) -> Group:
  """With half the clients at a time, where they are free to choose."""
  execution = group.job.execution
  if not group.clients[0].plan.shrinks or execution.chunk == 1:
    return group
  execution = execution._replace(chunk=execution.chunk // 2)
  return group._replace(job=group.job._replace(execution=execution))


def _cached_points(group: Group) -> int:
  sampler = group.job.algorithm.sampler
  if sampler.asks or sampler.observe is not None:
    return 1
  params, _ = jax.eval_shape(group.job.model.init, jax.random.key(0))
  size = sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(params))
  return min(max(CPU_BYTES // size, 1), CPU_POINTS)


def _one_by_one(points: list[Point], folders: Folders) -> None:
  """Single runs, for what cannot run together."""
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


def _completed(point: Point, folders: Folders) -> bool:
  """Writes what a stop right after the last checkpoint has left out.

  A damaged one is deleted, so that the point goes on from the one before.
  """
  folder = Folder(folders.of(point))
  with folder.locked():
    checkpoints = Checkpoints(folder.checkpoints, point.config.writers.keep)
    last, *before = checkpoints.steps()
    finished = train.finished(point.config, folder, checkpoints, last)
    if finished:
      train.conclude(point.config, folder)
    else:
      checkpoints.forget_after(max(before, default=0))
    checkpoints.close()
  return finished


def _diverged(point: Point, folders: Folders) -> bool:
  summary = Folder(folders.of(point)).read('summary.json') or {}
  return 'diverged' in summary


def _check(options: Options) -> None:
  for name in ('points_at_once', 'devices'):
    check_range(name, getattr(options, name), rules.NOT_NEGATIVE)
  require(
    jax.process_count() == 1,
    f'a study runs in one process but there are {jax.process_count()}; give '
    'each machine a share of the points, by index and of',
  )
  require(
    options.devices <= jax.local_device_count(),
    f'devices = {options.devices} is more than the '
    f'{jax.local_device_count()} devices of this machine; choose fewer, or 0 '
    'for all',
  )
