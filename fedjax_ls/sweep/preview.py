"""What a study would do: its axes, structures, shapes, memory and time."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from fedjax_ls.sweep import axes, groups, launch, layouts, programs
from fedjax_ls.sweep.batches import Ready, arguments_of, start_state
from fedjax_ls.sweep.folders import Folders
from fedjax_ls.sweep.launch import Options
from fedjax_ls.sweep.point import Point
from fedjax_ls.sweep.programs import Arguments


def dry_run(
  points: list[Point], workdir: str, options: Options
) -> Iterator[str]:
  """Tells line by line what `run` would do; compiles, and times one round.

  Args:
    points: of the study.
    workdir: its folder, which is left alone.
    options: of the run.

  Yields:
    Lines for people.
  """
  folders = Folders(workdir)
  todo = [p for p in points if not folders.over(p)]
  yield f'{len(points)} points, {len(points) - len(todo)} of them done'
  for field, values in axes.swept(points).items():
    kind = axes.kind(field, points[0].config)
    why = axes.reason(field, points[0].config)
    yield f'  {field}: {len(values)} values, {kind}: {why}'
  structures = groups.structures(points)
  total = 0.0
  for i, members in enumerate(structures):
    left = [p for p in members if p in todo]
    if not left:
      continue
    yield f'structure {i + 1} of {len(structures)}{axes.which(members, points)}'
    if axes.alone(left[0].config):
      yield f'  {len(left)} points as single runs, one after the other'
      continue
    for ready in launch.readied(members, left, folders, options):
      lines, seconds = _group(ready, folders)
      total += seconds
      yield from (f'  {line}' for line in lines)
  yield f'about {_clock(total)} in all, without compiling'


def _group(ready: Ready, folders: Folders) -> tuple[list[str], float]:
  group, layout, compiled, common = ready
  batches = layouts.deal(group, layout)
  start = start_state(group, group.points[0], common)
  states = {point.id: start for point in group.points}
  arguments = arguments_of(group, batches[0], layout, common, states)
  arguments = programs.place(arguments, group, layout)
  own = _bytes(arguments.own) / math.prod(layout.grid)
  a_round, a_judgement = _times(ready, arguments)
  config = group.points[0].config
  rounds = sum(
    config.rounds - min(map(folders.done, batch.points)) for batch in batches
  )
  seconds = rounds * a_round + rounds / config.eval_every * a_judgement
  index = group.clients[0].federation.index.shape
  slots = math.prod(layout.grid) * len(batches)
  clients = f' times {layout.clients}' if layout.clients > 1 else ''
  return [
    f'{len(group.points)} points with {len(group.clients)} partitions of '
    f'{index[0]} clients; examples {list(group.x.shape)}, rows '
    f'{list(index)}, {group.padded_rows:.0%} of them padding',
    f'memory: {_megabytes(_bytes(common))} examples for all, '
    f'{_megabytes(own)} state a point, {_megabytes(compiled.memory)} program',
    f'{layout.points} points a pack, {layout.packs} packs at a time on each of '
    f'{layout.devices} devices{clients}; {len(batches)} batches, '
    f'{1 - len(group.points) / slots:.0%} of their room empty',
    f'compiled in {compiled.seconds:.1f} s; a round of a batch takes '
    f'{a_round:.3g} s, an evaluation {a_judgement:.3g} s: about '
    f'{_clock(seconds)}',
  ], seconds


def _times(ready: Ready, arguments: Arguments) -> tuple[float, float]:
  """Seconds of a round and of an evaluation, after a first one of each."""
  compiled = ready.compiled
  one = programs.put_number(1, ready.group, ready.layout)
  took = []
  for _ in range(2):
    begin = time.perf_counter()
    own = jax.block_until_ready(compiled.advance(*arguments, one))
    arguments = arguments._replace(own=own)
    middle = time.perf_counter()
    jax.block_until_ready(compiled.judge(*arguments))
    took.append((middle - begin, time.perf_counter() - middle))
  return took[-1]


def _bytes(tree: Any) -> int:
  return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


def _megabytes(size: float) -> str:
  return f'{size / 1e6:.3g} MB'


def _clock(seconds: float) -> str:
  for size, unit in ((3600, 'h'), (60, 'min')):
    if seconds >= 2 * size:
      return f'{seconds / size:.3g} {unit}'
  return f'{seconds:.3g} s'
