"""Checkpoints: the whole state of a run, written while it goes on.

A checkpoint appears under its final name only once it is complete, so that a
run killed while writing one finds the one before.
"""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.types import State

T = TypeVar('T')


class Unreadable(ValueError):
  """A checkpoint is damaged."""


def complete(folder: str | pathlib.Path) -> list[int]:
  """Rounds of the complete checkpoints in a folder, newest first.

  For local file systems, where a finished checkpoint is renamed to its round;
  object stores mark it otherwise.
  """
  names = (
    path.name
    for path in pathlib.Path(folder).glob('*')
    if (path / '_CHECKPOINT_METADATA').exists()
  )
  # While it is being written, a checkpoint's name has more than the round.
  return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def newest(folder: str | pathlib.Path) -> int:
  """Round of the newest complete checkpoint in a local folder, 0 for none."""
  return max(complete(folder), default=0)


class Checkpoints:
  """The newest checkpoints of one run."""

  def __init__(
    self,
    folder: str | pathlib.Path,
    keep: int = 2,
    *,
    read_only: bool = False,
  ):
    """Opens the folder, which is made if it is missing.

    Args:
      folder: where the checkpoints are.
      keep: how many to keep; the older ones are deleted.
      read_only: leaves the folder as it is, also what another process is
        writing there.
    """
    import orbax.checkpoint as ocp

    self._ocp = ocp
    if not read_only:
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    # Every process has the whole state and reads it on its own; see `save`.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
      primary_host=me,
      active_processes={me},
      barrier_sync_key_prefix=f'process_{me}',
    )
    self._folder = pathlib.Path(folder).absolute()
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else keep,
        create=False,
        cleanup_tmp_directories=me == 0 and not read_only,
        enable_async_checkpointing=True,
        multiprocessing_options=alone,
      ),
    )

  def save(self, state: State, record: dict[str, Any]) -> None:
    """Starts writing a checkpoint; waits for the one before.

    Of several processes only the first writes.

    Args:
      state: the whole run.
      record: what else to remember, for JSON.
    """
    if jax.process_index() != 0:
      return
    # A copy: the state's own memory is used up by the next block of rounds.
    arrays = {k: np.array(v) for k, v in _named(state).items()}
    record = {**record, 'arrays': _kinds(arrays)}
    args = self._ocp.args
    self._manager.save(
      int(state.round),
      args=args.Composite(
        state=args.StandardSave(arrays), record=args.JsonSave(record)
      ),
    )

  def steps(self) -> list[int]:
    """Rounds of the complete checkpoints, newest first."""
    return complete(self._folder)

  def forget_after(self, step: int) -> None:
    """Deletes the checkpoints after a round, complete or damaged."""
    if jax.process_index() == 0:
      self._manager.reload()
      for later in self._manager.all_steps():
        if later > step:
          self._manager.delete(later)

  def record(self, step: int) -> dict[str, Any]:
    """What was to be remembered with a checkpoint.

    Raises:
      Unreadable: it is damaged.
    """
    args = self._ocp.args
    only = args.Composite(record=args.JsonRestore())
    return self._restored(step, only)['record']

  def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by their path in the state, and the record saved with them.

    Raises:
      Unreadable: the checkpoint is damaged.
    """
    record = self.record(step)
    abstract = {
      k: np.empty(shape, jnp.dtype(dtype))
      for k, (dtype, shape) in record.pop('arrays').items()
    }
    args = self._ocp.args
    only = args.Composite(state=args.StandardRestore(abstract))
    return self._restored(step, only)['state'], record

  def restore(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      step: its round.
      like: a state of the same run, for its structure.

    Returns:
      The state, of NumPy arrays, and the record saved with it.

    Raises:
      Unreadable: the checkpoint is damaged.
      ValueError: its arrays are not those of `like`.
    """
    arrays, record = self.read(step)
    return _filled(like, arrays, step), record

  def restore_server(self, step: int, like: Any) -> Any:
    """Reads the server's part of a checkpoint.

    Args:
      step: its round.
      like: a server's state of the same run, or its shapes and types.

    Returns:
      The server's state, of NumPy arrays.

    Raises:
      Unreadable: the checkpoint is damaged.
      ValueError: its arrays are not those of `like`.
    """
    arrays, _ = self.read(step)
    mine = {k: v for k, v in arrays.items() if k.startswith('.server')}
    nothing: Any = None
    alone = State(like, (), (), {}, seed=nothing, round=nothing)
    return _filled(alone, mine, step).server

  def newest_readable(
    self,
    read: Callable[[int], T],
    tell: Callable[[int, Unreadable], None],
  ) -> tuple[int, T] | None:
    """Reads the newest checkpoint that is not damaged.

    Args:
      read: what to read of the checkpoint of a round.
      tell: told the round and the error of each damaged one before.

    Returns:
      Its round and what was read, None if there is no checkpoint.

    Raises:
      Unreadable: there are some but all are damaged.
    """
    damaged: Unreadable | None = None
    for step in self.steps():
      try:
        return step, read(step)
      except Unreadable as error:
        tell(step, error)
        damaged = damaged or error
    if damaged is not None:
      raise damaged
    return None

  def _restored(self, step: int, args):
    try:
      return self._manager.restore(step, args=args)
    except Exception as error:  # of many kinds, by what is damaged
      raise Unreadable(
        f'the checkpoint of round {step} in {self._folder} is damaged; restore '
        'it or use another workdir'
      ) from error

  def close(self) -> None:
    """Waits until all that was saved is complete."""
    self._manager.wait_until_finished()
    self._manager.close()


def _named(state: State) -> dict[str, Any]:
  """Leaves by path; empty arrays hold nothing and cannot be stored."""
  paths = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(p): leaf for p, leaf in paths if leaf.size}


def _filled(like: State, arrays: dict[str, Any], step: int) -> State:
  """A state with its leaves from a checkpoint."""
  _check_same(_kinds(arrays), _kinds(_named(like)), step)
  paths, tree = jax.tree_util.tree_flatten_with_path(like)
  leaves = [
    arrays.get(jax.tree_util.keystr(path), np.empty(leaf.shape, leaf.dtype))
    for path, leaf in paths
  ]
  return jax.tree.unflatten(tree, leaves)


def _kinds(arrays: dict[str, Any]) -> dict[str, list]:
  return {k: [str(v.dtype), list(v.shape)] for k, v in arrays.items()}


def _check_same(
  stored: dict[str, list], wanted: dict[str, list], step: int
) -> None:
  for name in {**wanted, **stored}:
    if wanted.get(name) != stored.get(name):
      raise ValueError(
        f'the checkpoint of round {step} holds {stored.get(name, "nothing")} '
        f'for {name} but this run {wanted.get(name, "nothing")}; '
        'use another workdir'
      )
