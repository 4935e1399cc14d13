"""FedAvg beyond its oracle: running statistics, one client, several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms
from fedjax_ls import round as round_lib
from fedjax_ls.models import MLP
from tests import oracles, toy

pytestmark = pytest.mark.usefixtures('x64')


def with_batch_norm():
  """The toy problem with a BatchNorm net."""
  p = toy.problem('fedavg')
  net = MLP(hidden=(6,), num_classes=3, norm='bn')
  parts = algorithms.Parts(toy.model(net), toy.given())
  algorithm = algorithms.find('fedavg').build(p.hyper.method, parts)
  state = round_lib.init(
    algorithm, p.hyper, p.federation, jax.random.key(1), seed=0
  )
  return p._replace(algorithm=algorithm, state=state)


def test_running_statistics_are_averaged_by_size():
  p = with_batch_norm()
  client = jax.jit(p.algorithm.phases[0].client)
  ids = toy.COHORTS[0]
  key = jax.random.fold_in(jax.random.key(0), 0)
  keys = [jax.random.fold_in(jax.random.split(key)[1], i) for i in ids]
  uploads = [
    client(p.hyper, toy.ctx(p, i)._replace(key=jax.random.fold_in(k, 0)))
    for i, k in zip(ids, keys, strict=True)
  ]
  sizes = np.array([toy.SIZES[i] for i in ids])
  got = toy.run(p, 1).server.stats
  start = p.state.server.stats
  for name in ('mean', 'var'):
    each = np.stack([u.summed['stats'].value['norm0'][name] for u in uploads])
    expected = (sizes[:, None] * each).sum(0) / sizes.sum()
    np.testing.assert_allclose(got['norm0'][name], expected, rtol=1e-9)
    assert np.abs(expected - start['norm0'][name]).max() > 1e-3


def test_batch_norm_in_chunks_and_on_devices():
  p = with_batch_norm()
  one = toy.run(p).server
  for execution in ({'chunk': 4}, {'mesh': round_lib.clients_mesh(2)}):
    other = toy.run(p, **execution).server
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
      other,
      one,
    )


def test_one_client_is_plain_sgd():
  p = toy.problem('fedavg').with_cohorts([[1], [1], [1]])
  got = oracles.weights_of(toy.run(p).server.params)
  w = oracles.weights_of(p.state.server.params)
  for t in range(3):
    w, _ = oracles.Data(p).train(w, t, 1)
  for a, b in zip(got, w, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_learning_rate_of_the_round_reaches_the_clients():
  client = {'schedule': 'exponential', 'decay': 0.0, 'weight_decay': 0.0}
  p = toy.problem('fedavg', client=client)
  once, thrice = toy.run(p, 1), toy.run(p, 3)
  jax.tree.map(
    np.testing.assert_array_equal, once.server.params, thrice.server.params
  )
  assert jnp.abs(
    once.server.params['classifier']['kernel']
    - p.state.server.params['classifier']['kernel']
  ).max() > 1e-3  # fmt: skip
