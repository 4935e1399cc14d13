"""MOON: its contrastive term, on the toy problem and by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import losses, server
from fedjax_ls.algorithms import moon
from fedjax_ls.hyper import Client, Hyper, Server
from fedjax_ls.models import MLP
from tests import oracles, toy
from tests.oracles.moon import contrast

pytestmark = pytest.mark.usefixtures('x64')
PROJECTED = MLP(3, hidden=(6,), projector=(5, 2))


def view(there, net=PROJECTED, padded=1):
  """A batch of client 1 with three different models."""
  model = toy.model(net)
  local, received, last = (model.init(jax.random.key(k))[0] for k in range(3))
  ctx = toy.ctx(toy.problem('fedavg'), 1)._replace(
    message=server.Message(received, {}),
    state=moon.Previous(last, {}, jnp.asarray(there)),
  )
  rows = ctx.rows[:4]
  x, y, mask = ctx.x[rows], ctx.y[rows], jnp.arange(4) < 4 - padded
  outputs, _ = model.apply(local, {}, x, train=True, mask=mask)
  seen = losses.View(outputs, x, y, mask, local, received, ctx)
  return model, seen, (local, received, last)


def term(model, seen, mu=1.0, tau=0.5):
  hyper = Hyper(Client(), Server(), moon.Moon(mu, tau))
  return moon.contrastive(model)(hyper, seen)


def test_the_term_is_the_formula_on_the_projectors_outputs():
  model, seen, models = view(there=True)
  features = [model.apply(m, {}, seen.x)[0].features for m in models]
  z, *others = (np.asarray(f)[:3] for f in features)
  assert z.shape == (3, 2)
  length = lambda v: np.linalg.norm(v, axis=1)  # noqa: E731
  near, far = (
    np.exp((z * v).sum(1) / (length(z) * length(v)) / 0.5) for v in others
  )
  expected = -np.log(near / (near + far)).mean()
  np.testing.assert_allclose(term(model, seen), expected, rtol=1e-12)
  np.testing.assert_allclose(term(model, seen, mu=3.0), 3 * expected)


def test_the_first_time_the_term_is_zero():
  model, seen, _ = view(there=False)
  assert term(model, seen) == 0
  state = toy.run(toy.problem('moon'), 1)
  there = np.asarray(state.clients.there)
  assert sorted(np.flatnonzero(there)) == sorted(toy.COHORTS[0])


def test_the_frozen_models_run_in_evaluation_mode():
  made, seen, _ = view(there=True)
  trained = []

  def apply(*args, train=False, **options):
    trained.append(train)
    return made.apply(*args, train=train, **options)

  term(made._replace(apply=apply), seen)
  assert trained == [False, False]


def test_features_that_are_zero_have_finite_gradients():
  def value(z):
    return moon.cosine(z, jnp.array([[1.0, 2.0]])).sum()

  assert value(jnp.zeros((1, 2))) == 0
  assert not jnp.any(jax.grad(value)(jnp.zeros((1, 2))))


def test_a_client_keeps_its_last_model():
  p = toy.problem('moon').with_cohorts([[1], [1], [1]])
  state = toy.run(p, 2)
  jax.tree.map(
    lambda kept, x: np.testing.assert_allclose(kept[1], x, rtol=1e-12),
    state.clients.params,
    state.server.params,
  )


def test_ignoring_tau():
  p = toy.problem('moon')
  got = oracles.weights_of(toy.run(p).server.params)
  wrong = oracles.ORACLES['moon'](p, tau=1.0)
  assert np.abs(got[0] - wrong[0]).max() > 1e-4


def test_taking_one_model_for_the_other():
  _, seen, (local, received, last) = view(there=True, net=toy.net())
  w, a, b = map(oracles.weights_of, (local, received, last))
  x, y = np.asarray(seen.x[:3]), None
  right, wrong = contrast(w, x, y, a, b, 0.5), contrast(w, x, y, b, a, 0.5)
  got = term(toy.model(), seen)
  np.testing.assert_allclose(got, right, rtol=1e-12)
  assert abs(right - wrong) > 1e-2
