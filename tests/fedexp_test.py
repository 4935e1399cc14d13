"""FedExP: the step size, what is judged, and wrong ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import config as config_lib
from fedjax_ls.algorithms import fedexp
from tests import oracles, toy
from tests.breaking import error
from tests.oracles.fedexp import iterates

pytestmark = pytest.mark.usefixtures('x64')
STEP_SIZE = fedexp.step_size


def near(got, expected):
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_toy_problem_takes_larger_steps():
  _, sizes = iterates(toy.problem('fedexp'))
  assert min(sizes) >= 1
  assert max(sizes) > 1.01


def test_step_size_where_nothing_moved():
  assert fedexp.step_size(0.0, jnp.zeros(2), 0.0) == 1
  assert fedexp.step_size(0.0, jnp.zeros(2), 1e-3) == 1


def test_the_authors_form_agrees_with_the_oracle():
  p = toy.problem('fedexp', fedexp.FedExP(eps=0.1, form='code'))
  near(
    oracles.weights_of(toy.run(p).server.params), oracles.ORACLES['fedexp'](p)
  )


@pytest.mark.parametrize('rounds', [1, 3])
def test_the_mean_of_the_last_two_is_judged(rounds):
  p = toy.problem('fedexp')
  got = p.algorithm.model(toy.run(p, rounds).server)[0]
  last = iterates(p)[0][max(rounds - 2, 0) : rounds]
  near(oracles.weights_of(got), oracles.mean(last, [1] * len(last)))


def test_the_last_is_judged():
  p = toy.problem('fedexp', fedexp.FedExP(evaluates='last'))
  state = p.state.server
  assert p.algorithm.model(state)[0] is state.params


@pytest.mark.parametrize(
  'wrong',
  [
    lambda square, delta, e: 1.0,
    lambda square, delta, e: 2 * STEP_SIZE(square, delta, e),
  ],
  ids=['always 1', 'without the half'],
)
def test_wrong_step_sizes(monkeypatch, wrong):
  monkeypatch.setattr(fedexp, 'step_size', wrong)
  assert error('fedexp') > 1e-4


@pytest.mark.parametrize(
  ('field', 'value', 'fix'),
  [('optimizer', 'adam', 'use sgd'), ('learning_rate', 0.5, 'use 1.0')],
)
def test_it_refuses_another_server_step(field, value, fix):
  config = config_lib.Config(algorithm=fedexp.FedExP())
  setattr(config.server, field, value)
  with pytest.raises(ValueError, match=fix) as caught:
    fedexp.METHOD.check(config)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('field', ['form', 'evaluates'])
def test_unknown_options(field):
  with pytest.raises(ValueError, match=f"algorithm.{field} is 'x'; use"):
    toy.problem('fedexp', fedexp.FedExP(**{field: 'x'}))
