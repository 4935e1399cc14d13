"""GradAlign and FedGA: what their steps follow, to the order they promise."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms, hyper
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms.fedga import FedGA
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.data import federate
from fedjax_ls.models import flax_model
from fedjax_ls.types import Weighted
from fedjax_ls.validate import validate
from tests import oracles, toy

pytestmark = pytest.mark.usefixtures('x64')
SIZES = np.array([3, 5, 2, 4])
OWNER = np.repeat(np.arange(len(SIZES)), SIZES)
EVERYONE = np.arange(len(SIZES))[None]
RANDOM = np.random.RandomState(0)
X = RANDOM.randn(len(OWNER), 3) + OWNER[:, None] / 2
TARGET = RANDOM.randn(len(OWNER), 1) + OWNER[:, None]
LABEL = ((OWNER + RANDOM.randint(0, 2, len(OWNER))) % 3).astype(np.int32)
PARTS = [np.flatnonzero(i == OWNER) for i in range(len(SIZES))]
MODELS = ('model', 'gradient')


def program(method, settings, loss, steps=1, weights='uniform', change=None):
  """`(rate, cohorts[R, K], beta) -> weights` after R rounds of plain SGD.

  Least squares has a constant Hessian, softmax regression
  (`cross_entropy`) has third derivatives.  Each client reads all its examples
  in each of its steps.
  """
  y, outputs = (TARGET, 1) if loss == 'squared_error' else (LABEL, 3)
  federation = jax.tree.map(jnp.asarray, federate(X, y, PARTS))
  module = nn.Dense(outputs, use_bias=False)
  model = flax_model(module, X[:1], loss=loss)
  model = model._replace(init=lambda key: ({'kernel': start(outputs)}, {}))
  parts = algorithms.Parts(model, toy.given())
  algorithm = algorithms.find(method).build(settings, parts)
  algorithm = algorithm if change is None else change(algorithm)

  def go(rate, cohorts, beta=0.0):
    client = hyper.Client(rate, batch_size=int(max(SIZES)), amount=steps)
    own = settings
    if method == 'fedga':
      own = dataclasses.replace(settings, beta=beta)
    numbers = hyper.Hyper(client, hyper.Server(weights=weights), own)
    numbers = jax.tree.map(lambda a: jnp.asarray(a, float), numbers)
    key = jax.random.key(0)
    state = round_lib.init(algorithm, numbers, federation, key, seed=0)
    state = state._replace(sampler=jnp.asarray(cohorts))
    return round_lib.run_rounds(
      algorithm, numbers, federation, state, len(cohorts)
    ).server.params['kernel']

  return jax.jit(go)


def start(outputs):
  return jnp.asarray(np.random.RandomState(1).randn(3, outputs))


def regularized(w, share, beta):
  """f + (beta / 2) Var of the clients' gradients, of least squares."""
  value, grads = 0.0, []
  for p, rows in zip(share, PARTS, strict=True):
    error = X[rows] @ w - TARGET[rows]
    value += p * (error**2).mean()
    grads.append(2 * X[rows].T @ error / len(rows))
  mean = sum(p * g for p, g in zip(share, grads, strict=True))
  spread = [((g - mean) ** 2).sum() for g in grads]
  return value + beta / 2 * np.dot(share, spread)


def error(displace, weights, change=None, sign=1.0):
  """How far a step is from the gradient of f + (beta / 2) Var."""
  rate, beta, step = 0.01, 0.3, 1e-3
  settings = FedGA(displace=displace)
  go = program('fedga', settings, 'squared_error', 1, weights, change)
  w = np.asarray(start(1))
  got = (w - go(rate, EVERYONE, sign * beta)) / rate
  share = SIZES / SIZES.sum() if weights == 'size' else np.full(4, 0.25)
  # Central differences are exact: what they differentiate is quadratic.
  ends = [
    [regularized(w + s * d, share, beta) for s in (step, -step)]
    for d in np.eye(3)[:, :, None]
  ]
  above, below = np.array(ends).T
  expected = (above - below) / (2 * step)
  return np.abs(got[:, 0] - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize('weights', ['size', 'uniform'])
@pytest.mark.parametrize('displace', MODELS)
def test_one_step_follows_the_gradient_of_f_plus_the_variance(
  displace, weights
):
  assert error(displace, weights) < 1e-9


@pytest.mark.parametrize('displace', MODELS)
def test_the_wrong_sign_is_noticed(displace):
  assert error(displace, 'uniform', sign=-1.0) > 1e-2


@pytest.mark.parametrize('displace', MODELS)
def test_another_weighting_of_the_gradients_is_noticed(displace):
  def change(algorithm):
    first, last = algorithm.phases

    def client(hyper, ctx):
      upload = first.client(hyper, ctx)
      own = upload.summed['gradient'].value
      return upload._replace(summed={'gradient': Weighted(own, 1.0)})

    return algorithm._replace(phases=(first._replace(client=client), last))

  assert error(displace, 'size', change) > 1e-2


def order(distance):
  """The power of the learning rate that a distance falls with."""
  return np.log2(distance(2e-3) / distance(1e-3))


def test_a_sequential_epoch_is_gradalign_steps_in_the_mean_over_orders():
  one = program('fedavg', algorithms.find('fedavg').settings(), 'cross_entropy')
  together = program('fedga', FedGA(displace='gradient'), 'cross_entropy')
  orders = np.array(list(itertools.permutations(range(len(SIZES)))))
  epoch = jax.vmap(one, in_axes=(None, 0))
  steps = np.tile(EVERYONE, (len(SIZES), 1))

  def distance(share, rate):
    mean = epoch(rate, orders[:, :, None]).mean(0)
    return np.abs(mean - together(rate, steps, share * rate)).max()

  assert 2.9 < order(lambda rate: distance(0.5, rate)) < 3.1
  # Plain large batches and another beta leave a term of the second order.
  for share in (0.0, 1.0):
    assert 1.9 < order(lambda rate, s=share: distance(s, rate)) < 2.1


@pytest.mark.parametrize('displace', MODELS)
def test_beta_can_cancel_what_heterogeneity_adds_to_fedavg(displace):
  k = 4
  local = program('fedga', FedGA(displace=displace), 'cross_entropy', steps=k)
  plain = program(
    'fedavg', algorithms.find('fedavg').settings(), 'cross_entropy'
  )

  def distance(share, rate):
    """From K steps of gradient descent on the mean loss."""
    descent = plain(rate, np.tile(EVERYONE, (k, 1)))
    return np.abs(local(rate, EVERYONE, share * rate) - descent).max()

  assert 2.9 < order(lambda rate: distance((k - 1) / 2, rate)) < 3.1
  assert 1.9 < order(lambda rate: distance(0.0, rate)) < 2.1


def test_gradients_displaced_by_nothing_are_fedavgs():
  ours = toy.problem('fedga', FedGA(0.0, 'gradient'))
  got = oracles.weights_of(toy.run(ours).server.params)
  theirs = oracles.ORACLES['fedavg'](ours)
  for a, b in zip(got, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_what_does_not_fit_is_refused():
  config = Config(algorithm=FedGA(displace='gradient'))
  config.client.sam = True
  with pytest.raises(ConfigError, match='set one of them off'):
    validate(config)
  with pytest.raises(ValueError, match=r"is 'models'; use model or"):
    toy.problem('fedga', FedGA(displace='models'))
