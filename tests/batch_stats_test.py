"""BatchNorm's statistics anew, against plain NumPy loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls.models import (
  MLP,
  PooledCNN,
  batch_norm_params,
  flax_model,
  recompute_stats,
)
from tests.networks import filled, near, normal, quick_jit, to_numpy


def in_numpy(params, x, batch_size, pooled, eps=1e-5):
  """Statistics of a bias-free MLP with norms after its two ReLUs."""
  seen = [[], []]
  for start in range(0, len(x), batch_size):
    h = x[start : start + batch_size]
    for layer in range(2):
      h = np.maximum(h @ params[f'dense{layer}']['kernel'], 0)
      seen[layer].append(h)
      h = (h - h.mean(0)) / np.sqrt(h.var(0) + eps)
  stats = {}
  for layer, batches in enumerate(seen):
    if pooled:
      batches = [np.concatenate(batches)]
    mean = np.mean([b.mean(0) for b in batches], 0)
    var = np.mean([b.var(0, ddof=1) for b in batches], 0)
    stats[f'norm{layer}'] = {'mean': mean, 'var': var}
  return stats


@pytest.mark.parametrize('pooled', [False, True])
@pytest.mark.parametrize(('count', 'batch_size'), [(12, 4), (13, 5), (7, 99)])
def test_statistics_are_those_of_a_plain_loop(count, batch_size, pooled):
  x = normal(count, 3) + 1
  net = MLP(2, hidden=(5, 4), norm='bn')
  params, stats = filled(net, x)
  model = flax_model(net, x)

  @quick_jit
  def run(stats):
    return recompute_stats(model, params, stats, x, batch_size, pooled=pooled)

  expected = in_numpy(params, np.asarray(x), batch_size, pooled)
  got = to_numpy(run(stats))
  near(got, expected, 1e-4)
  near(to_numpy(run(jax.tree.map(lambda s: 7 * s, stats))), got, 0)


@pytest.mark.parametrize('pooled', [False, True])
def test_maps_count_their_positions(pooled):
  x = normal(10, 4, 4, 1)
  net = PooledCNN(2, channels=(3,), norm='bn', norm_before=True)
  params, stats = filled(net, x)
  net_conv = nn.Conv(3, (3, 3), padding=1, use_bias=False)
  maps = to_numpy(net_conv.apply({'params': params['conv0']}, x))
  got = recompute_stats(flax_model(net, x), params, stats, x, 4, pooled=pooled)
  batches = [maps] if pooled else [maps[:4], maps[4:8], maps[8:]]
  flat = [b.reshape(-1, 3) for b in batches]
  expected = {
    'mean': np.mean([b.mean(0) for b in flat], 0),
    'var': np.mean([b.var(0, ddof=1) for b in flat], 0),
  }
  near(to_numpy(got), {'norm0': expected}, 1e-4)


class Inner(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    return nn.BatchNorm(not train, momentum=0.5)(x)


class Flax(nn.Module):
  """A net of Flax's own BatchNorm, inside another module."""

  @nn.compact
  def __call__(self, x, train=False):
    return nn.Dense(2)(Inner()(x, train))


def test_batch_norm_of_flax_is_found():
  x = normal(6, 3)
  model = flax_model(Flax(), x)
  params, stats = model.init(jax.random.key(0))
  got = recompute_stats(model, params, stats, x, 6)
  assert jax.tree.structure(got) == jax.tree.structure(stats)
  layer = to_numpy(got['Inner_0']['BatchNorm_0'])
  x = to_numpy(x)
  near(layer, {'mean': x.mean(0), 'var': x.var(0, ddof=1)})
  mask = batch_norm_params(params, stats)
  assert mask == {
    'Dense_0': {'bias': False, 'kernel': False},
    'Inner_0': {'BatchNorm_0': {'bias': True, 'scale': True}},
  }


def test_a_network_without_batch_norm_has_no_statistics():
  x = normal(4, 3)
  net = MLP(2, hidden=(5,), norm='ln', norm_affine=True)
  params, _ = filled(net, x)
  assert recompute_stats(flax_model(net, x), params, {}, x, 2) == {}
  assert not any(jax.tree.leaves(batch_norm_params(params, {})))


def test_running_statistics_keep_their_type():
  x = normal(4, 3)
  net = MLP(2, hidden=(5,), norm='bn', dtype=jnp.bfloat16)
  params, stats = filled(net, x)
  got = recompute_stats(flax_model(net, x), params, stats, x, 2)
  assert {a.dtype.name for a in jax.tree.leaves(got)} == {'float32'}
