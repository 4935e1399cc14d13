"""Updates of a cohort side by side, `[K, ...]`, for rules that are no sums."""

import jax
import jax.numpy as jnp

from fedjax_ls.data.checks import require
from fedjax_ls.types import Array, Tree

# Most bytes of updates that a rule may hold.
MOST_BYTES = 2 << 30


def check_size(field: str, stacked: Tree) -> None:
  """Refuses more updates side by side than a device should hold.

  Args:
    field: what asks for them, as in `server.reduction = median`.
    stacked: the updates, `[K, ...]`.

  Raises:
    ValueError: they take more than `MOST_BYTES`.
  """
  leaves = jax.tree.leaves(stacked)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
  require(
    size <= MOST_BYTES,
    f'{field} holds the updates of {len(leaves[0])} clients side by side, '
    f'{size} bytes, more than {MOST_BYTES}; use a smaller cohort or network',
  )


def gram(change: Tree) -> Array:
  """`[K, K]` scalar products of updates `[K, ...]`, at least float32."""

  def leaf(a):
    a = a.reshape(len(a), -1)
    a = a.astype(jnp.promote_types(a.dtype, jnp.float32))
    return jnp.matmul(a, a.T, precision=jax.lax.Precision.HIGHEST)

  return sum(leaf(a) for a in jax.tree.leaves(change))


def only(live: Array, stacked: Tree) -> Tree:
  """The updates of live clients, 0 for the others whatever they sent."""
  return jax.tree.map(
    lambda v: jnp.where(live.reshape((-1,) + (1,) * (v.ndim - 1)), v, 0),
    stacked,
  )
