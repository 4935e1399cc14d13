"""q-FFL and agnostic federated learning: extremes, and wrong versions."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms
from fedjax_ls.algorithms import agnostic, qffl
from tests import oracles, toy
from tests.breaking import error
from tests.oracles.agnostic import projected

pytestmark = pytest.mark.usefixtures('x64')


def test_a_very_large_q_follows_the_worst_client_and_does_not_overflow():
  p, q = toy.problem('qffl'), 3000.0
  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  ids = d.cohort(0)
  worst = max(ids, key=lambda i: oracles.loss(w, *d.own(i)))
  f = oracles.loss(w, *d.own(worst))
  with np.errstate(over='ignore'):
    assert np.isinf(f**q)
  end = d.train(w, 0, worst)[0]
  step = [(w[n] - end[n]) / d.lr[0] for n in range(2)]
  square = sum((v**2).sum() for v in step)
  method = qffl.QFFL(q=jnp.asarray(q), lipschitz=jnp.asarray(0.0))
  hyper = p.hyper._replace(method=method)
  state = toy.program(p)(hyper, p.federation, p.state, 1)
  found = oracles.weights_of(state.server.params)
  for n in range(2):
    change = -step[n] / (q * square / f + 1 / d.lr[0])
    np.testing.assert_allclose(found[n] - w[n], change, rtol=1e-6)


def test_the_weights_of_agnostic_clients_stay_a_distribution():
  p = toy.problem('agnostic')
  weights = np.asarray(toy.run(p).clients)
  assert weights.sum() == pytest.approx(1)
  assert (weights >= 0).all()
  assert (weights == 0).any()
  assert weights.max() > 0.3


def test_a_cohort_without_weight_stays_without():
  """Its clients have lost all to others, who are not here to give."""
  p = toy.problem('agnostic', agnostic.Agnostic(ascent=50.0))
  weights = np.asarray(toy.run(p, 1).clients)
  (losers,) = np.nonzero(weights == 0)
  assert len(losers) >= 2
  cohort = [*losers[:4], *[toy.DEAD] * (4 - len(losers))]
  p = p.with_cohorts(np.array([toy.COHORTS[0], cohort, toy.COHORTS[2]]))
  state = toy.run(p, 2)
  np.testing.assert_array_equal(state.clients, weights)
  got = oracles.weights_of(toy.run(p).server.params)
  for a, b in zip(got, oracles.ORACLES['agnostic'](p), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_a_threshold_over_nobody_is_finite():
  nobody = np.zeros(3, bool)
  assert agnostic.threshold(jnp.arange(3.0), nobody, 0.0) == 0
  # A mass that is lost in rounding.
  level = agnostic.threshold(jnp.array([1.0, -2.0]), np.ones(2, bool), 1e-30)
  assert level == 1


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('seed', range(5))
def test_the_threshold_gives_the_nearest_point(seed, share):
  random = np.random.RandomState(seed)
  values, live = random.randn(7), np.array([1, 1, 0, 1, 1, 0, 1], bool)
  mass = random.rand() * 2 * share
  level = agnostic.threshold(jnp.asarray(values), jnp.asarray(live), mass)
  expected = projected(values[live], mass)
  found = np.maximum(values[live] - float(level), 0)
  np.testing.assert_allclose(found, expected, atol=1e-9)


def test_forgetting_the_curvature(monkeypatch):
  monkeypatch.setattr(qffl.optax.tree, 'norm', lambda *a, **k: jnp.zeros(()))
  assert error('qffl') > 1e-4


def test_another_loss_than_that_of_the_received_model(monkeypatch):
  build = qffl.METHOD.build

  def wrong(settings, parts):
    made = build(settings, parts)
    first, last = made.phases

    def shifted(hyper, ctx):
      upload = first.client(hyper, ctx)
      return upload._replace(carry=upload.carry + 0.1)

    return made._replace(phases=(first._replace(client=shifted), last))

  method = qffl.METHOD._replace(build=wrong)
  monkeypatch.setitem(algorithms.METHODS, 'qffl', method)
  assert error('qffl') > 1e-4


def test_a_server_that_does_not_project(monkeypatch):
  monkeypatch.setattr(agnostic, 'threshold', lambda *a: jnp.zeros(()))
  assert error('agnostic') > 1e-4
