"""BatchNorm's part of a model: which parameters, and statistics anew."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_ls.models.base import Model
from fedjax_ls.models.norms import Norm, moments

Array = jax.Array
Tree = Any


def batch_norm_params(params: Tree, stats: Tree) -> Tree:
  """Which parameters belong to a BatchNorm.

  Args:
    params: nested dictionaries of parameters.
    stats: the statistics, `{layer: {...: {'mean': [C], 'var': [C]}}}`.

  Returns:
    Tree of bools like `params`, True for the scale and bias of a layer that
    has statistics.

  >>> layer = {'scale': 0, 'bias': 0}
  >>> batch_norm_params({'a': layer, 'b': layer}, {'b': {'mean': 0, 'var': 1}})
  {'a': {'bias': False, 'scale': False}, 'b': {'bias': True, 'scale': True}}
  """
  layers = {path[:-1] for path, _ in jax.tree_util.tree_leaves_with_path(stats)}
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[:-1] in layers, params
  )


def recompute_stats(
  model: Model,
  params: Tree,
  stats: Tree,
  x: Array,
  batch_size: int,
  *,
  pooled: bool = False,
) -> Tree:
  """Statistics of BatchNorm from one pass over examples in training mode.

  Every layer normalizes each batch by that batch, and its statistics are the
  mean over batches of the batches' means and of their unbiased variances,
  which leaves out the variance between batches.  `pooled` gives the mean and
  the unbiased variance of all elements instead.  Dropout, if any, drops by a
  fixed key.

  Args:
    model: a `flax_model` whose layers are `Norm('bn')` or `nn.BatchNorm`.
    params: its parameters.
    stats: its statistics; only their structure and types are used.
    x: `[N, ...]` examples as stored.
    batch_size: examples a batch; the last batch may be short.
    pooled: whether to pool all examples.

  Returns:
    Statistics like `stats`; `{}` where there are none.

  References:
    Diao, Ding, Tarokh. HeteroFL: computation and communication efficient
    federated learning for heterogeneous clients. ICLR 2021 (static batch
    normalization).
  """
  if not stats:
    return stats
  merge = _pooled if pooled else _averaged
  batch_size = min(batch_size, len(x))
  batches, rest = divmod(len(x), batch_size)

  def merged(i, total, size):
    batch = jax.lax.dynamic_slice_in_dim(x, i * batch_size, size)
    seen = _seen(model, params, stats, batch)
    return {layer: merge(total[layer], seen[layer], i) for layer in seen}

  total = _seen(model, params, stats, x[:batch_size])
  total = jax.lax.fori_loop(
    1, batches, lambda i, total: merged(i, total, batch_size), total
  )
  total = merged(batches, total, rest) if rest else total
  return jax.tree_util.tree_map_with_path(
    lambda path, old: total[_layer(path)][path[-1].key].astype(old.dtype), stats
  )


def _layer(path) -> str:
  return '/'.join(key.key for key in path[:-1])


def _seen(model, params, stats, x):
  """Mean, unbiased variance and count of what enters each norm, by layer."""
  seen = {}

  def record(call, args, kwargs, context):
    module = context.module
    if context.method_name == '__call__' and _is_batch_norm(module):
      v = args[0].astype(jnp.promote_types(args[0].dtype, jnp.float32))
      (mean, var), count = moments(v, jnp.ones(len(v), bool))
      unbiased = var * (count / jnp.maximum(count - 1, 1))
      layer = '/'.join(module.path)
      seen[layer] = {'mean': mean, 'var': unbiased, 'count': count}
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    model.apply(params, stats, x, train=True, key=jax.random.key(0))
  return seen


def _is_batch_norm(module):
  ours = isinstance(module, Norm) and module.kind == 'bn'
  return ours or isinstance(module, nn.BatchNorm)


def _averaged(total, new, i):
  """The mean over batches up to batch `i`, each counting alike."""
  return jax.tree.map(lambda t, n: t + (n - t) / (i + 1), total, new)


def _pooled(total, new, i):
  """Mean and unbiased variance of two sets together (Chan et al., 1979)."""
  del i
  a, b = total['count'], new['count']
  gap = new['mean'] - total['mean']
  squares = total['var'] * (a - 1) + new['var'] * (b - 1)
  squares = squares + gap * gap * (a * b / (a + b))
  return {
    'mean': total['mean'] + gap * (b / (a + b)),
    'var': squares / (a + b - 1),
    'count': a + b,
  }
