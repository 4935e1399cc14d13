"""Networks with exits: published sizes, prefixes, shallow versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls.models import (
  MLP,
  ExitResNet,
  PreResNet,
  ResNet,
  depth_submodels,
  flax_model,
  with_exits,
)
from fedjax_ls.models.convnets import PooledCNN
from fedjax_ls.models.submodels import channel_masks, cut_out, grow
from tests.networks import filled, near, normal, num_parameters, quick_jit

USUAL = {'norm': 'bn', 'norm_affine': True, 'norm_before': True}
NETS = {
  'mlp': MLP(3, hidden=(7, 5, 5), use_bias=True),
  'cnn': PooledCNN(3, channels=(4, 6), **USUAL),
  'resnet': ResNet(3, channels=(4, 6), blocks=(1, 1), use_bias=True, **USUAL),
}


@pytest.mark.parametrize(
  ('classes', 'sizes'),
  [
    (100, (479652, 1347336, 3838316, 12283344)),
    (10, (433482, 1254996, 3699806, 12098664)),
  ],
)
def test_sizes_of_depthfl(classes, sizes):
  net = ExitResNet(classes, use_bias=True, **USUAL)
  for depth, size in enumerate(sizes, 1):
    assert num_parameters(net.shallow(depth), (32, 32, 3)) == size


def test_resizing_is_bilinear_between_the_centres_of_pixels():
  """Output pixel i reads position (i + 1/2) / 2 - 1/2, cut to the map."""
  x = np.asarray(normal(2, 3, 4, 1))

  def doubled(x, axis):
    size = x.shape[axis]
    at = np.clip((np.arange(2 * size) + 0.5) / 2 - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, size - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = (at - low).reshape(shape)
    low, high = np.take(x, low, axis), np.take(x, high, axis)
    return (1 - share) * low + share * high

  got = jax.image.resize(x, (2, 6, 8, 1), 'linear')
  near(got, doubled(doubled(x, 1), 2), 1e-6)


def images(name):
  return normal(3, 4) if name == 'mlp' else normal(3, 8, 8, 2)


@pytest.mark.parametrize('name', NETS)
@pytest.mark.usefixtures('x64')
def test_a_shallow_network_is_a_prefix(name):
  net, x = with_exits(NETS[name]), images(name).astype(float)
  submodels = depth_submodels(net, x, ('1', '1/2'))
  params, stats = filled(net, x)

  @quick_jit
  def both(params, stats):
    whole = net.apply({'params': params, 'batch_stats': stats}, x)
    module, variables = cut_out(submodels, params, stats, 1)
    return whole, module.apply(variables, x)

  whole, part = both(params, stats)
  depth = submodels.depths[1]
  assert len(part.exits) == depth < len(whole.exits)
  near(part.exits, whole.exits[:depth], 1e-9)
  near((part.logits, part.features), whole.exits[depth - 1][:2], 1e-9)
  near(whole.logits, whole.exits[-1].logits, 0)
  assert np.abs(whole.logits - part.logits).max() > 1e-3


def test_masks_are_of_whole_stages():
  net, x = with_exits(NETS['cnn']), images('cnn')
  submodels = depth_submodels(net, x, ('1', '1/2'))
  masks, stats = submodels.mask(1), submodels.stats_mask(jnp.array(1))
  held = {name for name, m in masks.items() if all(map(np.all, m.values()))}
  some = {name for name, m in masks.items() if any(map(np.any, m.values()))}
  assert held == some == {'conv0', 'norm0', 'exit0'}
  assert stats['norm0']['mean'].all()
  assert not stats['norm1']['mean'].any()
  assert all(m.all() for m in jax.tree.leaves(submodels.mask(0)))


def test_growing_fills_in_names():
  shapes = {'a': jnp.ones(3), 'b': {'c': jnp.ones((2, 2))}}
  grown = grow({'a': jnp.ones(2)}, shapes)
  assert grown['a'].tolist() == [1, 1, 0]
  assert not grown['b']['c'].any()
  masks = channel_masks(shapes, [{'a': jnp.ones(3)}, shapes], 0)
  assert masks['a'].all()
  assert not masks['b']['c'].any()


def test_plain_networks_are_cut_too():
  for net, shape in ((NETS['mlp'], (4,)), (NETS['resnet'], (8, 8, 2))):
    small = net.shallow(1)
    assert small.stages == 1
    assert num_parameters(small, shape) < num_parameters(net, shape)


def test_exits_have_one_size_of_features():
  net = with_exits(NETS['mlp'])
  outputs, _ = flax_model(net, jnp.ones((1, 4))).apply(
    *filled(net, jnp.ones((1, 4))), jnp.ones((2, 4))
  )
  assert [e.features.shape for e in outputs.exits] == [(2, 7)] * 3
  assert not outputs.features[:, 5:].any()


def test_other_networks_are_refused():
  with pytest.raises(ValueError, match='PreResNet has one classifier only'):
    with_exits(PreResNet(3))
  with pytest.raises(ValueError, match=r'projector = \(4,\) does not fit'):
    num_parameters(with_exits(MLP(3, projector=(4,))), (4,))
