"""FedBN on a network with BatchNorm, against a loop over single clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms, evaluate
from fedjax_ls import round as round_lib
from fedjax_ls.data import federate
from tests import oracles, toy
from tests.networks import near, to_numpy

pytestmark = pytest.mark.usefixtures('x64')
EPS, KEPT = 1e-5, 0.9


def problem(norm='bn', affine=True, name='fedbn', **server):
  """The toy problem with a norm after the ReLU."""
  p = toy.problem(name, server=server)
  model = toy.model(toy.net().clone(norm=norm, norm_affine=affine))
  method = algorithms.find(name)
  parts = algorithms.Parts(model, toy.given())
  algorithm = method.build(method.toy, parts)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  return p._replace(algorithm=algorithm, state=state), model


def loss(shared, own, x, y):
  """Cross-entropy in training mode, and the batch's mean and variance."""
  hidden = jnp.maximum(x @ shared[0], 0)
  mean, var = hidden.mean(0), hidden.var(0)
  hidden = (hidden - mean[None]) / jnp.sqrt(var + EPS)[None]
  hidden = hidden * own['scale'][None] + own['bias'][None]
  log_p = jax.nn.log_softmax(hidden @ shared[1])
  return -log_p[jnp.arange(len(y)), y].mean(), (mean, var)


GRADIENT = jax.jit(jax.grad(loss, (0, 1), has_aux=True))


def oracle(p):
  """The shared weights and every client's own BatchNorm, step by step."""
  d = oracles.Data(p)
  shared = oracles.weights_of(p.state.server.params)
  own = {i: {'scale': np.ones(6), 'bias': np.zeros(6)} for i in range(toy.DEAD)}
  stats = {i: [np.zeros(6), np.ones(6)] for i in range(toy.DEAD)}
  for t in range(oracles.ROUNDS):
    ends = []
    for i in d.cohort(t):
      w = (list(shared), own[i])
      velocity = jax.tree.map(np.zeros_like, w)
      for x, y in d.batches(t, i):
        grads, moments = to_numpy(GRADIENT(*w, x, y))
        velocity = jax.tree.map(
          lambda v, g, a: g + d.decay * a + d.momentum * v, velocity,
          (list(grads[0]), grads[1]), w,
        )  # fmt: skip
        rate = d.lr[t]
        w = jax.tree.map(lambda a, v, r=rate: a - r * v, w, velocity)
        stats[i] = [
          KEPT * s + (1 - KEPT) * m
          for s, m in zip(stats[i], moments, strict=True)
        ]
      ends.append(w[0])
      own[i] = w[1]
    shared = oracles.mean(ends, [d.weight(i) for i in d.cohort(t)])
  return shared, own, stats


def test_agrees_with_its_oracle():
  p, _ = problem()
  shared, own, stats = oracle(p)
  state = toy.run(p)
  near(to_numpy(oracles.weights_of(state.server.params)), shared, 1e-9)
  clients = to_numpy(state.clients)
  for i in range(toy.DEAD):
    layer = clients.params['norm0']
    near({k: v[i] for k, v in layer.items()}, own[i], 1e-9)
    running = clients.stats['norm0']
    near([running['mean'][i], running['var'][i]], stats[i], 1e-9)
  assert np.ptp(clients.params['norm0']['scale'], axis=0).min() > 1e-3


def test_only_batch_norm_is_local():
  p, _ = problem(optimizer='adam')
  state = to_numpy(toy.run(p)._replace(sampler=()))
  own = state.clients.params
  assert own['dense0']['kernel'] is None
  assert own['classifier']['kernel'] is None
  near(
    state.server.params['norm0'], to_numpy(p.state.server.params['norm0']), 0
  )
  near(state.server.stats, to_numpy(p.state.server.stats), 0)


def test_chunks_and_devices_change_nothing():
  p, _ = problem()
  expected = to_numpy((toy.run(p).server, toy.run(p).clients))
  for how in ({'chunk': 3}, {'mesh': round_lib.clients_mesh(4)}):
    state = toy.run(p, **how)
    near(to_numpy((state.server, state.clients)), expected, 1e-10)


@pytest.mark.parametrize('norm', ['none', 'ln'])
def test_without_batch_norm_it_is_fedavg(norm):
  ours, _ = problem(norm)
  theirs, _ = problem(norm, name='fedavg')
  got, expected = toy.run(ours), toy.run(theirs)
  near(to_numpy(got.server), to_numpy(expected.server), 1e-10)
  assert not jax.tree.leaves(got.clients)


def test_a_client_is_judged_by_its_own_batch_norm():
  p, model = problem()
  state = toy.run(p)
  data = p.federation
  parts = [np.asarray(data.index[i, :n]) for i, n in enumerate(toy.SIZES)]
  test = federate(data.x, data.y, parts, num_classes=3)
  test = jax.tree.map(jnp.asarray, test)
  got = to_numpy(
    evaluate.evaluate(p.algorithm, model, p.hyper, state, data, test)
  )
  shared = oracles.weights_of(state.server.params)
  own, stats = state.clients.params['norm0'], state.clients.stats['norm0']
  right, total = [], 0.0
  for i, rows in enumerate(parts):
    x, y = np.asarray(data.x)[rows], np.asarray(data.y)[rows]
    hidden = np.maximum(x @ shared[0], 0) - np.asarray(stats['mean'][i])
    hidden = hidden / np.sqrt(np.asarray(stats['var'][i]) + EPS)
    hidden = hidden * np.asarray(own['scale'][i]) + np.asarray(own['bias'][i])
    logits = hidden @ shared[1]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    total -= log_p[np.arange(len(y)), y].sum()
    right.append((logits.argmax(1) == y).mean())
  near(got['loss'], total / sum(toy.SIZES), 1e-9)
  near(got['accuracy/client_mean'], np.mean(right), 1e-6)
