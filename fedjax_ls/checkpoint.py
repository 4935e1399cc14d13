"""Checkpoints: the whole state of a run, written while it goes on.

A checkpoint appears under its final name only once it is complete, so that a
run killed while writing one finds the one before.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.types import State


def newest(folder: str | pathlib.Path) -> int:
  """Round of the newest complete checkpoint in a folder, 0 for none."""
  names = (
    path.name
    for path in pathlib.Path(folder).glob('*')
    if (path / '_CHECKPOINT_METADATA').exists()
  )
  # While it is being written, a checkpoint's name has more than the round.
  return max((int(name) for name in names if name.isdigit()), default=0)


class Checkpoints:
  """The newest checkpoints of one run."""

  def __init__(self, folder: str | pathlib.Path, keep: int = 2):
    """Opens the folder, which is made if it is missing.

    Args:
      folder: where the checkpoints are.
      keep: how many to keep; the older ones are deleted.
    """
    import orbax.checkpoint as ocp

    self._ocp = ocp
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    # Every process has the whole state and reads it on its own; see `save`.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
      primary_host=me,
      active_processes={me},
      barrier_sync_key_prefix=f'process_{me}',
    )
    self._manager = ocp.CheckpointManager(
      pathlib.Path(folder).absolute(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        cleanup_tmp_directories=me == 0,
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

  def read(self, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by their path in the state, and the record saved with them."""
    args = self._ocp.args
    record = self._manager.restore(
      step, args=args.Composite(record=args.JsonRestore())
    )['record']
    kinds = record.pop('arrays')
    abstract = {
      k: np.empty(shape, jnp.dtype(dtype))
      for k, (dtype, shape) in kinds.items()
    }
    arrays = self._manager.restore(
      step, args=args.Composite(state=args.StandardRestore(abstract))
    )['state']
    return arrays, record

  def restore(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
      step: its round.
      like: a state of the same run, for its structure.

    Returns:
      The state, of NumPy arrays, and the record saved with it.

    Raises:
      ValueError: the checkpoint's arrays are not those of `like`.
    """
    arrays, record = self.read(step)
    _check_same(_kinds(arrays), _kinds(_named(like)), step)
    paths, tree = jax.tree_util.tree_flatten_with_path(like)
    leaves = [
      arrays.get(jax.tree_util.keystr(path), np.asarray(leaf))
      for path, leaf in paths
    ]
    return jax.tree.unflatten(tree, leaves), record

  def close(self) -> None:
    """Waits until all that was saved is complete."""
    self._manager.wait_until_finished()
    self._manager.close()


def _named(state: State) -> dict[str, Any]:
  """Leaves by path; empty arrays hold nothing and cannot be stored."""
  paths = jax.tree_util.tree_leaves_with_path(state)
  return {jax.tree_util.keystr(p): leaf for p, leaf in paths if leaf.size}


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
        'use another --workdir'
      )
