"""Evaluation against a loop over examples and clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import evaluate
from fedjax_ls.data import federate
from tests import oracles, toy

pytestmark = pytest.mark.usefixtures('x64')


def held_out():
  """Thirteen test rows for six clients, one of them without any."""
  random = np.random.RandomState(1)
  x, y = random.randn(13, 4), random.randint(0, 3, 13)
  order = random.permutation(13)
  parts = [*np.split(order, [2, 5, 9]), np.zeros(0, int)]
  parts += [order[:1]]
  made = federate(x, y, parts, num_classes=3, allow_empty=True)
  return jax.tree.map(jnp.asarray, made), parts


def right(w, x, y):
  return oracles.forward(w, x)[1].argmax(1) == y


def judged(name, batch_size):
  p = toy.problem(name)
  test, parts = held_out()
  got = evaluate.evaluate(
    p.algorithm, toy.model(), p.hyper, p.state, p.federation, test,
    batch_size=batch_size,
  )  # fmt: skip
  return p, test, parts, {k: float(v) for k, v in got.items()}


@pytest.mark.parametrize('batch_size', [4, 100])
def test_a_global_model_is_judged_on_all_examples(batch_size):
  p, test, parts, got = judged('fedavg', batch_size)
  x, y = np.asarray(test.x), np.asarray(test.y)
  w = oracles.weights_of(p.state.server.params)
  own = [right(w, x[r], y[r]).mean() for r in parts if len(r)]
  assert got == pytest.approx(
    {
      'loss': oracles.loss(w, x, y),
      'accuracy': right(w, x, y).mean(),
      'accuracy/client_mean': np.mean(own),
      'accuracy/client_std': np.std(own),
      'accuracy/client_variance': np.var(own),
      'accuracy/client_worst10': np.min(own),
      'accuracy/client_best10': np.max(own),
      'clients_left_out': 1,
    }
  )


def test_models_of_their_own_are_chosen_by_training_data():
  p, test, parts, got = judged('ifca', 3)
  d = oracles.Data(p)
  x, y = np.asarray(test.x), np.asarray(test.y)
  stacked = oracles.weights_of(p.state.server.params)
  models = [[v[m] for v in stacked] for m in range(2)]
  hits, losses = [], []
  for i, rows in enumerate(parts):
    w = models[np.argmin([oracles.loss(m, *d.own(i)) for m in models])]
    if len(rows):
      hits.append((right(w, x[rows], y[rows]).mean(), len(rows)))
      losses.append((oracles.loss(w, x[rows], y[rows]), len(rows)))
  own, sizes = zip(*hits, strict=True)
  assert got['accuracy'] == pytest.approx(np.average(own, weights=sizes))
  assert got['accuracy/client_mean'] == pytest.approx(np.mean(own))
  assert got['loss'] == pytest.approx(
    np.average([v for v, _ in losses], weights=sizes)
  )


@pytest.mark.parametrize('name', ['fedavg', 'ifca'])
def test_values_of_clients_have_the_mean_that_is_told(name):
  p, test, _, told = judged(name, 4)
  found = evaluate.client_values(
    p.algorithm, toy.model(), p.hyper, p.state, p.federation, test, batch_size=4
  )
  own = found['accuracy'][test.size > 0]
  assert len(own) == 5
  assert told['accuracy/client_mean'] == pytest.approx(own.mean())
  assert told['accuracy/client_variance'] == pytest.approx(own.var())


def test_tenths_round_up():
  values = jnp.arange(25) / 25
  spread = evaluate.spread_over_clients(values, jnp.arange(25) < 21)
  assert spread['client_worst10'] == pytest.approx(1 / 25)
  assert spread['client_best10'] == pytest.approx(19 / 25)


@pytest.mark.parametrize('name', ['fedavg', 'depthfl', 'splitmix'])
def test_values_of_clients_are_of_the_model_that_is_judged(name):
  p = toy.problem(name)
  args = p.algorithm, toy.model(), p.hyper, p.state, p.federation, p.federation
  means = evaluate.evaluate(*args)
  values = evaluate.client_values(*args)
  np.testing.assert_allclose(
    values['accuracy'].mean(), means['accuracy/client_mean'], rtol=1e-6
  )
  np.testing.assert_allclose(
    np.average(values['loss'], weights=toy.SIZES), means['loss'], rtol=1e-6
  )
