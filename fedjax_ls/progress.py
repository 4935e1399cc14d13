"""What a run shows while it goes on: a bar, lines, or nothing."""

import sys
import time
from typing import Any

Line = dict[str, Any]


def progress(kind: str, rounds: int, done: int = 0):
  """Makes a context manager whose `show(round, metrics)` tells how it goes.

  Args:
    kind: `auto` (a bar on a terminal if rich is installed, else lines),
      `bar`, `lines` or `off`.
    rounds: rounds in all.
    done: rounds done before.
  """
  if kind == 'auto':
    kind = 'bar' if sys.stdout.isatty() and _has_rich() else 'lines'
  return {'bar': Bar, 'lines': Lines, 'off': Silent}[kind](rounds, done)


class Silent:
  """Shows nothing."""

  def __init__(self, rounds: int, done: int):
    """Takes what the others take."""
    self.rounds = rounds
    self.done = done
    self.begin = time.perf_counter()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    return None

  def show(self, now: int, metrics: Line) -> None:
    """Tells about round `now`; `metrics` may be empty."""

  def _rate(self, now: int) -> float:
    return (now - self.done) / max(time.perf_counter() - self.begin, 1e-9)


class Lines(Silent):
  """One line an evaluation."""

  def show(self, now: int, metrics: Line) -> None:
    """Prints a line if there are metrics."""
    if metrics:
      rate = self._rate(now)
      left = _clock((self.rounds - now) / rate)
      print(
        f'round {now}/{self.rounds}  {told(metrics)}  '
        f'{rate:.3g} rounds/s  {left} left',
        flush=True,
      )


class Bar(Silent):
  """A bar that stays on one line of a terminal."""

  def __init__(self, rounds: int, done: int):
    """Draws the bar.

    Raises:
      ValueError: rich is not installed.
    """
    super().__init__(rounds, done)
    try:
      from rich import progress as rich
    except ImportError as error:
      raise ValueError(
        "writers.progress = 'bar' needs rich; "
        "install it with pip install 'fedjax_ls[run]'"
      ) from error
    self._told = ''
    self._bar = rich.Progress(
      rich.TextColumn('round {task.completed}/{task.total}'),
      rich.BarColumn(bar_width=16),
      rich.TextColumn('{task.fields[told]}'),
    )
    self._task = self._bar.add_task('', total=rounds, completed=done, told='')

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *_):
    self._bar.stop()

  def show(self, now: int, metrics: Line) -> None:
    """Moves the bar."""
    rate = self._rate(now)
    left = _clock((self.rounds - now) / rate)
    self._told = told(metrics, 1) or self._told
    text = f'{self._told}  {rate:.3g} rounds/s  {left} left'
    self._bar.update(self._task, completed=now, told=text)


def told(metrics: Line, most: int = 3) -> str:
  """The few metrics that fit on a line, at most `most`.

  >>> told({'test/accuracy': 0.5, 'train/loss': 0.25, 'test/loss': 1.0})
  'test/accuracy 0.5000  train/loss 0.2500'
  """
  names = ('validation/accuracy', 'test/accuracy', 'train/loss')
  if 'test/accuracy' not in metrics:
    names = ('validation/loss', 'test/loss', 'train/loss')
  known = [name for name in names if metrics.get(name) is not None]
  return '  '.join(f'{name} {metrics[name]:.4f}' for name in known[:most])


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return (
    f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
  )


def _has_rich() -> bool:
  try:
    import rich  # noqa: F401
  except ImportError:
    return False
  return True
