"""Both lowerings of a convolution, and pooling."""

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from fedjax_ls.models import Conv, max_pool2, resolve_conv
from fedjax_ls.models.conv import (
  conv_matmul,
  conv_native,
  conv_shifted,
  initializers,
)

SHAPES = [
  # image, kernel, strides, padding
  ((7, 6, 2), (3, 3), (1, 1), 'VALID'),
  ((7, 6, 2), (3, 2), (2, 3), 'VALID'),
  ((8, 5, 3), (5, 5), (1, 1), 'SAME'),
  ((8, 5, 3), (3, 3), (2, 2), 'SAME'),
  ((4, 4, 1), (1, 1), (2, 1), 'SAME'),
  ((6, 7, 1), (3, 3), (1, 1), 'VALID'),
  ((5, 5, 2), (5, 5), (1, 1), 'VALID'),
]


def problem(image, kernel, dtype=jnp.float32, batch=3, features=4):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(batch, *image)), dtype)
  w = jnp.asarray(rng.normal(size=(*kernel, image[-1], features)), dtype)
  return x, w


def value_and_grads(conv, strides, padding):
  """The output and the gradients of a loss that is not linear in it."""

  def loss(x, w):
    y = conv(x, w, strides, padding)
    return jnp.sum(jnp.sin(y)), y

  def run(x, w):
    (_, y), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, w)
    return y, grads

  return run


def assert_near(a, b, tolerance):
  def near(u, v):
    scale = max(1.0, float(jnp.abs(v).max()))
    assert u.shape == v.shape
    assert u.dtype == v.dtype
    assert float(jnp.abs(u - v).max()) <= tolerance * scale

  jax.tree.map(near, a, b)


@pytest.mark.parametrize(('image', 'kernel', 'strides', 'padding'), SHAPES)
def test_matmul_is_native(image, kernel, strides, padding):
  x, w = problem(image, kernel)
  ours, theirs = (
    jax.jit(value_and_grads(conv, strides, padding))(x, w)
    for conv in (conv_matmul, conv_native)
  )
  assert_near(ours, theirs, 1e-5)


@pytest.mark.parametrize(('image', 'kernel', 'strides', 'padding'), SHAPES[1:4])
def test_matmul_is_native_in_64_bits(x64, image, kernel, strides, padding):
  x, w = problem(image, kernel, jnp.float64)
  ours, theirs = (
    jax.jit(value_and_grads(conv, strides, padding))(x, w)
    for conv in (conv_matmul, conv_native)
  )
  assert_near(ours, theirs, 1e-10)


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(
  st.integers(3, 6), st.integers(3, 6), st.integers(1, 3), st.integers(1, 2)
)
def test_matmul_is_the_sum_over_windows(height, cols, window, stride):
  x, w = problem((height, cols, 2), (window, 2))
  ours = np.asarray(conv_matmul(x, w, (stride, 1), 'VALID'))
  for (n, i, j, o), value in np.ndenumerate(ours):
    top = i * stride
    patch = np.asarray(x)[n, top : top + window, j : j + 2]
    expected = np.sum(patch * np.asarray(w)[..., o])
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_matmul_is_native_for_clients_with_different_weights():
  x, w = problem((6, 6, 2), (3, 3))
  xs, ws = jnp.stack([x, x + 1]), jnp.stack([w, 2 * w])
  ours, theirs = (
    jax.jit(jax.vmap(value_and_grads(conv, (1, 1), 'SAME')))(xs, ws)
    for conv in (conv_matmul, conv_native)
  )
  assert_near(ours, theirs, 1e-5)


def test_matmul_is_native_over_steps_of_a_scan():
  x, w = problem((6, 6, 2), (3, 3))

  def trained(conv):
    def step(w, x):
      run = value_and_grads(conv, (1, 1), 'VALID')
      return w - 1e-3 * run(x, w)[1][1], None

    return jax.jit(lambda w: jax.lax.scan(step, w, jnp.stack([x, 2 * x]))[0])(w)

  assert_near(trained(conv_matmul), trained(conv_native), 1e-5)


@pytest.mark.parametrize(('image', 'kernel', 'strides', 'padding'), SHAPES)
def test_shifted_is_native_depthwise(x64, image, kernel, strides, padding):
  x, _ = problem(image, kernel, jnp.float64)
  w = problem((1, 1, 1), kernel, jnp.float64, features=image[-1])[1]
  ours, theirs = (
    jax.jit(value_and_grads(conv, strides, padding))(x, w)
    for conv in (conv_shifted, conv_native)
  )
  assert_near(ours, theirs, 1e-10)


def test_a_depthwise_convolution_treats_channels_alone():
  x, _ = problem((6, 7, 3), (3, 3))
  options = {'padding': 1, 'strides': (2, 2), 'depthwise': True}
  layer = Conv(3, (3, 3), lowering='matmul', **options)
  params = layer.init(jax.random.key(0), x)
  assert params['params']['kernel'].shape == (3, 3, 1, 3)
  y = layer.apply(params, x)
  for c in range(3):
    kernel = params['params']['kernel'][..., c : c + 1]
    alone = conv_native(x[..., c : c + 1], kernel, (2, 2), 1)
    assert_near(y[..., c : c + 1], alone, 1e-5)
  theirs = nn.Conv(3, (3, 3), (2, 2), padding=1, feature_group_count=3)
  params = jax.tree.map(lambda p: p + 0.1, params)
  for lowering in ('native', 'matmul'):
    ours = layer.clone(lowering=lowering).apply(params, x)
    assert_near(ours, theirs.apply(params, x), 1e-5)
  with pytest.raises(ValueError, match=r'features = 4 .* use the 3 channels'):
    Conv(4, (3, 3), depthwise=True).init(jax.random.key(0), x)


@pytest.mark.parametrize('conv', [conv_native, conv_matmul])
def test_a_number_pads_all_sides(conv):
  x, w = problem((6, 7, 2), (3, 3))
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  expected = conv_native(padded, w, (2, 2), 'VALID')
  assert_near(conv(x, w, (2, 2), 1), expected, 1e-5)
  assert np.abs(expected - conv(x, w, (2, 2), 'SAME')).max() > 0.1


@pytest.mark.parametrize('split_x', [True, False])
def test_matmul_is_native_on_a_mesh(split_x):
  x, w = problem((6, 6, 2), (3, 3), batch=4)
  mesh = jax.make_mesh((2,), ('clients',), (jax.sharding.AxisType.Auto,))
  split, whole = PartitionSpec('clients'), PartitionSpec()
  specs = (split, whole) if split_x else (whole, split)
  x = jnp.stack([x, 2 * x]) if split_x else x[None]
  w = w[None] if split_x else jnp.stack([w, 2 * w])

  def gradients(conv):
    def local(x, w):
      if split_x:
        w = jax.lax.pcast(w, 'clients', to='varying')
      else:
        x = jax.lax.pcast(x, 'clients', to='varying')
      return value_and_grads(conv, (1, 1), 'VALID')(x[0], w[0])[1][1][None]

    return jax.jit(
      jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=split)
    )(x, w)

  assert_near(gradients(conv_matmul), gradients(conv_native), 1e-5)


def test_second_derivatives_in_reverse_are_right_and_forward_ones_raise():
  x, w = problem((5, 5, 2), (3, 3))

  def curvature(conv):
    def squared_gradient(w):
      grad = value_and_grads(conv, (1, 1), 'VALID')(x, w)[1]
      return jnp.sum(grad[0] ** 2) + jnp.sum(grad[1] ** 2)

    return jax.grad(squared_gradient)(w)

  assert_near(curvature(conv_matmul), curvature(conv_native), 1e-5)
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(lambda w: conv_matmul(x, w, (1, 1), 'VALID'), (w,), (w,))


def test_narrow_types_keep_their_type_and_stay_near():
  x, w = problem((8, 8, 4), (5, 5))
  exact = value_and_grads(conv_native, (1, 1), 'SAME')(x, w)
  half = value_and_grads(conv_matmul, (1, 1), 'SAME')(
    x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
  )
  native = value_and_grads(conv_native, (1, 1), 'SAME')(
    x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
  )

  def error(y):
    return float(jnp.abs(y.astype(jnp.float32) - exact[0]).max())

  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(half))
  assert error(half[0]) <= 1.5 * error(native[0])


@pytest.mark.parametrize('use_bias', [False, True])
def test_the_module_has_the_same_parameters_in_both_lowerings(use_bias):
  x, _ = problem((6, 6, 2), (3, 3))
  options = {'use_bias': use_bias, 'padding': 'SAME', 'strides': (2, 2)}
  native = Conv(5, (3, 3), **options)
  matmul = Conv(5, (3, 3), lowering='matmul', **options)
  params = native.init(jax.random.key(1), x)
  jax.tree.map(
    np.testing.assert_array_equal, params, matmul.init(jax.random.key(1), x)
  )
  params = jax.tree.map(lambda p: p + 0.1, params)
  assert_near(matmul.apply(params, x), native.apply(params, x), 1e-5)
  theirs = nn.Conv(5, (3, 3), (2, 2), use_bias=use_bias)
  assert_near(matmul.apply(params, x), theirs.apply(params, x), 1e-5)


def test_torch_initialization_is_uniform_within_one_over_root_fan_in():
  layer = Conv(200, (3, 3), initializer='torch')
  params = layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))['params']
  bound = 1 / np.sqrt(3 * 3 * 2)
  for values in params.values():
    assert 0.95 * bound < float(jnp.abs(values).max()) <= bound
  assert float(params['kernel'].std()) == pytest.approx(
    bound / np.sqrt(3), rel=0.05
  )


@pytest.mark.parametrize('size', [(4, 6), (5, 7)])
def test_pooling_is_flax_pooling(size):
  x, _ = problem((*size, 3), (1, 1))

  def flax_pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))

  np.testing.assert_array_equal(max_pool2(x), flax_pool(x))
  ours, theirs = (
    jax.grad(lambda x, p=pool: jnp.sum(jnp.sin(p(x))))(x)
    for pool in (max_pool2, flax_pool)
  )
  np.testing.assert_array_equal(ours, theirs)


def test_a_maximum_that_is_computed_twice_keeps_its_gradient():
  """Fused with what comes before, x may be rounded otherwise the second time,
  and then no element equals the maximum."""
  scale = jnp.asarray(1.0 + 1e-7, jnp.float32)

  @jax.jit
  def gradient(x, scale):
    def total(x):
      centered = x - x.mean((1, 2), keepdims=True)
      variance = (centered * centered).mean((1, 2), keepdims=True)
      y = centered * jax.lax.rsqrt(variance + 1e-5) * scale + 0.1
      return max_pool2(y).sum()

    return jax.grad(total)(x)

  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 8)))
  assert np.isfinite(gradient(x.astype(jnp.float32), scale)).all()


def test_pooling_shares_the_gradient_at_ties():
  def gradient(values):
    x = jnp.array(values).reshape(1, 2, 2, 1)
    return jax.grad(lambda x: max_pool2(x).sum())(x).ravel().tolist()

  assert gradient([0.0, 0.0, 0.0, 0.0]) == [0.25, 0.25, 0.25, 0.25]
  assert gradient([1.0, 0.0, 1.0, 0.0]) == [0.5, 0.0, 0.5, 0.0]
  np.testing.assert_allclose(
    gradient([1.0, 1.0, 1.0, 0.0]), [1 / 3, 1 / 3, 1 / 3, 0.0]
  )


def test_auto_never_runs_native_convolutions_on_cpu():
  assert resolve_conv('auto', 'cpu') == 'matmul'
  assert [resolve_conv('auto', b) for b in ('gpu', 'tpu')] == ['native'] * 2
  assert resolve_conv('native', 'cpu') == 'native'
  assert resolve_conv('matmul', 'gpu') == 'matmul'


def test_unknown_names_are_one_sentence_with_the_nearest():
  with pytest.raises(ValueError, match=r"execution.conv = 'matmull'.*'matmul'"):
    resolve_conv('matmull', 'cpu')
  with pytest.raises(ValueError, match=r"initializer = 'pytorch'.*'torch'"):
    initializers('pytorch', 3)
  with pytest.raises(ValueError, match=r"lowering = 'nativ'.*'native'"):
    Conv(1, (1, 1), lowering='nativ').init(
      jax.random.key(0), jnp.zeros((1, 2, 2, 1))
    )
  with pytest.raises(ValueError, match='1 x 4'):
    max_pool2(jnp.zeros((1, 1, 4, 1)))
