"""SCAFFOLD: what its control variates satisfy, and option I with a term."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import local
from fedjax_ls.algorithms.scaffold import Scaffold
from tests import oracles, toy
from tests.oracles import feddecorr, fedprox, scaffold

pytestmark = pytest.mark.usefixtures('x64')
OPTIONS = ('local_steps', 'gradient')
TERMS = {
  'proximal': ({'mu': 0.5}, fedprox.pulled_by(0.5)),
  'decorrelation': (
    {'decorrelation': 0.1, 'decorrelation_scale': 'code'},
    lambda w, i: feddecorr.penalized(0.1, 'code'),
  ),
}
PLAIN = {'momentum': 0.0, 'weight_decay': 0.0, 'schedule': 'constant'}


def near(a, b):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), a, b
  )


@pytest.mark.parametrize('option', OPTIONS)
def test_c_is_the_mean_of_all_clients_controls(option):
  state = toy.run(toy.problem('scaffold', Scaffold(option=option)))
  c = state.server.extra
  near(c, jax.tree.map(lambda each: each.mean(0), state.clients))
  assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(c)) > 1e-2


@pytest.mark.parametrize('weights', ['uniform', 'size'])
def test_one_full_batch_of_everybody_is_gradient_descent(weights):
  """With option I, equal weights and one step: descent on the mean of f_i."""
  client = {**PLAIN, 'batch_size': max(toy.SIZES), 'unit': 'steps', 'amount': 1}
  p = toy.problem(
    'scaffold', Scaffold(option='gradient'), client, {'weights': weights}
  ).with_cohorts(toy.EVERYONE)
  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  for _ in range(oracles.ROUNDS):
    each = [oracles.gradient(w, *d.own(i)) for i in range(len(toy.SIZES))]
    g = oracles.mean(each, np.ones(len(each)))
    w = [w[n] - d.lr[0] * g[n] for n in range(2)]
  got = oracles.weights_of(toy.run(p).server.params)
  gap = max(np.abs(a - b).max() for a, b in zip(got, w, strict=True))
  # Weighted by size the controls do not cancel, and the identity must not hold.
  assert gap < 1e-12 if weights == 'uniform' else gap > 1e-4


def test_a_client_that_takes_no_step_keeps_its_control():
  p = toy.problem('scaffold').with_cohorts(toy.EVERYONE)
  state = toy.run(p, 1)
  dropping = dataclasses.replace(p.hyper.client, last_batch='dropped')
  hyper = p.hyper._replace(client=dropping)
  # Client 0 has three examples, and a batch four.
  assert local.num_steps(dropping, jnp.asarray(toy.SIZES[0])) == 0
  ctx = toy.ctx(p._replace(state=state), 0)
  upload = p.algorithm.phases[0].client(hyper, ctx)
  own = jax.tree.map(lambda a: a[0], state.clients)
  jax.tree.map(np.testing.assert_array_equal, upload.state, own)
  assert not any(map(jnp.any, jax.tree.leaves(upload.summed['control'].value)))
  assert any(map(jnp.any, jax.tree.leaves(own)))


@pytest.mark.parametrize('option', OPTIONS)
@pytest.mark.parametrize('term', TERMS)
def test_controls_are_of_the_objective_with_its_terms(option, term):
  """Option I's gradient has them, too; the proximal term's is 0 at x."""
  loss, gradient_of = TERMS[term]
  # The penalty is of a batch: the oracle's pass over the data is one.
  client = {'batch_size': max(toy.SIZES)}
  loss = {'terms': (term,), **loss}
  p = toy.problem('scaffold', Scaffold(option=option), client, loss=loss)
  got = oracles.weights_of(toy.run(p).server.params)
  expected = scaffold.oracle(p, gradient_of)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
