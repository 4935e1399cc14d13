"""The map over clients, one at a time and unjitted, for finding faults."""

import jax
import numpy as np

from fedjax_ls.types import Ctx


class ClientError(RuntimeError):
  """A client failed or uploaded something that is not finite."""


def each_client(one, shared, own, ids, live) -> list:
  """Runs `one(ctx, live)` for every live or dead slot, checking the results.

  Args:
    one: the function of a single client.
    shared: fields of `Ctx` that are the same for all clients.
    own: the other fields, leading with the cohort axis K.
    ids: `[K]` client numbers.
    live: `[K]` False for dead slots.

  Returns:
    The K results.

  Raises:
    ClientError: naming round, client and the bad value; the client's inputs
      are in the message.
  """
  results = []
  for slot, client in enumerate(np.asarray(ids)):
    mine = jax.tree.map(lambda a, s=slot: a[s], own)
    ctx = Ctx(**shared, **mine)
    try:
      with jax.disable_jit():
        result = one(ctx, live[slot])
    except Exception as error:
      raise ClientError(_describe(client, ctx, repr(error))) from error
    bad = _not_finite(result)
    if live[slot] and bad:
      raise ClientError(_describe(client, ctx, f'not finite: {bad}'))
    results.append(result)
  return results


def _not_finite(tree) -> str:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return ', '.join(
    jax.tree_util.keystr(path)
    for path, leaf in leaves
    if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)
    and not np.all(np.isfinite(leaf))
  )


def _describe(client, ctx, problem: str) -> str:
  def line(path, leaf):
    text = f'{jax.tree_util.keystr(path)}: {leaf.dtype}{list(leaf.shape)}'
    if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact) and leaf.size:
      low, high = float(leaf.min()), float(leaf.max())
      text += f' in [{low:.6g}, {high:.6g}]'
    return '  ' + text

  size = int(ctx.size)
  inputs = {
    'message': ctx.message,
    'state': ctx.state,
    'carry': ctx.carry,
    'x': ctx.x[ctx.rows[:size]],
    'y': ctx.y[ctx.rows[:size]],
  }
  lines = [line(*item) for item in jax.tree_util.tree_leaves_with_path(inputs)]
  head = f'round {int(ctx.round)}, client {int(client)}: {problem}'
  rows = np.asarray(ctx.rows)[:size].tolist()
  return '\n'.join(
    [head, f'  size {size}, tier {int(ctx.tier)}, rows {rows}', *lines]
  )
