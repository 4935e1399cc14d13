"""Diagnostics against plain NumPy; a run that is looked at stays the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from experiments import spectra
from fedjax_ls import algorithms, diagnostics, types
from fedjax_ls import round as round_lib
from fedjax_ls.config import ConfigError
from fedjax_ls.train import train
from fedjax_ls.validate import validate
from fedjax_ls.writers import Folder
from tests import oracles, toy
from tests.train_test import tiny

IDS = [4, 1, 2]
KEPT = (6, 3, 2)  # channels of the tiers


def diagnosed(p, **execution):
  how = types.Execution(**execution)

  @jax.jit
  def look(numbers, data, state):
    return diagnostics.diagnose(
      p.algorithm, toy.model(), numbers, data, state, data, jnp.array(IDS), how
    )

  return jax.device_get(look(p.hyper, p.federation, p.state))


def trained(name, d, w, p):
  """The weights of each client after local training; cut to its channels."""
  if name == 'width':
    cut = [KEPT[d.tier[i]] for i in IDS]
    return [
      d.train([w[0][:, :c], w[1][:c]], 0, i)[0]
      for i, c in zip(IDS, cut, strict=True)
    ]
  if name == 'fedrod':
    # The personal heads train beside the generic model, and are none of it.
    def balanced(i):
      with np.errstate(divide='ignore'):
        margin = np.log(np.bincount(d.own(i)[1], minlength=3))
      return lambda *batch: oracles.gradient(*batch, shift=margin)

    return [d.train(w, 0, i, gradient=balanced(i))[0] for i in IDS]
  starts = [w] * len(IDS)
  if name == 'fedga':
    own = [oracles.gradient(w, *d.own(i)) for i in IDS]
    g = oracles.mean(own, [d.weight(i) for i in IDS])
    beta = float(p.hyper.method.beta)
    starts = [[w[n] - beta * (g[n] - o[n]) for n in range(2)] for o in own]
  return [d.train(s, 0, i)[0] for s, i in zip(starts, IDS, strict=True)]


def measured(w, x, y):
  """What is to be said of one model."""
  hidden, log_p = oracles.forward(w, x)
  hidden = np.pad(hidden, ((0, 0), (0, 6 - hidden.shape[1])))
  values = np.linalg.svd(np.cov(hidden.T, bias=True), compute_uv=False)
  share = values[values > 1e-15] / values.sum()
  right = log_p.argmax(1) == y
  return {
    'spectrum': values,
    'effective_rank': np.prod(share**-share),
    'singular': np.linalg.svd(hidden, compute_uv=False),
    'feature_norm': np.sqrt((hidden**2).sum(1)).mean(),
    'feature_norm_std': np.sqrt((hidden**2).sum(1)).std(),
    'dead': np.mean([len(set(column)) == 1 for column in hidden.T]),
    'accuracy': [right[y == c].mean() for c in range(3)],
  }


def flat(w):
  return np.concatenate([v.ravel() for v in w])


def assert_near(got, expected):
  assert np.shape(got) == np.shape(expected)
  np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', ['fedavg', 'fedga', 'width', 'fedrod'])
def test_quantities_are_those_of_plain_numpy(name):
  p = toy.problem(name)
  before = jax.device_get(p.state)
  got = diagnosed(p)
  jax.tree.map(np.testing.assert_array_equal, before, p.state)

  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  ends = trained(name, d, w, p)
  x, y = d.x, d.y
  for key, value in measured(w, x, y).items():
    assert_near(got[f'global/{key}'], value)
  of_clients = [measured(end, x, y) for end in ends]
  for key in of_clients[0]:
    assert_near(got[f'client/{key}'], [m[key] for m in of_clients])

  singular = np.linalg.svd(w[1], compute_uv=False)
  assert_near(got['global/classifier'], singular)
  channels = [len(end[1]) for end in ends]
  starts = [[w[0][:, :c], w[1][:c]] for c in channels]
  accuracy = [measured(s, x, y)['accuracy'] for s in starts]
  assert_near(got['client/accuracy_before'], accuracy)
  moves = [
    flat([e[n] - s[n] for n in range(2)])
    for e, s in zip(ends, starts, strict=True)
  ]
  assert_near(got['client/drift'], [np.sqrt((u**2).sum()) for u in moves])

  grads = np.array([flat(oracles.gradient(w, *d.own(i))) for i in IDS])
  g = np.average(grads, axis=0, weights=[d.size[i] for i in IDS])
  distance = np.sqrt(((g - grads) ** 2).sum(1))
  assert_near(got['gradient/norm'], np.sqrt((g**2).sum()))
  assert_near(got['gradient/distance'], distance)
  assert_near(got['gradient/ratio'], distance / np.sqrt((g**2).sum()))
  for key, vectors in {'gradient': grads, 'update': moves}.items():
    if key == 'gradient' or name != 'width':
      expected = [
        [a @ b / np.sqrt(a @ a * (b @ b)) for a in vectors] for b in vectors
      ]
      assert_near(got[f'{key}/cosine'], expected)


@pytest.mark.usefixtures('x64')
def test_devices_change_nothing():
  p = toy.problem('fedavg')
  one, two = diagnosed(p), diagnosed(p, mesh=round_lib.clients_mesh(2))
  for key in one:
    assert_near(two[key], one[key])


@pytest.mark.usefixtures('x64')
def test_ranks_of_features():
  random = np.random.RandomState(0)
  rank_one = jnp.asarray(np.outer(random.randn(50), random.randn(8)))
  values = diagnostics.spectrum(rank_one)
  np.testing.assert_allclose(diagnostics.effective_rank(values), 1, rtol=1e-9)
  gaussian = jnp.asarray(random.randn(100_000, 8))
  values = diagnostics.spectrum(gaussian)
  np.testing.assert_allclose(diagnostics.effective_rank(values), 8, rtol=1e-3)


def test_gradients_that_vanish_have_a_ratio():
  """All clients at a minimum agree; opposite ones have no mean to go by."""
  still = diagnostics.dissimilarity(jnp.zeros((2, 3)), jnp.ones(2))
  np.testing.assert_array_equal(still['ratio'], [0, 0])
  opposite = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
  torn = diagnostics.dissimilarity(opposite, jnp.ones(2))
  np.testing.assert_array_equal(torn['ratio'], [np.inf, np.inf])


def test_the_classifier_is_found_by_its_name_or_shape():
  kernel = {name: np.zeros((4, 3)) for name in ('body', 'head')}
  found = diagnostics.classifier_kernel
  assert found(kernel, (4, 3)) is kernel['head']
  assert found(kernel, (4, 5)) is None
  named = {'classifier': {'kernel': np.ones((4, 3))}, 'head': kernel['head']}
  assert found(named, (4, 3)) is named['classifier']['kernel']


def test_a_method_that_trains_no_model_is_named():
  settings = dataclasses.replace(
    algorithms.find('ifca').toy, option='gradients'
  )
  with pytest.raises(ValueError, match='trains no model like the global one'):
    diagnosed(toy.problem('ifca', settings))


def test_a_run_that_is_looked_at_has_the_same_results(tmp_path):
  plain, seen = tmp_path / 'plain', tmp_path / 'seen'
  train(tiny(), plain)
  config = tiny(diagnostics__every=4, diagnostics__clients=3)
  train(config, seen)
  first, second = (f / 'metrics.jsonl' for f in (plain, seen))
  assert first.read_bytes() == second.read_bytes()
  found = Folder(seen).diagnostics()
  assert list(found) == [4]
  assert found[4]['ids'].tolist() == [0, 3, 6]
  assert found[4]['client/spectrum'].shape == (3, 8)

  # Another rhythm is no other run; pictures are drawn when it ends.
  more = {'diagnostics__every': 2, 'diagnostics__clients': 99}
  train(tiny(rounds=8, writers__plots=True, **more), seen)
  found = Folder(seen).diagnostics()
  assert list(found) == [4, 8]
  assert len(found[8]['ids']) == 10
  names = {p.name for p in (seen / 'plots').iterdir()}
  assert {'diagnostics.png', 'spectra.png', 'class_accuracy.png'} <= names

  picture = tmp_path / 'spectra.png'
  spectra.draw([str(seen), str(seen)], str(picture), at=4)
  assert picture.read_bytes()[:4] == b'\x89PNG'
  for arguments, message in {
    ((), ''): 'workdir and --out are needed',
    ((str(tmp_path),), 'a.png'): 'has no config.json',
    ((str(plain),), 'a.png'): 'has no diagnostics',
    ((str(seen),), 'a.png', 6): 'use one of 4, 8',
  }.items():
    with pytest.raises(ConfigError, match=message):
      spectra.draw(*arguments)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'diagnostics__every': 3}, 'diagnostics.every = 3 is no multiple'),
    (
      {'diagnostics__every': 2, 'execution__data': 'host'},
      'does not fit execution.data = host',
    ),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(ConfigError, match=message):
    validate(tiny(**fields))


def test_what_fit_returns_can_be_looked_at():
  rng = np.random.RandomState(0)
  x, y = rng.normal(size=(24, 3)).astype(np.float32), np.arange(24) % 3
  result = fl.fit(
    fl.flax_model(fl.MLP(3, hidden=(4,)), x[:1]),
    fl.federate(x, y, np.split(np.arange(24), 6)),
    test=(x, y),
    client=fl.Client(batch_size=4, amount=2),
    rounds=2,
    eval_every=2,
  )
  found = result.diagnose(3)
  assert found['ids'].tolist() == [0, 2, 4]
  assert found['client/spectrum'].shape == (3, 4)
  # There are as many examples of each class.
  mean = found['global/accuracy'].mean()
  assert mean == pytest.approx(result.history[-1]['test/accuracy'])
