"""The convolutional networks: sizes, blocks from formulas, narrow versions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls.models import (
  CNN,
  MODELS,
  MobileNetV2,
  PflCNN,
  PooledCNN,
  PreResNet,
  ResNet,
  Width,
  flax_model,
  make_net,
)
from fedjax_ls.models.conv import LOWERINGS, conv_native
from tests.networks import (
  KEY,
  check_masked_is_sliced,
  filled,
  near,
  normal,
  num_parameters,
  quick_jit,
  to_numpy,
)

USUAL = {
  'norm': 'bn',
  'norm_affine': True,
  'norm_before': True,
  'use_bias': True,
}
HALVES = [Width(1, 2**level) for level in range(5)]
FIFTHS = [Width(p, 5) for p in range(1, 6)]
RGB, GRAY = (32, 32, 3), (28, 28, 1)


@pytest.mark.parametrize(
  ('name', 'image', 'widths', 'published'),
  [
    (
      'resnet18',
      RGB,
      FIFTHS,
      [457_578, 1_803_314, 4_049_352, 7_175_586, 11_173_962],
    ),
    (
      'preresnet10',
      RGB,
      HALVES,
      [9_622_090, 2_408_746, 603_802, 151_762, 38_350],
    ),
    (
      'preresnet18',
      RGB,
      HALVES,
      [11_172_170, 2_796_714, 701_018, 176_178, 44_510],
    ),
    (
      'pooled_cnn',
      GRAY,
      HALVES,
      [1_556_874, 391_370, 98_922, 25_274, 6_594],
    ),
  ],
)
def test_networks_of_every_width_have_the_published_size(
  name, image, widths, published
):
  net = make_net(name, num_classes=10, **USUAL)
  sizes = [num_parameters(net.slim(width), image) for width in widths]
  assert sizes == published


@pytest.mark.parametrize(
  ('name', 'options', 'image', 'expected'),
  [
    ('resnet18', {}, RGB, 11_173_962 - 2 * 4_800 - 10),
    ('resnet18', {'norm': 'ln'}, RGB, 11_164_352),
    ('resnet20', USUAL, RGB, 269_722),
    ('mobilenetv2', USUAL, RGB, 2_296_922),
    ('pfl_cnn', {'use_bias': True}, RGB, 1_626_442),
    ('pfl_cnn', {'use_bias': True, 'num_classes': 100}, RGB, 1_638_052),
    ('emnist_cnn', {'use_bias': True, 'num_classes': 47}, GRAY, 100_271),
    ('cfl_cnn', {'use_bias': True, 'num_classes': 62}, GRAY, 18_506),
    ('lenet', {'use_bias': True}, RGB, 62_006),
    ('femnist_cnn', {'use_bias': True}, GRAY, 1_663_370),
    ('femnist_cnn', {'use_bias': True, 'num_classes': 62}, GRAY, 1_690_046),
  ],
)
def test_networks_have_their_known_size(name, options, image, expected):
  net = make_net(name, **{'num_classes': 10, **options})
  assert num_parameters(net, image) == expected


@pytest.mark.parametrize(
  ('name', 'image', 'features'),
  [
    ('resnet18', RGB, 512),
    ('preresnet10', GRAY, 512),
    ('resnet20', RGB, 64),
    ('mobilenetv2', RGB, 1280),
    ('pfl_cnn', RGB, 128),
    ('pooled_cnn', GRAY, 512),
    ('emnist_cnn', GRAY, 1024),
    ('lenet', RGB, 84),
    ('femnist_cnn', (28, 28), 512),
  ],
)
def test_features_have_their_size(name, image, features):
  net = make_net(name, num_classes=7)
  x = jnp.zeros((2, *image))
  outputs, _ = jax.eval_shape(net.init_with_output, KEY, x)
  assert outputs.features.shape == (2, features)
  assert outputs.logits.shape == (2, 7)


# --- blocks from their formulas ---------------------------------------------


def conv(x, kernel, stride=1):
  return conv_native(x, kernel, (stride, stride), kernel.shape[0] // 2)


def layer_norm(x):
  axes = tuple(range(1, x.ndim))
  centered = x - x.mean(axes, keepdims=True)
  return centered / jnp.sqrt((centered**2).mean(axes, keepdims=True) + 1e-5)


def relu(x):
  return jnp.maximum(x, 0)


def residual(x, w, norm, before):
  """Stem and two blocks, the second of them smaller and wider."""

  def act(x):
    return relu(norm(x)) if before else norm(relu(x))

  x = act(conv(x, w['stem']))
  for name, stride in (('stage0_block0', 1), ('stage1_block0', 2)):
    h = conv(act(conv(x, w[f'{name}_conv0'], stride)), w[f'{name}_conv1'])
    short = w.get(f'{name}_short')
    s = x if short is None else conv(x, short, stride)
    if before:
      s = s if short is None else norm(s)
      x = relu(s + norm(h))
    else:
      x = norm(relu(s + h))
  return x.mean((1, 2))


def preactivated(x, w, norm, before):
  def act(x):
    return relu(norm(x)) if before else norm(relu(x))

  x = conv(x, w['stem'])
  for name, stride in (('stage0_block0', 1), ('stage1_block0', 2)):
    h = act(x)
    short = w.get(f'{name}_short')
    s = x if short is None else conv(h, short, stride)
    h = act(conv(h, w[f'{name}_conv0'], stride))
    x = s + conv(h, w[f'{name}_conv1'])
  return act(x).mean((1, 2))


def inverted(x, w, norm, before):
  def act(x):
    return relu(norm(x)) if before else norm(relu(x))

  x = act(conv(x, w['stem']))
  for name, stride in (('stage0_block0', 1), ('stage1_block0', 2)):
    h = act(conv(x, w[f'{name}_expand']))
    h = act(conv(h, w[f'{name}_depth'], stride))
    h = norm(conv(h, w[f'{name}_project']))
    if stride == 1:
      h = norm(conv(x, w[f'{name}_short'])) + h
    x = h
  return act(conv(x, w['head'])).mean((1, 2))


STAGES = {'channels': (5, 7), 'blocks': (1, 1)}
INVERTED = {'stages': ((2, 6, 1, 1), (2, 7, 1, 2)), 'stem': 5, 'feature': 9}
BLOCKS = {
  'resnet': (functools.partial(ResNet, 4, **STAGES), residual),
  'preresnet': (functools.partial(PreResNet, 4, **STAGES), preactivated),
  'mobilenet': (functools.partial(MobileNetV2, 4, **INVERTED), inverted),
}


@pytest.mark.parametrize('name', BLOCKS)
@pytest.mark.parametrize('before', [False, True])
@pytest.mark.parametrize('kind', ['none', 'ln'])
def test_blocks_are_their_formulas(name, before, kind):
  build, formula = BLOCKS[name]
  net = build(norm=kind, norm_before=before, lowering='matmul')
  x = normal(2, 6, 7, 3)
  params, _ = filled(net, x)
  w = {k: v['kernel'] for k, v in params.items()}
  norm = layer_norm if kind == 'ln' else lambda x: x

  @quick_jit
  def both():
    ours = net.apply({'params': params}, x)
    return ours, formula(x, w, norm, before)

  ours, features = to_numpy(both())
  near(ours.features, features, 1e-4)
  near(ours.logits, features @ w['classifier'], 1e-4)


def test_padded_shortcuts_add_zero_channels():
  net = ResNet(4, shortcut='pad', **STAGES)
  x = normal(2, 6, 6, 3)
  params, _ = filled(net, x)
  assert 'stage1_block0_short' not in params
  params = {
    k: jax.tree.map(jnp.zeros_like, v) if 'stage' in k else v
    for k, v in params.items()
  }
  features = net.apply({'params': params}, x).features
  stem = relu(conv(x, params['stem']['kernel']))[:, ::2, ::2].mean((1, 2))
  near(features, np.pad(stem, ((0, 0), (0, 2))))


@pytest.mark.parametrize('name', [*BLOCKS, 'pooled', 'emnist'])
def test_the_last_norm_alone_makes_features_of_length_root_d(name):
  build = {n: b for n, (b, _) in BLOCKS.items()} | {
    'pooled': functools.partial(PooledCNN, 4, channels=(5, 9)),
    'emnist': functools.partial(CNN, 4, channels=(2,), hidden=()),
  }
  x = normal(2, 8, 8, 3)
  plain, fn = (
    build[name](norm='fn', norm_where=where) for where in ('layers', 'last')
  )
  params, _ = filled(fn, x)
  assert jax.tree.structure(params) == jax.tree.structure(filled(plain, x)[0])
  features = to_numpy(quick_jit(fn.apply)({'params': params}, x).features)
  near((features**2).sum(1), np.full(2, features.shape[1]), 1e-4)


def test_an_unknown_shortcut_names_the_nearest():
  with pytest.raises(ValueError, match=r"shortcut = 'padd'.*'pad'"):
    ResNet(4, shortcut='padd').init(KEY, normal(1, 4, 4, 3))
  with pytest.raises(ValueError, match=r'\(2, 3\); .* needs images'):
    ResNet(4).init(KEY, normal(2, 3))


# --- dropout ----------------------------------------------------------------


def test_dropout_drops_in_training_by_the_key():
  net = PflCNN(4, channels=(2, 3), hidden=40, dropout=(0.25, 0.5))
  plain = net.clone(dropout=(0.0, 0.0))
  x = jnp.abs(normal(3, 8, 8, 3))
  model = flax_model(net, x)
  params = jax.tree.map(np.abs, filled(net, x)[0])

  @quick_jit
  def features(key):
    train = model.apply(params, {}, x, train=True, key=key)[0].features
    test = model.apply(params, {}, x)[0].features
    return train, test, plain.apply({'params': params}, x, train=True).features

  one, test, kept = to_numpy(features(jax.random.key(1)))
  assert 0.3 < (one == 0).mean() < 0.7
  near(one, features(jax.random.key(1))[0], 0)
  assert np.any(one != features(jax.random.key(2))[0])
  near(test, kept, 0)


# --- narrow versions, lowerings, types --------------------------------------

TINY = {
  'resnet': (functools.partial(ResNet, 4, **STAGES), 8),
  'resnet_pad': (functools.partial(ResNet, 4, shortcut='pad', **STAGES), 8),
  'preresnet': (functools.partial(PreResNet, 4, **STAGES), 8),
  'mobilenet': (functools.partial(MobileNetV2, 4, **INVERTED), 8),
  'pooled': (functools.partial(PooledCNN, 4, channels=(5, 7)), 8),
  'pfl': (
    functools.partial(PflCNN, 4, channels=(5, 7), hidden=6, dropout=(0.0, 0.0)),
    8,
  ),
  'emnist': (functools.partial(CNN, 4, channels=(4, 6), hidden=()), 20),
  'padded': (
    functools.partial(CNN, 4, channels=(5,), hidden=(6,), padding='SAME'),
    8,
  ),
}


@pytest.mark.parametrize(
  ('name', 'norm'),
  [
    *((name, norm) for name in BLOCKS for norm in ('none', 'bn')),
    ('resnet', 'ln'),
    ('resnet', 'gn'),
    ('preresnet', 'gn'),
    ('mobilenet', 'ln'),
    ('resnet_pad', 'bn'),
    ('pooled', 'gn'),
    ('pooled', 'in'),
    ('preresnet', 'in'),
    ('resnet', 'fn'),
    ('preresnet', 'ln'),
    ('pooled', 'bn'),
    ('pfl', 'ln'),
    ('emnist', 'gn'),
    ('padded', 'none'),
  ],
)
def test_a_masked_network_is_the_sliced_one(x64, name, norm):
  build, size = TINY[name]
  net = build(
    norm=norm,
    norm_affine=True,
    norm_before=norm in ('bn', 'gn'),
    use_bias=True,
    lowering='matmul',
  )
  x = normal(4, size, size, 2).astype(jnp.float64)
  check_masked_is_sliced(net, x, jnp.array([0, 3, 1, 2]))


@pytest.mark.parametrize('name', ['resnet', 'mobilenet'])
def test_lowerings_agree(name):
  build, size = TINY[name]
  x = normal(2, size, size, 3)
  nets = [build(norm='ln', lowering=lowering) for lowering in LOWERINGS]
  params, _ = filled(nets[0], x)

  def run(net):
    def total(params):
      return jnp.sum(jnp.sin(net.apply({'params': params}, x).logits))

    return quick_jit(jax.value_and_grad(total))(params)

  near(*map(run, nets))


@pytest.mark.parametrize('name', sorted(set(MODELS) - {'lstm', 'transformer'}))
def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(name):
  net = make_net(name, num_classes=4, norm='bn', dtype=jnp.bfloat16)
  x = jnp.zeros((2, 32, 32, 3))
  options = {'train': True, 'mutable': ['batch_stats']}
  key = {'dropout': KEY}

  def run():
    variables = net.init(KEY, x)
    return variables, net.apply(variables, x, rngs=key, **options)

  variables, (outputs, moved) = jax.eval_shape(run)
  leaves = jax.tree.leaves((variables, moved, outputs.logits))
  assert all(a.dtype == jnp.float32 for a in leaves)
  assert outputs.features.dtype == jnp.bfloat16


@pytest.mark.parametrize('name', ['resnet', 'mobilenet'])
def test_bfloat16_stays_near(name):
  build, size = TINY[name]
  x = normal(2, size, size, 3)
  exact, half = (
    build(norm='ln', lowering='matmul', dtype=dtype)
    for dtype in (None, jnp.bfloat16)
  )
  params, _ = filled(exact, x)
  run = quick_jit(
    lambda: [n.apply({'params': params}, x).logits for n in (exact, half)]
  )
  ours, theirs = to_numpy(run())
  assert 0 < np.abs(ours - theirs).max() < 0.1
