"""FedProx beyond its oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import losses
from fedjax_ls.algorithms.fedprox import FedProx
from tests import oracles, toy
from tests.breaking import error

pytestmark = pytest.mark.usefixtures('x64')


def test_the_term_and_its_gradient_by_hand():
  y = {'a': jnp.array([3.0, 1.0]), 'b': jnp.array([[2.0]])}
  x = {'a': jnp.array([1.0, 1.0]), 'b': jnp.array([[5.0]])}
  term = losses.proximal(lambda mu: mu)

  def value(y):
    view = losses.View(None, None, None, None, params=y, anchor=x, ctx=None)
    return term(0.5, view)

  got, gradient = jax.value_and_grad(value)(y)
  np.testing.assert_allclose(got, 0.25 * (4 + 9))
  np.testing.assert_allclose(gradient['a'], [1.0, 0.0])
  np.testing.assert_allclose(gradient['b'], [[-1.5]])
  at_x = jax.grad(value)(x)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(at_x))


@pytest.mark.parametrize('steps', [1, 2])
def test_it_pulls_from_the_second_step_on(steps):
  client = {'unit': 'steps', 'amount': steps}
  p = toy.problem('fedprox', client=client)
  go = toy.program(p)
  free = p.hyper._replace(method=FedProx(mu=jnp.zeros(())))
  ends = [
    oracles.weights_of(go(h, p.federation, p.state, 1).server.params)
    for h in (p.hyper, free)
  ]
  gap = max(np.abs(a - b).max() for a, b in zip(*ends, strict=True))
  assert gap > 1e-4 if steps > 1 else gap < 1e-12


def test_pulling_to_where_the_client_is(monkeypatch):
  """A term whose anchor follows the client does nothing; two releases did."""
  proximal = losses.proximal

  def following(mu):
    term = proximal(mu)
    return lambda hyper, view: term(hyper, view._replace(anchor=view.params))

  monkeypatch.setattr(losses, 'proximal', following)
  assert error('fedprox') > 1e-4


def test_twice_the_weight(monkeypatch):
  proximal = losses.proximal
  monkeypatch.setattr(
    losses, 'proximal', lambda mu: proximal(lambda hyper: 2 * mu(hyper))
  )
  assert error('fedprox') > 1e-4
