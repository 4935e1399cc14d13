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
  return _like(stats, total)


def query_stats(
  model: Model,
  params: Tree,
  stats: Tree,
  x: Array,
  index: Array,
  size: Array,
  batch_size: int,
) -> Tree:
  """Statistics of BatchNorm from asking one client after the other.

  As `recompute_stats`, with batches that never mix clients: the mean over all
  batches of their means and of their unbiased variances.  Examples are
  augmented as in training, by a fixed key.

  Args:
    model: a `flax_model` whose layers are `Norm('bn')` or `nn.BatchNorm`.
    params: its parameters.
    stats: its statistics; only their structure and types are used.
    x: `[N, ...]` examples as stored.
    index: `[C, L]` rows of each client.
    size: `[C]` how many of them are valid.
    batch_size: examples a batch; a client's last batch may be short.

  Returns:
    Statistics like `stats`; `{}` where there are none.

  References:
    Diao, Ding, Tarokh. HeteroFL: computation and communication efficient
    federated learning for heterogeneous clients. ICLR 2021 (static batch
    normalization).
  """
  if not stats:
    return stats
  batch_size = min(batch_size, index.shape[1])
  ends = jnp.cumsum(-(-size // batch_size))

  def seen(i):
    client = jnp.searchsorted(ends, i, side='right')
    first = jnp.where(client > 0, ends[client - 1], 0)
    at = (i - first) * batch_size + jnp.arange(batch_size)
    mask = at < size[client]
    batch = x[index[client, jnp.where(mask, at, 0)]]
    if model.augment is not None:
      batch = model.augment(jax.random.fold_in(jax.random.key(1), i), batch)
    return _seen(model, params, stats, batch, mask)

  zeros = jax.tree.map(
    lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(seen, 0)
  )
  total = jax.lax.fori_loop(
    0, ends[-1], lambda i, total: _averaged(total, seen(i), i), zeros
  )
  return _like(stats, total)


def _like(stats, total):
  """What was found by layer, as a tree of the layers' statistics."""
  return jax.tree_util.tree_map_with_path(
    lambda path, old: total[_layer(path)][path[-1].key].astype(old.dtype), stats
  )


def _layer(path) -> str:
  return '/'.join(key.key for key in path[:-1])


def _seen(model, params, stats, x, mask=None):
  """Mean, unbiased variance and count of what enters each norm, by layer."""
  seen = {}

  def record(call, args, kwargs, context):
    module = context.module
    if context.method_name == '__call__' and _is_batch_norm(module):
      v = args[0].astype(jnp.promote_types(args[0].dtype, jnp.float32))
      real = kwargs.get('mask', mask)
      real = jnp.ones(len(v), bool) if real is None else real
      (mean, var), count = moments(v, real)
      unbiased = var * (count / jnp.maximum(count - 1, 1))
      layer = '/'.join(module.path)
      seen[layer] = {'mean': mean, 'var': unbiased, 'count': count}
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    key = jax.random.key(0)
    model.apply(params, stats, x, train=True, mask=mask, key=key)
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
