"""FedDecorr's penalty: known values, padding, precision; and wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import losses
from fedjax_ls.losses import correlation
from fedjax_ls.models import MLP, flax_model
from tests.breaking import error


def gaussian(size, width, seed=0):
  return np.random.RandomState(seed).randn(size, width).astype(np.float32)


def everyone(size):
  return jnp.ones(size, bool)


def penalty(features, scale='code'):
  return float(
    correlation(jnp.asarray(features), everyone(len(features)), scale)
  )


@pytest.mark.parametrize('width', [48, 256])
def test_independent_features(width):
  """The mean of a squared correlation is 1 / (N - 1)."""
  got = np.mean([penalty(gaussian(64, width, seed)) for seed in range(8)])
  np.testing.assert_allclose(got, 63 / 64, rtol=0.02)


@pytest.mark.parametrize(('size', 'expected'), [(64, 62.0156), (32, 30.0312)])
def test_features_of_rank_one(size, expected):
  column, row = gaussian(size, 1), 1 + np.abs(gaussian(1, 20, 1))
  np.testing.assert_allclose(penalty(column @ row), expected, rtol=1e-4)


def least(size, width):
  """What N examples allow at best when there are more features than that."""
  return (size - 1) ** 2 / size * (width / (size - 1) - 1) / (width - 1)


@pytest.mark.parametrize(
  ('size', 'width', 'expected'),
  [(64, 1280, 0.937), (64, 512, 0.865), (64, 256, 0.745), (64, 64, 0.0156)],
)
def test_the_lower_bound(size, width, expected):
  bound = least(size, width)
  np.testing.assert_allclose(bound, expected, rtol=1e-2)
  assert penalty(gaussian(size, width)) > bound
  assert penalty(np.abs(gaussian(size, width))) > bound


@pytest.mark.parametrize('copies', [1, 3])
def test_the_lower_bound_is_reached(copies):
  """By copies of all directions that N examples of mean 0 can have."""
  size = 16
  centered = np.eye(size) - 1 / size
  basis = np.linalg.svd(centered)[0][:, :-1].astype(np.float32)
  features = np.tile(basis, copies)
  bound = least(size, features.shape[1])
  np.testing.assert_allclose(penalty(features), bound, atol=1e-5)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(('size', 'width'), [(64, 20), (20, 64), (12, 12)])
def test_the_two_scales_and_the_correlations(size, width):
  features = gaussian(size, width).astype(float) @ gaussian(width, width, 1)
  rho = np.corrcoef(features.T)
  off = (rho**2).sum() - width
  code, paper = (penalty(features, scale) for scale in ('code', 'paper'))
  squares = ((size - 1) / size) ** 2
  np.testing.assert_allclose(
    paper, squares * (off + width) / width**2, rtol=1e-7
  )
  mean = off / (width * (width - 1))
  np.testing.assert_allclose(code, (size - 1) ** 2 / size * mean, rtol=1e-7)
  without_diagonal = paper - squares / width
  np.testing.assert_allclose(
    code, without_diagonal * width / (width - 1) * size, rtol=1e-7
  )


@pytest.mark.parametrize('scale', losses.SCALES)
@pytest.mark.parametrize('width', [3, 40])
def test_padding_does_not_count(scale, width):
  features = jnp.asarray(gaussian(10, width))
  mask = jnp.arange(10) % 3 != 0
  of = jax.value_and_grad(correlation)
  got, gradient = of(features, mask, scale)
  expected, own = of(features[mask], everyone(6), scale)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient[mask], own, rtol=1e-3, atol=1e-6)
  assert (gradient[~mask] == 0).all()
  assert np.abs(own).max() > 1e-4


@pytest.mark.parametrize('scale', losses.SCALES)
@pytest.mark.parametrize('live', [0, 1])
def test_one_example_or_none_is_no_batch(scale, live):
  features, mask = jnp.asarray(gaussian(4, 7)), jnp.arange(4) < live
  value, gradient = jax.value_and_grad(correlation)(features, mask, scale)
  assert value == 0
  assert (gradient == 0).all()


@pytest.mark.parametrize('scale', losses.SCALES)
def test_dead_features_stay_finite(scale):
  features = jnp.asarray(gaussian(8, 5)).at[:, 1].set(0).at[:, 3].set(2.5)
  of = jax.value_and_grad(correlation)
  value, gradient = of(features, everyone(8), scale)
  assert jnp.isfinite(value)
  assert jnp.isfinite(gradient).all()
  assert (gradient[:, 1] == 0).all()
  value, gradient = of(jnp.zeros((8, 5)), everyone(8), scale)
  assert value == 0
  assert (gradient == 0).all()


def test_a_single_feature_has_nothing_to_be_correlated_with():
  np.testing.assert_allclose(penalty(gaussian(8, 1)), 0, atol=1e-5)


def test_further_axes_are_flattened():
  features = gaussian(8, 12)
  got = penalty(features.reshape(8, 3, 4))
  np.testing.assert_allclose(got, penalty(features), rtol=1e-6)


def test_it_is_computed_in_float32_or_wider():
  narrow = jnp.asarray(gaussian(16, 8), jnp.bfloat16)
  got = correlation(narrow, everyone(16))
  assert got.dtype == jnp.float32
  assert got == correlation(narrow.astype(jnp.float32), everyone(16))
  jaxpr = jax.make_jaxpr(correlation)(narrow, everyone(16))
  (dot,) = (e for e in jaxpr.eqns if e.primitive.name == 'dot_general')
  assert {v.aval.dtype for v in dot.invars} == {np.dtype(np.float32)}
  with jax.enable_x64(True):
    assert correlation(jnp.ones((3, 2)), everyone(3)).dtype == jnp.float64


def test_a_bfloat16_model_learns_from_it():
  x = jnp.asarray(gaussian(16, 4))
  module = MLP(hidden=(6,), num_classes=3, dtype=jnp.bfloat16)
  model = flax_model(module, x)
  params, stats = model.init(jax.random.key(0))
  term = losses.decorrelation(lambda hyper: 0.1, 'code')

  def value(params):
    outputs, _ = model.apply(params, stats, x)
    return term(
      None, losses.View(outputs, x, None, everyone(16), params, params, None)
    )

  got, gradient = jax.value_and_grad(value)(params)
  assert got.dtype == jnp.float32
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
  assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  assert max(np.abs(leaf).max() for leaf in leaves) > 1e-4


def test_unknown_scales_are_refused():
  with pytest.raises(ValueError, match="is 'mean'; use paper or code"):
    losses.decorrelation(lambda hyper: 0.1, 'mean')


@pytest.mark.usefixtures('x64')
def test_counting_padding(monkeypatch):
  right = losses.correlation
  monkeypatch.setattr(
    losses,
    'correlation',
    lambda features, mask, scale: right(features, mask | True, scale),
  )
  assert error('feddecorr') > 1e-4


@pytest.mark.usefixtures('x64')
def test_not_following_the_statistics(monkeypatch):
  right = losses._standardized

  def stopped(features, mask):
    z, count = right(jax.lax.stop_gradient(features), mask)
    return z + features - jax.lax.stop_gradient(features), count

  monkeypatch.setattr(losses, '_standardized', stopped)
  assert error('feddecorr') > 1e-4
