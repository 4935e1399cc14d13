"""The files of a run's folder."""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np

Line = dict[str, Any]


class Folder:
  """A run's working directory.

  `metrics.jsonl` holds results only, one JSON object a line, and is the same
  to the byte however often the run was stopped; wall-clock times go to
  `timing.jsonl`.
  """

  def __init__(self, path: str | os.PathLike):
    """Makes the directory.

    Raises:
      ValueError: it cannot be made.
    """
    self.path = pathlib.Path(path)
    try:
      (self.path / 'plots').mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ValueError(
        f'workdir = {path} cannot be made ({error.strerror}); '
        'give a folder that you may write to'
      ) from error

  @property
  def checkpoints(self) -> pathlib.Path:
    """Where the checkpoints are."""
    return self.path / 'checkpoints'

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Keeps other processes out; ends with the process at the latest.

    Raises:
      ValueError: another process is at work here.
    """
    with open(self.path / '.lock', 'w') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise ValueError(
          f'{self.path} is in use by another process; wait for it or use '
          'another workdir'
        ) from error
      yield

  def read(self, name: str) -> Any:
    """Content of a JSON file, None if there is none.

    Raises:
      ValueError: it is no JSON.
    """
    return read_json(self.path / name)

  def write(self, name: str, content: Any) -> None:
    """Writes a JSON file; a reader sees the old or the new one."""
    write_json(self.path / name, content)

  def write_diagnostics(self, now: int, arrays: dict[str, np.ndarray]) -> None:
    """Writes `diagnostics/round_XXXXXX.npz`, whole or not at all."""
    place = self.path / 'diagnostics'
    place.mkdir(exist_ok=True)
    new = place / '.new.npz'
    with open(new, 'wb') as file:
      np.savez(file, **arrays)  # type: ignore[arg-type]
      _flush(file)
    new.replace(place / f'round_{now:06d}.npz')

  def diagnostics(self) -> dict[int, dict[str, np.ndarray]]:
    """What was diagnosed, `{round: {name: array}}`, in order."""
    found = {}
    for file in sorted((self.path / 'diagnostics').glob('round_*.npz')):
      with np.load(file) as arrays:
        found[int(file.stem.removeprefix('round_'))] = dict(arrays)
    return found

  def cut_metrics(self, num_bytes: int, tail: str = '') -> None:
    """Makes the results those of a checkpoint.

    Args:
      num_bytes: where the file is cut.
      tail: what is to follow.

    Raises:
      ValueError: the file is shorter than that.
    """
    file = self.path / 'metrics.jsonl'
    size = file.stat().st_size if file.exists() else 0
    if size < num_bytes:
      raise ValueError(
        f'{file} has {size} bytes but its checkpoint was made at {num_bytes}; '
        'restore the file or use another workdir'
      )
    if size > num_bytes and self.metrics_after(num_bytes) == tail:
      return
    with open(file, 'a') as opened:
      opened.truncate(num_bytes)
      opened.write(tail)
      _flush(opened)

  def metrics_after(self, num_bytes: int) -> str:
    """What follows that many bytes of the results."""
    with open(self.path / 'metrics.jsonl', 'rb') as file:
      file.seek(num_bytes)
      return file.read().decode()

  def add_metrics(self, line: Line) -> int:
    """Appends results for good.

    Returns:
      The number of bytes that the file then has.
    """
    return self._append('metrics.jsonl', line)

  def add_timing(self, line: Line) -> None:
    """Appends what something took."""
    self._append('timing.jsonl', line)

  def metrics(self) -> list[Line]:
    """All results so far."""
    file = self.path / 'metrics.jsonl'
    text = file.read_text() if file.exists() else ''
    return [json.loads(line) for line in text.splitlines()]

  def _append(self, name: str, line: Line) -> int:
    clean = {k: _for_json(v) for k, v in line.items()}
    with open(self.path / name, 'a') as file:
      file.write(json.dumps(clean, allow_nan=False) + '\n')
      _flush(file)
      return file.tell()


def read_json(file: pathlib.Path) -> Any:
  """Content of a JSON file, None if there is none.

  Raises:
    ValueError: it is no JSON.
  """
  try:
    return json.loads(file.read_text()) if file.exists() else None
  except ValueError as error:
    raise ValueError(
      f'{file} cannot be read ({error}); restore it or use another workdir'
    ) from error


def write_json(file: pathlib.Path, content: Any) -> None:
  """Writes a JSON file; a reader sees the old or the new one."""
  new = file.with_name(f'.{file.name}.new')
  with open(new, 'w') as opened:
    opened.write(json.dumps(content, indent=2) + '\n')
    _flush(opened)
  new.replace(file)


def summary(lines: list[Line]) -> dict[str, Any]:
  """The last and the best results of a run.

  With a validation set, `selected_on_validation` is the line of the round
  that is best there, which is what may be reported.  `best_on_test` looks at
  the test set to choose, as some papers do, and flatters.

  Args:
    lines: of `metrics.jsonl`.

  Returns:
    `{'last': line, ...}`.

  >>> lines = [{'round': 1, 'test/accuracy': 0.5, 'validation/accuracy': 0.4},
  ...          {'round': 2, 'test/accuracy': 0.4, 'validation/accuracy': 0.6}]
  >>> {k: line['round'] for k, line in summary(lines).items()}
  {'last': 2, 'selected_on_validation': 2, 'best_on_test': 1}
  """
  chosen = {'last': lines[-1]}
  for name, split in (
    ('selected_on_validation', 'validation'),
    ('best_on_test', 'test'),
  ):
    best = _best(lines, split)
    chosen |= {name: best} if best else {}
  return chosen


def versions() -> dict[str, str]:
  """Versions of what computes the results, and the commit of this package."""
  names = ('fedjax_ls', 'jax', 'jaxlib', 'flax', 'optax', 'numpy')
  found = {'python': platform.python_version()}
  for name in names:
    try:
      found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      found[name] = 'unknown'
  return {**found, 'commit': _commit()}


def learning_curve(
  lines: list[Line], path: str | os.PathLike, over: str = 'round'
) -> None:
  """Writes a PNG of accuracy (or test loss) and train loss.

  Args:
    lines: of `metrics.jsonl`.
    path: the file.
    over: the metric on the horizontal axis.
  """
  from matplotlib import figure

  along = [line[over] for line in lines]
  measure = 'accuracy' if 'test/accuracy' in lines[-1] else 'loss'
  fig = figure.Figure((8.0, 3.2), dpi=120, layout='constrained')
  left, right = fig.subplots(1, 2)
  for split in ('test', 'validation'):
    if f'{split}/{measure}' in lines[-1]:
      values = [_plotted(line[f'{split}/{measure}']) for line in lines]
      left.plot(along, values, marker='.', label=split)
  values = [_plotted(line.get('train/loss')) for line in lines]
  right.plot(along, values, marker='.', color='C3')
  left.set(xlabel=over.replace('_', ' '), ylabel=measure)
  right.set(xlabel=over.replace('_', ' '), ylabel='train loss')
  left.legend()
  for axes in (left, right):
    axes.grid(alpha=0.3)
  fig.savefig(path, format='png')


def client_histogram(
  values: np.ndarray, path: str | os.PathLike, measure: str
) -> None:
  """Writes a PNG of how a metric spreads over clients.

  Args:
    values: `[C]`, one number a client.
    path: the file.
    measure: what the numbers are.
  """
  from matplotlib import figure

  fig = figure.Figure((4.4, 3.2), dpi=120, layout='constrained')
  axes = fig.subplots()
  axes.hist(values, bins=20, range=(0, 1) if measure == 'accuracy' else None)
  axes.axvline(values.mean(), color='C1', label='mean')
  axes.set(
    xlabel=f'test {measure} of a client',
    ylabel='clients',
    title=f'standard deviation {values.std():.3f}',
  )
  axes.legend()
  fig.savefig(path, format='png')


def _best(lines: list[Line], split: str) -> Line | None:
  for measure, sign in (('accuracy', 1), ('loss', -1)):
    name = f'{split}/{measure}'
    known = [line for line in lines if line.get(name) is not None]
    if known:
      return max(known, key=lambda line: sign * line[name])
  return None


def _plotted(value: float | None) -> float:
  return np.nan if value is None else value


def _for_json(value: Any) -> Any:
  """JSON has no NaN or infinity."""
  infinite = isinstance(value, float) and not math.isfinite(value)
  return None if infinite else value


def _flush(file) -> None:
  file.flush()
  os.fsync(file.fileno())


def _commit() -> str:
  """Git commit of this package's source, with + where it was changed."""
  folder = pathlib.Path(__file__).parent

  def git(*args: str) -> str:
    done = subprocess.run(
      ['git', '-C', str(folder), *args], capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else ''

  try:
    tracked = git('ls-files', 'round.py')
    commit = git('rev-parse', 'HEAD') if tracked else ''
    changed = '+' if commit and git('status', '--porcelain', '.') else ''
  except OSError:
    return 'unknown'
  return commit + changed or 'unknown'
