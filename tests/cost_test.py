"""Multiply-accumulates, parameters and bytes of networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls.cost import Cost, cost, costs, macs
from fedjax_ls.models import CNN, MLP, Conv, Model, Outputs, width_submodels

IMAGE = jnp.zeros((5, 32, 32, 3), jnp.uint8)


def test_mlp_by_hand():
  net = MLP(10, hidden=(128, 64), norm='ln', use_bias=True)
  weights = 64 * 128 + 128 * 64 + 64 * 10
  biases = 128 + 64 + 10
  parameters = weights + biases
  found = cost(net, jnp.zeros((7, 8, 8)))
  assert found == Cost(weights, parameters, 4 * parameters)


def test_cnn_of_the_layer_norm_paper_by_hand():
  convolutions = 28 * 28 * 64 * (5 * 5 * 3) + 10 * 10 * 64 * (5 * 5 * 64)
  linear = 5 * 5 * 64 * 384 + 384 * 192 + 192 * 10
  found = cost(CNN(10, norm='ln'), IMAGE)
  assert found.macs == convolutions + linear
  assert found.parameters == 64 * (75 + 1600) + linear


@pytest.mark.parametrize('padding', ['VALID', 'SAME'])
@pytest.mark.parametrize('strides', [(1, 1), (2, 1)])
def test_both_convolutions_count_the_same(padding, strides):
  x = jnp.zeros((1, 9, 8, 3))
  counted = []
  for lowering in ('native', 'matmul'):
    conv = Conv(5, (3, 2), strides, padding, lowering=lowering)
    params = conv.init(jax.random.key(0), x)
    counted.append(macs(conv.apply, params, x))
  assert counted[0] == counted[1] > 0


def _ones(*shape):
  return jnp.ones(shape, jnp.float32)


@pytest.mark.parametrize(
  ('groups', 'strides', 'dilation'),
  [(1, (1, 1), (1, 1)), (2, (2, 1), (1, 1)), (6, (1, 3), (2, 1))],
)
def test_convolution_of_ones_adds_up_to_its_count(groups, strides, dilation):
  """Each multiply-accumulate adds 1 * 1."""

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      strides,
      'VALID',
      rhs_dilation=dilation,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
    )

  args = _ones(2, 9, 8, 6), _ones(3, 2, 6 // groups, 12)
  assert macs(convolve, *args) == convolve(*args).sum()


@pytest.mark.parametrize(
  ('formula', 'shapes'),
  [
    ('ij,jk->ik', [(2, 3), (3, 4)]),
    ('bij,bkj->bik', [(5, 2, 3), (5, 4, 3)]),
    ('bhqd,bhkd->bhqk', [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ('i,i->', [(7,), (7,)]),
  ],
)
def test_product_of_ones_adds_up_to_its_count(formula, shapes):
  args = [_ones(*shape) for shape in shapes]

  def product(*args):
    return jnp.einsum(formula, *args)

  assert macs(product, *args) == product(*args).sum()


@jax.custom_vjp
def _square(x):
  return x @ x


_square.defvjp(lambda x: (x @ x, x), lambda x, g: (2 * g @ x,))


def test_counts_inside_calls_and_loops():
  x = _ones(3, 3)

  def turns(step, length):
    def loop(x):
      return jax.lax.scan(lambda c, _: (step(c), None), x, length=length)[0]

    return loop

  def branches(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, jnp.sin, x)

  once = 27
  assert macs(jax.jit(_square), x) == once
  assert macs(jax.checkpoint(jax.jit(_square)), x) == once
  assert macs(turns(_square, 7), x) == 7 * once
  assert macs(turns(turns(jax.jit(_square), 5), 4), x) == 20 * once
  assert macs(lambda x: jax.lax.fori_loop(0, 6, lambda _, x: x @ x, x), x) == (
    6 * once
  )
  assert macs(branches, x) == 2 * once
  assert macs(jax.vmap(lambda x: x @ x), _ones(4, 3, 3)) == 4 * once
  assert macs(jnp.tanh, x) == 0


def test_a_recurrent_network_counts_every_step():
  net = nn.RNN(nn.SimpleCell(4))
  x = jnp.zeros((1, 9, 3))
  params = net.init(jax.random.key(0), x)
  assert macs(net.apply, params, x) == 9 * (3 * 4 + 4 * 4)


def test_a_loop_of_unknown_length_is_refused():
  def loop(x, turns):
    return jax.lax.fori_loop(0, turns, lambda _, x: x @ x, x)

  with pytest.raises(ValueError, match='write it as a scan'):
    macs(loop, _ones(3, 3), 4)
  assert macs(lambda x, n: jax.lax.fori_loop(0, n, lambda _, x: x + 1, x),
              _ones(3, 3), 4) == 0  # fmt: skip


def test_tiers_cost_what_their_small_networks_cost():
  net = CNN(10, channels=(8, 8), hidden=(12,), lowering='matmul')
  sub = width_submodels(net, IMAGE, ('1', '1/2', '1/4'))
  small = [
    CNN(10, channels=(c, c), hidden=(h,)) for c, h in ((8, 12), (4, 6), (2, 3))
  ]
  found = costs(net, IMAGE, sub)
  assert found == tuple(cost(n, IMAGE) for n in small)
  assert costs(net, IMAGE) == found[:1]


def test_statistics_are_sent_but_are_no_parameters():
  net = MLP(2, hidden=(3,), norm='bn')
  found = cost(net, jnp.zeros((1, 4)))
  stats = net.init(jax.random.key(0), jnp.zeros((1, 4)))['batch_stats']
  values = sum(np.size(leaf) for leaf in jax.tree.leaves(stats))
  assert values > 0
  assert found == Cost(18, 18, 4 * (18 + values))


def test_a_model_without_a_module():
  model = Model(
    init=lambda key: (jnp.zeros((6, 2), jnp.bfloat16), {}),
    apply=lambda params, stats, x: (Outputs(x @ params, x), stats),
    loss=lambda outputs, y: outputs.logits[:, 0],
    metrics=lambda outputs, y: {},
  )
  assert cost(model, jnp.zeros((9, 6))) == Cost(12, 12, 24)


HETEROFL = (330.2, 83.3, 21.2, 5.5, 1.5)
FJORD = (23, 91, 203, 360, 555)


def test_published_figures_of_heterofl():
  """Its FLOPs (in 1e6) are MACs and four for each number that is normalized.

  With the latter left out, a-c are within 2 %, too.
  """
  resnet = pytest.importorskip('fedjax_ls.models.resnet')
  net = resnet.preresnet10(
    10, norm='bn', norm_before=True, norm_affine=True, use_bias=True
  )
  rates = ('1', '1/2', '1/4', '1/8', '1/16')
  found = costs(net, IMAGE, width_submodels(net, IMAGE, rates))
  sides = (32, 32, 32, 16, 16, 8, 8, 4, 4, 4, 4)
  channels = (64, 64, 64, 128, 128, 256, 256, 512, 512, 512, 512)
  normalized = sum(s * s * c for s, c in zip(sides, channels, strict=True))
  for tier, published in enumerate(HETEROFL):
    counted = found[tier].macs + 4 * normalized / 2**tier
    assert round(counted / 1e6, 1) == published
    if tier < 3:
      assert found[tier].macs / 1e6 == pytest.approx(published, rel=0.02)


def test_published_figures_of_fjord():
  """MACs in 1e6 of its ResNet-18 on CIFAR-10."""
  resnet = pytest.importorskip('fedjax_ls.models.resnet')
  net = resnet.ResNet(
    10, norm='bn', norm_before=True, norm_affine=True, use_bias=True
  )
  rates = ('1/5', '2/5', '3/5', '4/5', '1')
  found = costs(net, IMAGE, width_submodels(net, IMAGE, rates))
  assert tuple(round(c.macs / 1e6) for c in found) == FJORD
