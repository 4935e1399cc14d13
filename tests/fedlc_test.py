"""FedLC: absent classes, clients of one class; and wrong margins."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_ls import calibrations
from tests import toy
from tests.breaking import error

pytestmark = pytest.mark.usefixtures('x64')


def loss_of(labels, y, logits):
  calibrate = calibrations.fedlc(lambda hyper: 1.5)
  logits = calibrate(None, jnp.asarray(labels), logits)
  values = optax.softmax_cross_entropy_with_integer_labels(logits, y)
  return values.mean()


def test_the_margins_by_hand():
  logits = jnp.array([[2.0, -1.0, 7.0]])
  got = loss_of([16, 1, 0], jnp.array([1]), logits)
  a, b = 2.0 - 1.5 / 2, -1.0 - 1.5
  np.testing.assert_allclose(got, np.log(np.exp(a) + np.exp(b)) - b, rtol=1e-12)


def test_absent_classes_get_no_gradient():
  logits = jnp.asarray(np.random.RandomState(0).randn(5, 3))
  y = jnp.array([0, 1, 1, 0, 0])
  got = jax.grad(loss_of, 2)((3, 2, 0), y, logits)
  assert (got[:, 2] == 0).all()
  assert (got[:, :2] != 0).all()


@pytest.mark.parametrize('shape', [(4, 3), (4, 2, 3)])
def test_one_class_has_no_gradient_at_all(shape):
  logits = 5 * jnp.asarray(np.random.RandomState(0).randn(*shape))
  y = jnp.ones(shape[:-1], int)
  value, gradient = jax.value_and_grad(loss_of, 2)((0, 8, 0), y, logits)
  assert value == 0
  assert (gradient == 0).all()


def test_no_class_is_no_nan():
  value, gradient = jax.value_and_grad(loss_of, 2)(
    (0, 0, 0), jnp.zeros(4, int), jnp.zeros((4, 3))
  )
  assert jnp.isfinite(value)
  assert jnp.isfinite(gradient).all()


def test_clients_of_one_class_do_not_move_the_model():
  p = toy.problem('fedlc', client={'weight_decay': 0.0})
  y = np.zeros(len(p.federation.y), int)
  for i, n in enumerate(toy.SIZES):
    y[np.asarray(p.federation.index[i, :n])] = i % 3
  labels = (
    np.outer(toy.SIZES, np.ones(3, int))
    * np.eye(3, dtype=int)[np.arange(6) % 3]
  )
  data = p.federation._replace(y=jnp.asarray(y), labels=jnp.asarray(labels))
  go = toy.program(p)
  state = go(p.hyper, data, p.state)
  before, after = p.state.server.params, state.server.params
  jax.tree.map(np.testing.assert_array_equal, after, before)
  assert state.tally['train/loss'][0] == 0
  moved = go(p.hyper, p.federation, p.state).server.params
  assert optax.tree.norm(optax.tree.sub(moved, before)) > 1e-2


def replaced(monkeypatch, shifted):
  """FedLC with `shifted(tau, labels, logits)` in its place."""

  def fedlc(tau):
    return lambda hyper, labels, logits: shifted(tau(hyper), labels, logits)

  monkeypatch.setattr(calibrations, 'fedlc', fedlc)


def test_finite_margins_of_absent_classes(monkeypatch):
  replaced(
    monkeypatch,
    lambda tau, labels, v: v - (tau * jnp.maximum(labels, 1e-3) ** -0.25)[None],
  )
  assert error('fedlc') > 1e-4


def test_margins_of_the_wrong_sign(monkeypatch):
  fedlc = calibrations.fedlc
  monkeypatch.setattr(
    calibrations, 'fedlc', lambda tau: fedlc(lambda hyper: -tau(hyper))
  )
  assert error('fedlc') > 1e-4
