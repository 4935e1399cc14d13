"""Robust reductions against NumPy, under methods, and against liars."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import attacks, config, robust, stacked
from fedjax_ls import round as round_lib
from fedjax_ls.data import Dataset
from fedjax_ls.validate import validate
from tests import oracles, toy

K, BYZANTINE = 9, 0.25
UNIFORM = {'weights': 'uniform'}


def updates(seed=0):
  random = np.random.RandomState(seed)
  return {'a': random.randn(K, 3, 2), 'b': random.randn(K, 4)}


def flat(tree):
  return np.concatenate(
    [np.asarray(tree[name]).reshape(K, -1) for name in ('a', 'b')], 1
  )


def krum_order(x, f):
  """Rows from the most to the least central."""
  squares = ((x[:, None] - x[None]) ** 2).sum(-1)
  near = max(len(x) - f - 2, 1)
  scores = [sorted(np.delete(squares[i], i))[:near] for i in range(len(x))]
  return np.argsort([sum(s) for s in scores], kind='stable')


def expected(name, x):
  f = int(BYZANTINE * len(x))
  match name:
    case 'median':
      return np.median(x, 0)
    case 'trimmed_mean':
      return np.sort(x, 0)[f : len(x) - f].mean(0)
    case 'krum':
      return x[krum_order(x, f)[0]]
    case 'multi_krum':
      return x[krum_order(x, f)[: len(x) - f]].mean(0)
  z = x.mean(0)
  for _ in range(2000):
    closeness = 1 / np.linalg.norm(x - z, axis=1)
    z = closeness @ x / closeness.sum()
  return z


def reduced(name, x, live):
  made = robust.RULES[name](x, jnp.asarray(live), BYZANTINE)
  return np.concatenate([np.ravel(made['a']), np.ravel(made['b'])])


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('dead', [[], [0, 4, 8], [1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize('name', robust.RULES)
def test_a_rule_is_its_definition_on_live_clients(name, dead):
  x = updates()
  live = ~np.isin(np.arange(K), dead)
  got = reduced(name, x, live)
  np.testing.assert_allclose(got, expected(name, flat(x)[live]), atol=1e-6)


@pytest.mark.parametrize('name', robust.RULES)
def test_one_or_no_live_client(name):
  x = jax.tree.map(lambda a: a.astype(np.float32), updates())
  alone = np.arange(K) == 5
  np.testing.assert_allclose(reduced(name, x, alone), flat(x)[5], rtol=1e-5)
  assert not reduced(name, x, np.zeros(K, bool)).any()


@pytest.mark.parametrize('name', robust.RULES)
def test_two_liars_of_nine_do_not_carry_it_away(name):
  x = jax.tree.map(lambda a: a.astype(np.float32), updates())
  x = {
    k: np.where(
      np.isin(np.arange(K), [2, 7]).reshape((-1,) + (1,) * (v.ndim - 1)),
      np.float32(1e4),
      v,
    )
    for k, v in x.items()
  }
  honest = np.delete(flat(x), [2, 7], 0)
  got = reduced(name, x, np.ones(K, bool))
  assert np.abs(got).max() <= np.abs(honest).max() + 0.5
  assert np.abs(flat(x).mean(0)).min() > 1000


def weights(p, **execution):
  return oracles.weights_of(toy.run(p, **execution).server.params)


def assert_same(got, wanted, tolerance):
  for a, b in zip(got, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def oracle(p, liars=(), scale=1.0, reduce=np.median):
  """FedAvg with another reduction, some clients sending the opposite."""
  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  for t in range(oracles.ROUNDS):
    sent = []
    for i in d.cohort(t):
      end = d.train(w, t, i)[0]
      factor = -scale if i in liars else 1.0
      sent.append([factor * (end[n] - w[n]) for n in range(2)])
    w = [w[n] + reduce([s[n] for s in sent], axis=0) for n in range(2)]
  return w


@pytest.mark.usefixtures('x64')
def test_the_median_under_attack_agrees_with_its_oracle():
  p = toy.problem(
    'fedavg',
    server={'reduction': 'median', **UNIFORM},
    # A third of six clients.
    attack={'kind': 'sign_flip', 'share': 0.34, 'scale': 3.0},
  )
  assert_same(weights(p), oracle(p, (0, 1), 3.0), 1e-9)
  d = toy.DEAD
  short = np.array([[2, d, 0, 5], [4, 3, d, 5], [d, 5, 2, d]])
  p = p.with_cohorts(short)
  assert_same(weights(p), oracle(p, (0, 1), 3.0), 1e-9)
  four = round_lib.clients_mesh(4)
  assert_same(weights(p, mesh=four), weights(p), 1e-10)


@pytest.mark.usefixtures('x64')
def test_the_mean_is_attacked_too():
  attack = {'kind': 'sign_flip', 'share': 0.2, 'scale': 0.5}
  p = toy.problem('fedavg', server=UNIFORM, attack=attack)
  assert_same(weights(p), oracle(p, (0,), 0.5, np.mean), 1e-9)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', ['fedavg', 'scaffold'])
@pytest.mark.parametrize('rule', ['trimmed_mean', 'multi_krum'])
def test_without_suspects_it_is_the_mean(name, rule):
  server = {'reduction': rule, 'byzantine': 0.0, **UNIFORM}
  p = toy.problem(name, server=server)
  assert_same(weights(p), weights(toy.problem(name, server=UNIFORM)), 1e-10)


@pytest.mark.usefixtures('x64')
def test_counting_the_dead_is_noticed(monkeypatch):
  p = toy.problem('fedavg', server={'reduction': 'median', **UNIFORM})
  p = p.with_cohorts(np.array([[2, toy.DEAD, 0, toy.DEAD]] * 3))
  right = oracle(p)
  assert_same(weights(p), right, 1e-9)
  ordered = robust._ordered
  monkeypatch.setattr(
    robust, '_ordered', lambda v, live: ordered(v, jnp.ones_like(live))
  )
  assert np.abs(weights(p)[0] - right[0]).max() > 1e-4


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', ['feddyn', 'depthfl', 'inclusivefl'])
def test_all_that_is_made_of_an_update_is_attacked(name):
  """A liar's change enters histories and teachers as it was sent."""
  p = toy.problem(name, attack={'kind': 'sign_flip', 'share': 0.34})
  factor = [-1.0, -1.0] + [1.0] * 4
  expected = oracles.ORACLES[name](
    p, sent=lambda i, change: [factor[i] * v for v in change]
  )
  assert_same(weights(p), expected, 1e-9)
  assert_same(weights(p, slim=True), expected, 1e-9)
  assert np.abs(expected[0] - oracles.ORACLES[name](p)[0]).max() > 1e-3


@pytest.mark.parametrize('name', ['width', 'ifca', 'cfl', 'feddyn', 'depthfl'])
def test_methods_without_one_mean_are_refused(name):
  server = {'reduction': 'krum', **UNIFORM}
  with pytest.raises(ValueError, match=r"= 'krum' does not fit .*; use mean"):
    toy.problem(name, server=server)


def test_updates_that_are_too_large_are_refused(monkeypatch):
  monkeypatch.setattr(stacked, 'MOST_BYTES', 100)
  server = {'reduction': 'median', **UNIFORM}
  with pytest.raises(ValueError, match=r"'median' holds .* 672 bytes") as e:
    toy.problem('fedavg', server=server)
  assert '\n' not in str(e.value)


def test_weights_that_would_not_count_are_refused():
  made = fl.Config(server=fl.Server(reduction='median'))
  with pytest.raises(fl.ConfigError, match=r'by size; set server\.weights'):
    validate(made)


def test_a_compressed_update_can_be_reduced():
  p = toy.problem(
    'fedavg',
    server={'reduction': 'geometric_median', **UNIFORM},
    uplink={'links': ('sign',), 'error_feedback': True},
  )
  state = toy.run(p)
  total, count = state.tally['uplink/bits']
  assert total / count == 32 + 42
  assert np.isfinite(oracles.weights_of(state.server.params)[0]).all()


def test_labels_of_liars_are_flipped():
  y = np.array([0, 1, 2, 2, 1, 0])
  none = np.zeros(0, int)
  dataset = Dataset(y, y, y, y, none, none, 3)
  parts = [np.array([2, 1]), np.array([0, 3]), np.array([4]), np.array([5])]
  attack = fl.Attack(kind='label_flip', share=0.5)
  flipped = attacks.labels(attack, dataset, parts)
  np.testing.assert_array_equal(flipped, [2, 1, 0, 0, 1, 0])
  assert attacks.labels(fl.Attack(), dataset, parts) is y
  with pytest.raises(ValueError, match='use sign_flip'):
    attacks.labels(attack, dataset._replace(num_classes=0), parts)


def test_numbers_out_of_range():
  for field, value, fix in (
    ('server.byzantine', 0.5, r'\[0, 0.5\)'),
    ('attack.share', 1.1, r'\[0, 1\]'),
    ('attack.kind', 'sign', "did you mean 'sign_flip'"),
  ):
    made = fl.Config()
    config.set_field(made, field, value)
    with pytest.raises(fl.ConfigError, match=fix):
      validate(made)
