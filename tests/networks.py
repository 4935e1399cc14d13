"""What the tests of networks share."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.models import width_submodels

KEY = jax.random.key(0)
# Compiling is what these tests take their time for.
quick_jit = functools.partial(
  jax.jit, compiler_options={'xla_backend_optimization_level': 0}
)


def to_numpy(tree):
  return jax.tree.map(np.asarray, tree)


def normal(*shape, seed=0):
  return jnp.asarray(
    np.random.default_rng(seed).normal(size=shape), jnp.float32
  )


def near(a, b, tolerance=1e-5):
  jax.tree.map(
    lambda u, v: np.testing.assert_allclose(u, v, tolerance, tolerance), a, b
  )


def num_parameters(net, shape, dtype=jnp.float32):
  """Counted from shapes; `net` is never run."""
  shapes = jax.eval_shape(net.init, KEY, jnp.zeros((1, *shape), dtype))
  return sum(math.prod(a.shape) for a in jax.tree.leaves(shapes['params']))


def filled(net, x, dtype=None):
  """Random parameters (positive statistics), without running the network."""
  shapes = jax.eval_shape(net.init, KEY, x)
  rng = np.random.default_rng(1)

  def fill(path, leaf):
    values = rng.normal(size=leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
    values = abs(values) if 'batch_stats' in str(path) else values
    return np.asarray(values, dtype or x.dtype)

  variables = jax.tree_util.tree_map_with_path(fill, shapes)
  return variables['params'], variables.get('batch_stats', {})


def gradient(net, params, stats, x, y, width=None):
  """Gradient of a training loss, and the outputs and new statistics."""
  mask = jnp.arange(len(x)) < len(x) - 1

  def loss(params):
    outputs, moved = net.apply(
      {'params': params, 'batch_stats': stats},
      x,
      train=True,
      mask=mask,
      width=width,
      mutable=['batch_stats'],
    )
    log_p = jax.nn.log_softmax(outputs.logits)
    chosen = jnp.take_along_axis(log_p, y[..., None], -1)[..., 0]
    kept = mask.reshape((-1,) + (1,) * (chosen.ndim - 1))
    loss = -jnp.sum(jnp.where(kept, chosen, 0))
    return loss, (outputs, moved.get('batch_stats', {}))

  return jax.grad(loss, has_aux=True)(params)


def check_masked_is_sliced(net, x, y, *, narrows=True):
  """The network at 3/5 of its width, as a masked one and as a small one.

  `narrows` says whether its features become fewer.
  """
  params, stats = filled(net, x, jnp.float64)
  submodels = width_submodels(net, x, ('1', '3/5'))
  module = submodels.module(1)
  slim_stats = filled(module, x)[1]

  def held(stats):
    return jax.tree.map(
      lambda a, s: a[tuple(map(slice, s.shape))], stats, slim_stats
    )

  @quick_jit
  def masked(params, stats, tier):
    width, mask = submodels.width(tier), submodels.mask(tier)
    grads, (outputs, moved) = gradient(net, params, stats, x, y, width)
    outside = jax.tree.map(lambda g, m: jnp.any(g * ~m), grads, mask)
    kept = submodels.stats_mask(tier)
    return submodels.slim(grads, 1), outputs, held(moved), outside, kept

  @quick_jit
  def sliced(params, stats):
    slim = submodels.slim(params, 1)
    grads, (outputs, moved) = gradient(module, slim, held(stats), x, y)
    return grads, outputs, moved

  result = to_numpy(masked(params, stats, 1))
  got, outputs, moved, outside, kept = result
  expected, small_outputs, small_moved = to_numpy(sliced(params, stats))
  near(outputs.logits[:-1], small_outputs.logits[:-1], 1e-9)
  d = small_outputs.features.shape[-1]
  near(outputs.features[:-1, ..., :d], small_outputs.features[:-1], 1e-9)
  assert narrows == (d < outputs.features.shape[-1])
  assert not outputs.features[..., d:].any()
  near(got, expected, 1e-9)
  near(moved, small_moved, 1e-9)
  assert not any(jax.tree.leaves(outside))
  leading = jax.tree.map(
    lambda a, s: np.arange(len(a)) < len(s), stats, slim_stats
  )
  near(kept, leading, 0)
