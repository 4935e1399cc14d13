"""Copies of a run's results in the formats of other tools.

`metrics.jsonl` is the run; a copy is made anew from it whenever the run starts
or resumes, and holds each round once, however often the run was stopped.
"""

import contextlib
import importlib.util
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from fedjax_ls.consistency import require
from fedjax_ls.data.checks import unknown
from fedjax_ls.writers import Folder, Line


class Mirror(Protocol):
  """What takes results."""

  def write(self, line: Line) -> None:
    """Takes the results of one round; None stands for no finite number."""

  def close(self) -> None:
    """Writes what is left."""


class TensorBoard:
  """Scalars over rounds in `tensorboard/`, by tensorboardX."""

  PACKAGE = 'tensorboardX'

  def __init__(self, path: pathlib.Path, config: dict[str, Any]):
    """Begins an empty copy; the configuration is not shown."""
    from tensorboardX import SummaryWriter

    del config
    shutil.rmtree(path / 'tensorboard', ignore_errors=True)
    self._writer = SummaryWriter(str(path / 'tensorboard'))

  def write(self, line: Line) -> None:
    """Adds a scalar for each metric."""
    for name, value in _numbers(line).items():
      self._writer.add_scalar(name, value, line['round'])
    self._writer.flush()

  def close(self) -> None:
    """Closes the event file."""
    self._writer.close()


class WandB:
  """An offline run of Weights & Biases in `wandb/`; `wandb sync` uploads it.

  A copy made anew keeps the id of the one before.
  """

  PACKAGE = 'wandb'

  def __init__(self, path: pathlib.Path, config: dict[str, Any]):
    """Begins an empty copy."""
    import wandb

    before = sorted((path / 'wandb').glob('offline-run-*-*'))
    name = before[-1].name.rpartition('-')[2] if before else None
    shutil.rmtree(path / 'wandb', ignore_errors=True)
    self._run = wandb.init(
      project='fedjax_ls',
      name=path.absolute().name,
      id=name,
      dir=str(path),
      config=config,
      mode='offline',
      reinit='create_new',  # the points of a study run side by side
      settings=wandb.Settings(silent=True, console='off'),
    )

  def write(self, line: Line) -> None:
    """Logs the metrics with the round for a step."""
    self._run.log(_numbers(line), step=line['round'])

  def close(self) -> None:
    """Ends the run."""
    self._run.finish()


MIRRORS: dict[str, Any] = {'tensorboard': TensorBoard, 'wandb': WandB}


def check(names: Sequence[str]) -> None:
  """Refuses a name that is unknown or whose package is missing.

  Raises:
    ValueError: one sentence.
  """
  for name in names:
    if name not in MIRRORS:
      raise unknown('writers.extra', name, MIRRORS)
    package = MIRRORS[name].PACKAGE
    require(
      importlib.util.find_spec(package) is not None,
      f'writers.extra = {tuple(names)!r} needs the package {package}; install '
      f"it with pip install 'fedjax_ls[{name}]', or leave {name} out",
    )


@contextlib.contextmanager
def mirrored(
  names: Sequence[str], folder: Folder, config: dict[str, Any]
) -> Iterator[Callable[[Line], None]]:
  """Copies the results so far; what it gives copies those that follow.

  Args:
    names: of the formats.
    folder: of the run, its results cut to those that count.
    config: of the run, for the tools that show it.
  """
  with contextlib.ExitStack() as stack:
    mirrors: list[Mirror] = []
    for name in dict.fromkeys(names):
      mirrors.append(MIRRORS[name](folder.path, config))
      stack.callback(mirrors[-1].close)

    def write(line: Line) -> None:
      for mirror in mirrors:
        mirror.write(line)

    for line in folder.metrics() if mirrors else ():
      write(line)
    yield write


def _numbers(line: Line) -> dict[str, float]:
  return {
    name: value
    for name, value in line.items()
    if name != 'round' and value is not None and math.isfinite(value)
  }
