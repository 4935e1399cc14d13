"""Norms, networks, their narrow versions, and the wrapper around Flax."""

import math
from fractions import Fraction

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from fedjax_ls.models import (
  CNN,
  MLP,
  Norm,
  Outputs,
  Width,
  flax_model,
  make_net,
  width_submodels,
)
from fedjax_ls.models.conv import LOWERINGS
from fedjax_ls.models.norms import KINDS
from tests.networks import (
  KEY,
  check_masked_is_sliced,
  filled,
  near,
  normal,
  num_parameters,
)


def normed(norm, x, **options):
  """Output of a norm with fresh parameters and statistics."""
  return norm.init_with_output(KEY, x, **options)[0]


# --- norms ------------------------------------------------------------------


def reference_norm(kind, v, groups=2, eps=1e-5):
  """One example, channels last, in NumPy from the formulas."""
  match kind:
    case 'fn':
      return np.sqrt(v.size) * v / max(eps, np.sqrt((v**2).sum()))
    case 'shift':
      return v - v.mean()
    case 'ln':
      return (v - v.mean()) / np.sqrt(v.var() + eps)
    case 'gn':
      channels = v.shape[-1]
      group = [c * groups // channels for c in range(channels)]
      out = np.zeros_like(v)
      for g in set(group):
        part = np.array(group) == g
        out[..., part] = reference_norm('ln', v[..., part], eps=eps)
      return out
    case 'in':
      channels = np.moveaxis(v, -1, 0)
      parts = [reference_norm('ln', part, eps=eps) for part in channels]
      return np.stack(parts, -1)
  return v


@pytest.mark.parametrize(
  ('kind', 'shape'),
  [
    *((kind, (3, 8)) for kind in ('none', 'fn', 'shift', 'ln', 'gn')),
    *((kind, (3, 4, 5, 8)) for kind in KINDS if kind != 'bn'),
  ],
)
@pytest.mark.parametrize('active', [None, 5, 6])
def test_a_norm_of_the_active_channels_is_the_formula(kind, shape, active):
  x = normal(*shape)
  ours = jax.jit(lambda a: normed(Norm(kind), x, active=a))(active)
  for v, y in zip(np.asarray(x), np.asarray(ours), strict=True):
    kept = v.shape[-1] if active is None else active
    near(y[..., :kept], reference_norm(kind, v[..., :kept]))
    assert (y[..., kept:] == 0).all()


@pytest.mark.parametrize('kind', KINDS)
def test_a_norm_of_fewer_channels_is_that_of_the_slim_array(kind):
  x = normal(4, 3, 3, 8)
  for active in (2, 5):
    options = {'train': True, 'mutable': ['params', 'batch_stats']}
    norm = Norm(kind, groups=4, affine=True)
    full, _ = norm.init_with_output(KEY, x, active=active, **options)
    slim, _ = norm.init_with_output(KEY, x[..., :active], **options)
    near(full[..., :active], slim, 1e-6)


def test_group_norm_takes_the_groups_of_the_slim_array():
  v = jnp.array([[1.0, 3.0, 10.0, 20.0, 99.0, -99.0, 0.0, 7.0]])
  ours = normed(Norm('gn', eps=1e-12), v, active=4)
  near(ours, jnp.array([[-1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]))


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(1, 12), st.floats(1e-3, 1e3))
def test_feature_norm_has_length_root_d(active, scale):
  y = normed(Norm('fn'), scale * (normal(2, 12) + 0.1), active=active)
  near(jnp.sqrt((y**2).sum(1)), jnp.full(2, math.sqrt(active)))


@pytest.mark.parametrize('kind', ['fn', 'ln', 'gn', 'shift'])
def test_the_gradient_at_a_zero_feature_is_finite(kind):
  def total(x):
    return jnp.sum(normed(Norm(kind), x) * normal(2, 6, seed=1))

  x = jnp.zeros((2, 6)).at[1].set(normal(6))
  value, grad = jax.value_and_grad(total)(x)
  assert jnp.isfinite(value)
  assert jnp.isfinite(grad).all()
  assert jnp.any(grad[1] != 0)
  if kind == 'fn':
    assert not jnp.any(grad[0])


def test_feature_norm_below_eps_divides_by_eps():
  v = jnp.array([[3e-7, 4e-7]])
  near(normed(Norm('fn'), v), math.sqrt(2) * v / 1e-5, 1e-6)


@pytest.mark.parametrize('shape', [(6, 5), (6, 3, 2, 5)])
def test_batch_norm_ignores_padding(shape):
  x = normal(*shape)
  mask = jnp.arange(6) < 4
  run = {'train': True, 'mutable': ['batch_stats']}
  norm = Norm('bn', affine=True)
  variables = norm.init(KEY, x)
  padded, moved = norm.apply(
    variables, x.at[4:].set(jnp.nan), mask=mask, **run
  )  # fmt: skip
  alone, expected = norm.apply(variables, x[:4], **run)
  near(padded[:4], alone)
  near(moved, expected)


def test_batch_norm_is_that_of_flax():
  x = normal(6, 3, 2, 5)
  ours = Norm('bn', affine=True)
  theirs = nn.BatchNorm(momentum=0.9, use_fast_variance=False)
  run = {'mutable': ['batch_stats']}
  variables = ours.init(KEY, x)
  y, moved = ours.apply(variables, x, train=True, **run)
  expected, stats = theirs.apply(variables, x, use_running_average=False, **run)
  near((y, moved), (expected, stats))
  later = {**variables, **moved}
  near(
    ours.apply(later, x), theirs.apply(later, x, use_running_average=True)
  )  # fmt: skip


def test_batch_norm_without_examples_or_channels_keeps_its_statistics():
  x = normal(3, 4)
  norm = Norm('bn')
  variables = norm.init(KEY, x)

  def stats(**options):
    return norm.apply(
      variables, x, train=True, mutable=['batch_stats'], **options
    )[1]

  near(stats(mask=jnp.zeros(3, bool)), variables, 0)
  moved = stats(active=2)['batch_stats']
  for name, initial in variables['batch_stats'].items():
    assert jnp.all(moved[name][:2] != initial[:2])
    near(moved[name][2:], initial[2:], 0)


def test_an_unknown_norm_names_the_nearest():
  with pytest.raises(ValueError, match=r"model.norm = 'lnn'.*'ln'"):
    normed(Norm('lnn'), normal(1, 2))


# --- networks ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('options', 'image', 'expected'),
  [
    ({}, (32, 32, 3), 797_248),
    ({'use_bias': True}, (32, 32, 3), 797_248 + 64 + 64 + 384 + 192 + 10),
    ({'feature': 384}, (32, 32, 3), 797_248 - 384 * 192 + (384 - 192) * 10),
    (
      {'feature': 384, 'use_bias': True},
      (32, 32, 3),
      725_440 + 64 + 64 + 384 + 10,
    ),
    ({'num_classes': 100}, (32, 32, 3), 797_248 + 192 * 90),
    ({}, (28, 28, 1), 797_248 - 25 * 2 * 64 - (25 - 16) * 64 * 384),
    ({}, (28, 28), 572_864),
  ],
)
def test_the_cnn_has_the_number_of_weights_of_the_paper(
  options, image, expected
):
  net = make_net('cnn', **{'num_classes': 10, **options})
  assert num_parameters(net, image) == expected


def test_the_mlp_has_the_number_of_weights_of_its_sizes():
  sizes = 64 * 128 + 128 * 64 + 64 * 10
  assert num_parameters(MLP(10), (8, 8, 1)) == sizes
  assert num_parameters(MLP(10, hidden=()), (8, 8, 1)) == 640
  assert num_parameters(MLP(10, use_bias=True), (64,)) == sizes + 202
  affine = MLP(10, norm='ln', norm_affine=True)
  assert num_parameters(affine, (64,)) == sizes + 2 * (128 + 64)


@pytest.mark.parametrize('feature', [192, 384])
def test_features_are_the_input_of_the_classifier(feature):
  net = make_net('cnn', num_classes=7, feature=feature, norm='fn')
  x = normal(2, 28, 28, 1)
  params, _ = filled(net, x)
  outputs = jax.jit(net.apply)({'params': params}, x)
  assert outputs.features.shape == (2, feature)
  kernel = params['classifier']['kernel']
  near(outputs.logits, outputs.features @ kernel)
  near((outputs.features**2).sum(1), jnp.full(2, feature))


def small_cnn(**options):
  return CNN(5, channels=(4, 6), hidden=(10, 8), **options)


SMALL = {
  'mlp': (lambda **options: MLP(5, hidden=(9, 7), **options), (6, 4, 4, 2)),
  # 2 x 2 positions are left at the flatten.
  'cnn': (small_cnn, (6, 20, 20, 2)),
}


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize(
  ('norm', 'where', 'other'),
  [('ln', 'reduced', 'layers'), ('fn', 'last', 'layers')],
)
def test_only_the_last_norm_matters_without_biases(
  x64, name, norm, where, other
):
  build, shape = SMALL[name]
  options = {'norm': norm, 'norm_eps': 1e-30}
  x = normal(*shape).astype(jnp.float64)
  one, two = (build(norm_where=place, **options) for place in (where, other))
  params, _ = filled(one, x)
  ours, theirs = (
    jax.jit(net.apply)({'params': params}, x) for net in (one, two)
  )
  near(ours, theirs, 1e-9)


def test_with_biases_the_inner_norms_do_matter():
  x = normal(3, 6)
  options = {'use_bias': True, 'norm': 'fn'}
  net = MLP(5, **options)
  variables = {'params': filled(net, x)[0]}
  last = MLP(5, norm_where='last', **options).apply(variables, x)
  assert jnp.abs(net.apply(variables, x).logits - last.logits).max() > 1e-3


def test_the_norm_may_stand_before_the_activation():
  x = normal(3, 6)
  net = MLP(5, norm='ln', norm_before=True)
  params, _ = filled(net, x)
  outputs = net.apply({'params': params}, x)
  h = x
  for layer in ('dense0', 'dense1'):
    h = h @ params[layer]['kernel']
    h = jnp.stack([jnp.asarray(reference_norm('ln', np.array(v))) for v in h])
    h = jnp.maximum(h, 0)
  near(outputs.features, h, 1e-4)


def test_a_network_of_zero_features_has_zero_gradients():
  net = MLP(5, norm='fn')
  x = normal(3, 6)
  params = jax.tree.map(lambda p: -jnp.abs(p), filled(net, x)[0])

  def total(params):
    return net.apply({'params': params}, jnp.abs(x)).logits.sum()

  grads = jax.grad(total)(params)
  assert all(not jnp.any(g) for g in jax.tree.leaves(grads))


def test_lowerings_of_a_network_agree():
  x = normal(2, 17, 16, 2)
  nets = [small_cnn(norm='ln', lowering=name) for name in LOWERINGS]
  params, _ = filled(nets[0], x)
  near(*(jax.jit(net.apply)({'params': params}, x) for net in nets))


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: make_net('mpl', num_classes=2), r"model.name = 'mpl'.*'mlp'"),
    (
      lambda: make_net('cnn', num_classes=2, feature=100),
      'model.feature = 100; use 192 or 384',
    ),
    (
      lambda: small_cnn().init(KEY, normal(1, 15, 16, 1)),
      r'shape \(1, 15, 16, 1\); .* at least 16 x 16',
    ),
    (
      lambda: MLP(2, norm='fn', norm_where='reduced').init(KEY, normal(1, 3)),
      "'reduced' does not fit",
    ),
    (
      lambda: MLP(2, norm='in').init(KEY, normal(1, 3)),
      r"norm = 'in' has no positions .* \(1, 128\)",
    ),
    (
      lambda: MLP(2, norm_where='first').init(KEY, normal(1, 3)),
      r"norm_where = 'first'.*'last'",
    ),
    (
      lambda: width_submodels(MLP(2), normal(1, 3), (0.5,)),
      r"rates\[0\] is the float 0.5; write '0.5'",
    ),
    (
      lambda: width_submodels(MLP(2), normal(1, 3), ('1', '3/2')),
      r"rates\[1\] = '3/2' is no share",
    ),
    (
      lambda: width_submodels(nn.Dense(2), normal(1, 3), ('1',)),
      'Dense has no method slim',
    ),
    (lambda: flax_model(nn.Dense(2), normal(1, 3), loss='mse'), 'model.loss'),
  ],
)
def test_bad_input_is_one_sentence(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert '\n' not in str(caught.value)


# --- narrow versions --------------------------------------------------------


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.fractions(Fraction(1, 50), 1, max_denominator=50))
def test_a_width_keeps_the_exact_ceiling(rate):
  width = Width(rate.numerator, rate.denominator)
  for channels in (1, 5, 64, 100):
    assert width.active(channels) == math.ceil(rate * channels)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('norm', ['none', 'fn', 'ln', 'gn', 'bn'])
def test_a_masked_network_is_the_sliced_one(x64, name, norm):
  build, shape = SMALL[name]
  net = build(norm=norm, norm_affine=True, use_bias=True, lowering='matmul')
  x = normal(*shape).astype(jnp.float64)
  y = jnp.array([0, 3, 1, 1, 2, 4])
  check_masked_is_sliced(net, x, y)


def test_a_projector_comes_before_the_classifier():
  net = MLP(5, hidden=(6,), projector=(4, 3), use_bias=True)
  x = normal(2, 7)
  params, _ = filled(net, x)
  outputs = net.apply({'params': params}, x)

  def linear(name, h):
    return h @ params[name]['kernel'] + params[name]['bias']

  hidden = np.maximum(linear('dense0', np.asarray(x)), 0)
  inner = np.maximum(linear('projector0', hidden), 0)
  features = linear('projector1', inner)
  near(outputs.features, features)
  near(outputs.logits, linear('classifier', features))


def test_the_last_norm_comes_before_the_projector():
  net = MLP(5, hidden=(6,), norm='fn', norm_where='last', projector=(6,))
  x = normal(3, 4)
  params, _ = filled(net, x)
  z = np.maximum(x @ params['dense0']['kernel'], 0)
  z = np.stack([reference_norm('fn', v) for v in np.asarray(z)])
  outputs = net.apply({'params': params}, x)
  near(outputs.features, z @ params['projector0']['kernel'])


def test_a_projector_keeps_its_size_in_a_narrow_network(x64):
  net = MLP(5, hidden=(6, 5), projector=(4, 3), use_bias=True)
  x = normal(6, 7).astype(jnp.float64)
  y = jnp.array([0, 3, 1, 1, 2, 4])
  check_masked_is_sliced(net, x, y, narrows=False)


def test_masks_and_widths_take_traced_tiers():
  submodels = width_submodels(MLP(2), normal(1, 3), ('1', '0.6', '1/64'))
  tiers = jnp.arange(3)
  width = jax.vmap(submodels.width)(tiers)
  assert width.active(64).tolist() == [64, 39, 1]
  mask = jax.jit(jax.vmap(submodels.mask))(tiers)
  kernel = mask['dense1']['kernel']
  assert kernel.sum((1, 2)).tolist() == [128 * 64, 77 * 39, 2]
  assert mask['classifier']['kernel'].sum((1, 2)).tolist() == [128, 78, 2]
  assert kernel[1, :77, :39].all()


# --- the wrapper ------------------------------------------------------------


class Plain(nn.Module):
  """Logits alone, no optional argument."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3, dtype=jnp.bfloat16)(x)


class Dropping(nn.Module):
  """Takes `train` only, and draws random numbers with it."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return Outputs(nn.Dense(3)(x), x, (x,))


def test_plain_logits_are_the_features_and_float32():
  model = flax_model(Plain(), jnp.zeros((1, 4), jnp.uint8))
  params, stats = model.init(KEY)
  x = jnp.array([[255, 0, 51, 0]], jnp.uint8)
  outputs, same = model.apply(params, stats, x, train=True, mask=jnp.ones(1))
  assert outputs.logits.dtype == jnp.float32
  near(outputs.logits, outputs.features, 0)
  expected = Plain().apply({'params': params}, x.astype(jnp.float32) / 255)
  near(outputs.logits, expected.astype(jnp.float32), 0)
  assert stats == same == {}
  with pytest.raises(ValueError, match='Plain takes no width'):
    model.apply(params, stats, x, width=Width(1, 2))


def test_dropout_draws_from_the_key_in_training_only():
  class Strict(Dropping):
    @nn.compact
    def __call__(self, x, train=False):
      return super().__call__(x, train)

  model = flax_model(Strict(), jnp.ones((1, 50)))
  params, stats = model.init(KEY)
  x = jnp.ones((2, 50))

  def features(**options):
    return model.apply(params, stats, x, **options)[0].features

  one, other = (
    features(train=True, key=jax.random.key(i)) for i in range(2)
  )  # fmt: skip
  assert jnp.any(one != other)
  near(features(train=True, key=jax.random.key(0)), one, 0)
  near(features(), x, 0)


def test_training_returns_new_statistics_and_evaluation_the_old():
  model = flax_model(MLP(3, norm='bn'), jnp.ones((1, 4)))
  params, stats = model.init(KEY)
  assert set(stats) == {'norm0', 'norm1'}
  x = normal(5, 4)
  mask = jnp.arange(5) < 4
  _, moved = model.apply(params, stats, x, train=True, mask=mask)
  _, expected = model.apply(params, stats, x[:4], train=True)
  near(moved, expected)
  assert jnp.any(moved['norm0']['mean'] != stats['norm0']['mean'])
  _, same = model.apply(params, stats, x)
  near(same, stats, 0)


def test_losses_and_metrics_are_one_value_an_example():
  model = flax_model(MLP(3), jnp.ones((1, 4)))
  logits = jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
  outputs = Outputs(logits, logits)
  y = jnp.array([1, 2])
  total = math.exp(1) + math.exp(2) + 1
  near(model.loss(outputs, y), [math.log(total) - 2, math.log(3)])
  assert model.metrics(outputs, y)['accuracy'].tolist() == [1, 0]
  sequence = Outputs(logits[None], logits[None])
  near(model.loss(sequence, y[None]), model.loss(outputs, y).mean()[None])
  assert model.metrics(sequence, y[None])['accuracy'].tolist() == [0.5]


def test_squared_error_averages_over_the_outputs():
  model = flax_model(MLP(2), jnp.ones((1, 4)), loss='squared_error')
  logits = jnp.array([[1.0, 2.0], [0.0, 4.0]])
  y = jnp.array([[1.0, 0.0], [3.0, 0.0]])
  near(model.loss(Outputs(logits, logits), y), [2.0, 12.5])
  column = Outputs(logits[:, :1], logits)
  near(model.loss(column, jnp.array([2.0, 1.0])), [1.0, 1.0])
  assert model.metrics(column, jnp.array([2.0, 1.0])) == {}


def test_own_loss_metrics_and_preprocessing_are_used():
  model = flax_model(
    Plain(),
    jnp.zeros((1, 2), jnp.int32),
    loss=lambda outputs, y: outputs.logits[:, 0] * y,
    metrics=lambda outputs, y: {'twice': 2 * y},
    preprocess=lambda x: jax.nn.one_hot(x[:, 0], 6),
  )
  params, stats = model.init(KEY)
  assert params['Dense_0']['kernel'].shape == (6, 3)
  outputs, _ = model.apply(params, stats, jnp.array([[5, 0]]))
  near(outputs.logits, params['Dense_0']['kernel'][5:], 1e-2)
  near(model.loss(outputs, jnp.array([2])), 2 * outputs.logits[:, 0])
  assert model.metrics(outputs, jnp.array([2]))['twice'].tolist() == [4]


def test_other_collections_are_refused():
  class Cached(nn.Module):
    @nn.compact
    def __call__(self, x):
      self.variable('cache', 'last', jnp.zeros, x.shape)
      return x

  with pytest.raises(ValueError, match=r"variables \['cache'\]"):
    flax_model(Cached(), jnp.ones((1, 4))).init(KEY)
