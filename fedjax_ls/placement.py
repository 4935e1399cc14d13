"""Putting arrays on the devices of a run, also those of other processes."""

from typing import Any

import jax
import numpy as np

from fedjax_ls.types import Execution

Tree = Any


def place(tree: Tree, execution: Execution) -> Tree:
  """Puts arrays on the device, or a copy on each device of the mesh.

  With several processes each must give the same values.
  """
  mesh = execution.mesh
  if mesh is None:
    return jax.device_put(tree, jax.local_devices()[0])
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  if jax.process_count() == 1:
    return jax.device_put(tree, sharding)

  def put(array):
    array = np.asarray(array)
    # One by one: other ways count as accidental transfers.
    copies = [jax.device_put(array, d) for d in mesh.local_devices]
    return jax.make_array_from_single_device_arrays(
      array.shape, sharding, copies
    )

  return jax.tree.map(put, tree)


def split(blocks: list[np.ndarray], execution: Execution) -> jax.Array:
  """One array whose first axis is split over the mesh.

  Args:
    blocks: the parts of this process's devices, all of one shape.
    execution: with the mesh, or none for one device.
  """
  if execution.mesh is None:
    return jax.device_put(blocks[0], jax.local_devices()[0])
  spec = jax.sharding.PartitionSpec('clients')
  sharding = jax.sharding.NamedSharding(execution.mesh, spec)
  local = execution.mesh.local_devices
  arrays = [
    jax.device_put(block, device)
    for block, device in zip(blocks, local, strict=True)
  ]
  shape = (execution.mesh.size * len(blocks[0]), *blocks[0].shape[1:])
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)
