"""Times both sides of a benchmark in turns, each in a process of its own.

A process a side keeps their threads apart and makes peak memory a number of
each; taking turns makes the ratio hold on a machine that others use, too.
"""

import datetime
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

FOLDER = flags.DEFINE_string(
  'folder', 'runs/benchmarks', 'Where results are written.'
)

Rounds = Callable[[int, int], int]


class Timed(NamedTuple):
  """What one side took.

  Attributes:
    seconds: of one round, median.
    cpu: processor seconds of one round, median, of all threads.
    first_round: seconds from built data to the end of the first round.
    updates: clients trained per second.
    peak_bytes: largest resident memory of the process.
    examples: examples trained on in the timed rounds.
  """

  seconds: float
  cpu: float
  first_round: float
  updates: float
  peak_bytes: int
  examples: int


class Turn(NamedTuple):
  """What some rounds took: seconds, processor seconds, examples trained on,
  and the process's peak memory since its imports, bytes."""

  seconds: float
  cpu: float
  examples: int
  peak: int


class Side:
  """A process that runs rounds.

  Args:
    start: `(*args) -> (rounds, begin)`, called in the process; `rounds(first,
      count)` runs those rounds and returns the number of examples trained on,
      and `begin` is when the clock of the first round starts.
    args: of `start`.
  """

  def __init__(self, start: Callable[..., tuple[Rounds, float]], *args):
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(
      target=_serve, args=(theirs, start, args), daemon=True
    )
    self._process.start()
    theirs.close()

  def __call__(self, first: int, count: int) -> Turn:
    """Runs those rounds."""
    self._pipe.send((first, count))
    return self._pipe.recv()

  def close(self) -> None:
    """Ends the process."""
    self._pipe.send(None)
    self._process.join()


def compare(
  sides: dict[str, Side], cohort_size: int, seconds: float, least: int = 3
) -> dict[str, Timed]:
  """Runs all sides in turns on the same rounds.

  Args:
    sides: by name.
    cohort_size: clients of a round.
    seconds: to spend, about, after the first round of each.
    least: fewest turns.

  Returns:
    `{name: times}`.
  """
  first = {name: side(0, 1) for name, side in sides.items()}
  again = [side(1, 1).seconds for side in sides.values()]
  # A turn is long enough to be timed well: 50 ms of the fastest side.
  rounds = max(int(0.05 / min(again)), 1)
  turns = max(int(seconds / sum(again) / rounds), least)
  taken: dict[str, list[Turn]] = {name: [] for name in sides}
  for i in range(turns):
    for name, side in sides.items():
      taken[name].append(side(2 + i * rounds, rounds))
  _same_examples(taken)
  return {
    name: _timed(cohort_size, rounds, first[name], turns)
    for name, turns in taken.items()
  }


def _timed(
  cohort_size: int, rounds: int, first: Turn, turns: list[Turn]
) -> Timed:
  seconds, cpu = np.median([turn[:2] for turn in turns], axis=0) / rounds
  return Timed(
    seconds=float(seconds),
    cpu=float(cpu),
    first_round=first.seconds,
    updates=cohort_size / float(seconds),
    peak_bytes=turns[-1].peak,
    examples=sum(turn.examples for turn in turns),
  )


def _same_examples(taken: dict[str, list[Turn]]) -> None:
  seen = {k: sum(t.examples for t in turns) for k, turns in taken.items()}
  if len(set(seen.values())) > 1:
    raise RuntimeError(f'the sides trained on different examples: {seen}')


def matmul_rate(size: int = 1024, repeats: int = 20) -> float:
  """Float32 operations per second of a square matrix product, at best."""
  a = jnp.ones((size, size))
  product = jax.jit(jnp.matmul)
  best = float('inf')
  for _ in range(repeats):
    begin = time.perf_counter()
    jax.block_until_ready(product(a, a))
    best = min(best, time.perf_counter() - begin)
  return 2 * size**3 / best


def installed(package: str) -> str:
  """The version of a package, '' if it is not installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''


def machine() -> dict[str, Any]:
  """Where and when this runs."""
  packages = 'fedjax_ls', 'jax', 'flax', 'torch', 'numpy'
  return {
    'date': datetime.date.today().isoformat(),
    'processor': _processor(),
    'cores': os.cpu_count(),
    'python': platform.python_version(),
    **{name: installed(name) for name in packages},
  }


def table(rows: Sequence[dict[str, str]]) -> str:
  """Lines of aligned columns; all rows have the same keys.

  >>> print(table([{'side': 'ours', 's': '1.0'}, {'side': 'x', 's': '10.0'}]))
  side     s
  ours   1.0
  x     10.0
  """
  lines = [list(rows[0]), *(list(row.values()) for row in rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join(
    '  '.join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    )
    for line in lines
  )


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes a result as JSON, and says where."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content, indent=2) + '\n')
  print(f'written to {path}', flush=True)


def _serve(pipe, start, args) -> None:
  imported = _peak_bytes()
  rounds = None
  while (asked := pipe.recv()) is not None:
    begin, cpu = time.perf_counter(), time.process_time()
    if rounds is None:
      rounds, begin = start(*args)
    examples = rounds(*asked)
    seconds = time.perf_counter() - begin
    cpu = time.process_time() - cpu
    pipe.send(Turn(seconds, cpu, examples, _peak_bytes() - imported))


def _peak_bytes() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _processor() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor()
  names = [line.split(':')[1].strip() for line in lines if 'model name' in line]
  return names[0] if names else platform.processor()
