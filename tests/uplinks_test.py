"""Uplinks: quantizers against their definitions, and under methods."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_ls as fl
from fedjax_ls import links, uplinks
from fedjax_ls import round as round_lib
from fedjax_ls.config import set_field
from fedjax_ls.types import Upload, Weighted
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.mutants_test import uploaded_outside_the_mask

DRAWS = 4000
NUM_WEIGHTS = 42
LOSSY = {
  'qsgd': {'links': ('qsgd',), 'levels': 4.0},
  'bfloat16': {'links': ('bfloat16',)},
  'sign': {'links': ('sign',), 'error_feedback': True},
  'sparse': {'links': ('clip', 'top_k', 'qsgd'), 'keep': 0.3, 'levels': 2.0},
}


def weights(p, **execution):
  return oracles.weights_of(toy.run(p, **execution).server.params)


def assert_same(got, expected, tolerance):
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def draws(function, x):
  keys = jax.random.split(jax.random.key(0), DRAWS)
  return np.asarray(jax.jit(jax.vmap(function, (0, None)))(keys, x), float)


def unbiased(drawn, x):
  """Whether the mean of the draws is x, within five standard errors."""
  error = np.abs(drawn.mean(0) - x)
  return bool((error <= 5 * drawn.std(0) / np.sqrt(DRAWS) + 1e-6).all())


def vector(size=30):
  return np.random.RandomState(1).randn(size).astype(np.float32)


@pytest.mark.parametrize('levels', [1, 3, 8])
def test_qsgd_is_unbiased_and_its_variance_is_bounded(levels):
  x = vector()
  drawn = draws(lambda key, x: links.qsgd(key, x, levels), x)
  assert unbiased(drawn, x)
  square, p = np.sum(x**2), len(x)
  bound = min(p / levels**2, math.sqrt(p) / levels) * square
  error = np.mean(np.sum((drawn - x) ** 2, 1))
  # The exact error: (up - a) (a - low) of each entry, in units of norm / s.
  share = levels * np.abs(x) / np.sqrt(square)
  low = np.floor(share)
  exact = np.sum((low + 1 - share) * (share - low)) * square / levels**2
  assert error <= bound
  np.testing.assert_allclose(error, exact, rtol=0.05)


def test_qsgd_sends_whole_levels_of_the_norm():
  x, levels = vector(), 5
  sent = np.asarray(links.qsgd(jax.random.key(0), x, levels))
  steps = sent * levels / np.linalg.norm(x)
  np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
  assert (np.sign(sent) * np.sign(x) >= 0).all()


@pytest.mark.parametrize('levels', [1, 7])
@pytest.mark.parametrize('size', [0.0, 1e-30, 1.0, 1e30])
def test_qsgd_of_one_entry_is_exact(levels, size):
  """|x_i| = |x|, also where there is nothing or squares would not fit."""
  x = jnp.array([0.0, -size, 0.0], jnp.float32)
  sent = links.qsgd(jax.random.key(levels), x, levels)
  np.testing.assert_allclose(sent, x, rtol=1e-6)


def test_bfloat16_rounds_to_a_neighbour_without_bias():
  x = np.concatenate([vector(), [0.0, 1.0, -3.0]]).astype(np.float32)
  drawn = draws(links.to_bfloat16, x)
  assert unbiased(drawn, x)
  exact = np.asarray(jnp.asarray(drawn, jnp.bfloat16), float)
  np.testing.assert_array_equal(exact, drawn)
  assert (np.abs(drawn - x) < np.abs(x) / 128 + 1e-30).all()
  np.testing.assert_array_equal(drawn[:, -3:], np.tile(x[-3:], (DRAWS, 1)))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.floats(0.01, 1.0))
def test_top_k_keeps_the_largest_that_are_held(seed, keep):
  random = np.random.RandomState(seed)
  x, held = random.randn(20).astype(np.float32), random.rand(20) < 0.6
  kept = np.asarray(links.top_k(x, held, keep))
  assert not kept[~held].any()
  count = math.ceil(np.float32(keep) * held.sum() - 0.01)
  assert kept.sum() == (max(count, 1) if held.any() else 0)
  if kept.any() and (held & ~kept).any():
    assert np.abs(x[kept]).min() >= np.abs(x[held & ~kept]).max()


def test_sign_is_scaled_by_the_mean_size_of_what_is_held():
  x = jnp.array([1.0, -2.0, 0.0, 0.0])
  sent = links.sign(x, jnp.array([True, True, True, False]))
  np.testing.assert_allclose(sent, [1, -1, 1, 0])


def arriving(x, held=None, **settings):
  """What arrives of a tree, and its bits."""
  held = (
    jax.tree.map(lambda a: jnp.ones(a.shape, bool), x) if held is None else held
  )
  key = jax.random.key(0)
  sent, packet = uplinks._arriving(fl.Uplink(**settings), key, x, held)
  return sent, float(packet.size)


def test_clip_bounds_the_norm_of_the_whole_update():
  x = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array([[4.0]])}
  sent, _ = arriving(x, links=('clip',), clip_norm=1.0)
  np.testing.assert_allclose(sent['a'], [0.6, 0])
  np.testing.assert_allclose(sent['b'], [[0.8]])
  sent, _ = arriving(x, links=('clip',), clip_norm=5.5)
  assert_same(sent.values(), x.values(), 0)


def test_noise_has_its_size_and_only_where_held():
  x, held = {'a': jnp.zeros(5000)}, {'a': jnp.arange(5000) < 4000}
  settings = {'links': ('clip', 'noise'), 'clip_norm': 2.0, 'noise': 0.25}
  sent = np.asarray(arriving(x, held, **settings)[0]['a'])
  assert not sent[4000:].any()
  assert abs(sent[:4000].std() - 0.5) < 0.03
  assert abs(sent[:4000].mean()) < 0.04


def test_layers_by_themselves_lose_less():
  x = {'a': jnp.asarray(vector()), 'b': 1e-3 * jnp.asarray(vector(20))}
  settings = {'links': ('qsgd',), 'levels': 8.0}
  whole, bits = arriving(x, **settings)
  layers, more = arriving(x, per_layer=True, **settings)
  assert more == bits + 32

  def lost(sent):
    return float(jnp.sum((sent['b'] - x['b']) ** 2))

  assert lost(layers) < 0.1 * lost(whole)


@pytest.mark.parametrize(
  ('settings', 'bits'),
  [
    ({'links': ('float32',)}, 50 * 32),
    ({'links': ('clip',)}, 50 * 32),
    ({'links': ('bfloat16',)}, 50 * 16),
    ({'links': ('sign',)}, 32 + 50),
    ({'links': ('qsgd',), 'levels': 1.0}, 32 + 50 * 2),
    ({'links': ('qsgd',), 'levels': 4.0}, 32 + 50 * 4),
    ({'links': ('top_k',), 'keep': 0.1}, 5 * (32 + 6)),
    ({'links': ('top_k',), 'keep': 0.1, 'per_layer': True}, 5 * (32 + 5)),
    ({'links': ('top_k', 'qsgd'), 'keep': 0.1}, 32 + 5 * (6 + 2)),
  ],
)
def test_bits(settings, bits):
  x = {'a': jnp.asarray(vector(30)), 'b': jnp.asarray(vector(20))}
  assert arriving(x, **settings)[1] == bits
  assert links.bits(fl.Uplink(**settings), (30, 20)) == bits


def mean_bits(p):
  total, count = toy.run(p, 1).tally['uplink/bits']
  return float(total / count)


@pytest.mark.parametrize(
  ('name', 'bits'),
  [
    ('fedavg', 32 + 2 * NUM_WEIGHTS),
    # SCAFFOLD's control and FedGA's gradient go as they are.
    ('scaffold', 32 + 2 * NUM_WEIGHTS + 32 * NUM_WEIGHTS),
    ('fedga', 32 + 2 * NUM_WEIGHTS + 32 * NUM_WEIGHTS),
    ('ifca', 32 + 2 * NUM_WEIGHTS),
    # The server has FedDyn's histories from the changes that it receives.
    ('feddyn', 32 + 2 * NUM_WEIGHTS),
    # Clients 2, 0, 5 and 1 are in tiers 2, 0, 2 and 1.
    ('width', 32 + 2 * np.mean([14, 42, 14, 21])),
  ],
)
def test_bits_of_a_round(name, bits):
  p = toy.problem(name, uplink={'links': ('qsgd',)})
  assert mean_bits(p) == pytest.approx(bits)


def test_statistics_and_other_values_arrive_as_they_are():
  stats = {'mean': jnp.asarray(vector(4))}
  upload = Upload(
    {
      'delta': Weighted({'a': jnp.asarray(vector())}, 3.0),
      'stats': Weighted(stats, 3.0),
    }
  )
  settings = fl.Uplink(links=('qsgd',))
  sent, _, _ = uplinks._send(settings, jax.random.key(0), upload, None)
  assert sent.summed['stats'] is upload.summed['stats']
  assert sent.summed['delta'].weight == 3.0
  assert (sent.summed['delta'].value['a'] != vector()).any()
  assert uplinks._others(upload, True) == 4


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  ('name', 'uplink'),
  [
    ('fedavg', {'links': ('qsgd',), 'levels': 1e12}),
    ('width', {'links': ('float32',)}),
    ('ifca', {'links': ('clip', 'top_k'), 'clip_norm': 1e9, 'keep': 1.0}),
  ],
)
def test_a_perfect_uplink_changes_nothing(name, uplink):
  with_link = toy.problem(name, uplink=uplink)
  assert_same(weights(with_link), weights(toy.problem(name)), 1e-9)


def compressed(x, name, keep):
  """Top-k or scaled sign of a flat vector."""
  if name == 'sign':
    return np.abs(x).mean() * np.where(x < 0, -1, 1)
  count = math.ceil(keep * len(x))
  sent = np.zeros_like(x)
  largest = np.argsort(-np.abs(x), kind='stable')[:count]
  sent[largest] = x[largest]
  return sent


def lossy(p, name, keep, feedback):
  """`sent(i, change)`, what is left of change plus error."""
  lost = np.zeros((len(toy.SIZES), NUM_WEIGHTS))
  # Flattened in the order of the parameters' names.
  order = [leaf.shape for leaf in jax.tree.leaves(p.state.server.params)]
  first = 0 if order[0] == (4, 6) else 1

  def sent(i, change):
    flat = np.concatenate([change[n].ravel() for n in (first, 1 - first)])
    flat = flat + lost[i] if feedback else flat
    arrived = compressed(flat, name, keep)
    lost[i] = flat - arrived
    cut = [24, 18][first]
    parts = np.split(arrived, [cut])
    parts = parts if first == 0 else parts[::-1]
    return [parts[0].reshape(4, 6), parts[1].reshape(6, 3)]

  return sent


def averaging(p, sent):
  """FedAvg of what `sent` leaves of the changes."""
  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  for t in range(oracles.ROUNDS):
    arrived, ids = [], d.cohort(t)
    for i in ids:
      end = d.train(w, t, i)[0]
      arrived.append(sent(i, [end[n] - w[n] for n in range(2)]))
    step = oracles.mean(arrived, [d.weight(i) for i in ids])
    w = [w[n] + step[n] for n in range(2)]
  return w


def compressing(name, feedback, method='fedavg'):
  uplink = {'links': (name,), 'keep': 0.2, 'error_feedback': feedback}
  p = toy.problem(method, uplink=uplink)
  oracle = averaging if method == 'fedavg' else oracles.ORACLES[method]
  return p, oracle(p, lossy(p, name, 0.2, feedback))


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('feedback', [True, False])
@pytest.mark.parametrize('name', ['top_k', 'sign'])
@pytest.mark.parametrize('method', ['fedavg', 'feddyn'])
def test_compression_agrees_with_its_oracle(method, name, feedback):
  p, expected = compressing(name, feedback, method)
  assert_same(weights(p), expected, 1e-9)


@pytest.mark.usefixtures('x64')
def test_forgetting_what_was_lost_is_noticed(monkeypatch):
  original = uplinks._send

  def forgetful(settings, key, upload, lost):
    made, _, size = original(settings, key, upload, lost)
    return made, lost, size

  monkeypatch.setattr(uplinks, '_send', forgetful)
  p, expected = compressing('top_k', True)
  assert np.abs(weights(p)[0] - expected[0]).max() > 1e-4


def test_rounding_down_is_noticed(monkeypatch):
  zeros = lambda key, shape, dtype: jnp.ones(shape, dtype)  # noqa: E731
  monkeypatch.setattr(jax.random, 'uniform', zeros)
  x = vector()
  assert not unbiased(draws(lambda key, x: links.qsgd(key, x, 3), x), x)


@pytest.mark.usefixtures('x64')
def test_scaffolds_control_is_sent_as_it_is():
  server = {'optimizer': 'sgd'}
  plain = toy.problem('scaffold', server=server)
  lossy = toy.problem('scaffold', server=server, uplink=LOSSY['qsgd'])
  ours, theirs = toy.run(lossy, 1).server, toy.run(plain, 1).server
  assert_same(
    oracles.weights_of(ours.extra), oracles.weights_of(theirs.extra), 1e-12
  )
  for a, b in zip(*map(oracles.weights_of, (ours[0], theirs[0])), strict=True):
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize('uplink', LOSSY, ids=str)
def test_outside_a_submodel_nothing_is_sent(uplink):
  p = toy.problem('width', uplink=LOSSY[uplink])
  assert uploaded_outside_the_mask(p) == 0


@pytest.mark.usefixtures('x64')
def test_small_networks_of_narrow_clients_send_the_same():
  """Where one client runs at a time it takes another way through the method."""
  p = toy.problem('width', uplink=LOSSY['sign'])
  assert_same(weights(p, slim=True), weights(p), 1e-9)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  ('name', 'uplink'), [('scaffold', 'sign'), ('fedga', 'sparse')]
)
def test_devices_and_dead_slots_change_nothing(name, uplink):
  """And the random numbers of a client are its own."""
  p = toy.problem(name, uplink=LOSSY[uplink])
  go, d = toy.program(p), toy.DEAD
  four = toy.program(p, mesh=round_lib.clients_mesh(4))

  def after(go, cohorts):
    q = p.with_cohorts(cohorts)
    return oracles.weights_of(go(q.hyper, q.federation, q.state).server.params)

  assert_same(after(four, toy.COHORTS), after(go, toy.COHORTS), 1e-10)
  short = np.array([[2, 5, 1, d], [d, 3, d, 4], [d, d, 0, 5]])
  moved = np.array([[d, 1, 2, 5], [4, d, d, 3], [5, d, d, 0]])
  assert_same(after(go, short), after(go, moved), 1e-10)


@pytest.mark.usefixtures('x64')
def test_numbers_are_traced_and_a_sweep_is_single_runs():
  p = toy.problem('fedavg', uplink=LOSSY['sparse'])
  go = toy.program(p)

  def with_numbers(levels, keep):
    numbers = jax.tree.map(jnp.asarray, p.hyper.uplink)
    numbers.levels, numbers.keep = jnp.asarray(levels), jnp.asarray(keep)
    return p.hyper._replace(uplink=numbers)

  points = [with_numbers(1.0, 1.0), with_numbers(6.0, 0.2)]
  singles = [go(n, p.federation, p.state).server.params for n in points]
  assert go._cache_size() == 1
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *points)
  swept = jax.jit(jax.vmap(go, (0, None, None)))
  together = swept(stacked, p.federation, p.state).server.params
  for at, single in enumerate(singles):
    one = jax.tree.map(lambda a, at=at: a[at], together)
    assert_same(oracles.weights_of(one), oracles.weights_of(single), 1e-10)


def config(**changes):
  made = fl.Config()
  for name, value in changes.items():
    set_field(made, name.replace('__', '.'), value)
  return made


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'links': ('qsdg',)}, 'choose from clip, noise, top_k, qsgd, sign'),
    ({'links': ('qsgd', 'clip')}, 'in this order'),
    ({'links': ('qsgd', 'qsgd')}, 'in this order'),
    ({'links': ('qsgd', 'sign')}, 'rounds each entry twice; use one of qsgd'),
    ({'links': ('noise',)}, 'nothing bounds; add clip'),
    ({'links': ('clip', 'noise')}, 'by size; set server.weights = uniform'),
    ({'error_feedback': True}, 'nothing to correct'),
    ({'links': ('qsgd',), 'error_feedback': True}, 'use top_k, sign or'),
    ({'links': ('clip', 'sign'), 'error_feedback': True}, "'clip'"),
    ({'links': ('qsgd',), 'levels': 2.5}, 'uplink.levels = 2.5 .* whole'),
    ({'links': ('top_k',), 'keep': 0.0}, r'uplink.keep = 0.0 .* \(0, 1\]'),
  ],
)
def test_what_makes_no_sense_is_refused(changes, message):
  changes = {f'uplink__{k}': v for k, v in changes.items()}
  with pytest.raises(fl.ConfigError, match=message) as caught:
    validate(config(**changes))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('name', ['scaffold', 'fedga', 'ifca', 'width'])
def test_noise_is_refused_where_it_does_not_cover_all(name):
  uplink = {'links': ('clip', 'noise'), 'noise': 1.0}
  with pytest.raises(ValueError, match=r'does not cover .* no noise'):
    toy.problem(name, uplink=uplink, server={'weights': 'uniform'})


def test_noise_differs_between_clients_and_rounds():
  uplink = {'links': ('clip', 'noise'), 'noise': 1.0, 'clip_norm': 1e-3}
  p = toy.problem('fedavg', uplink=uplink, server={'weights': 'uniform'})
  client = jax.jit(p.algorithm.phases[0].client)

  def noise(who, key):
    ctx = toy.ctx(p, who)._replace(key=jax.random.key(key))
    sent = client(p.hyper, ctx).summed['delta'].value
    return oracles.weights_of(sent)[0]

  assert np.abs(noise(0, 0) - noise(0, 1)).max() > 1e-4
  np.testing.assert_array_equal(noise(0, 0), noise(0, 0))


def test_fit_takes_an_uplink():
  x = np.random.RandomState(0).randn(40, 3).astype(np.float32)
  y = (x[:, 0] > 0).astype(int)
  federation = fl.federate(x, y, np.array_split(np.arange(40), 4))
  result = fl.fit(
    fl.flax_model(fl.MLP(2, hidden=(4,)), x[:1]),
    federation,
    test=(x, y),
    uplink=fl.Uplink(links=('qsgd',), levels=4.0),
    rounds=4,
    eval_every=4,
  )
  assert result.history[-1]['uplink/bits'] == 32 + 20 * 4


def gaussian_delta(epsilon, mu):
  """The exact delta of a Gaussian mechanism of sensitivity over noise mu."""

  def phi(v):
    return 0.5 * math.erfc(-v / math.sqrt(2))

  return phi(-epsilon / mu + mu / 2) - math.exp(epsilon) * phi(
    -epsilon / mu - mu / 2
  )


def test_epsilon_of_everyone_is_near_the_exact_one():
  pytest.importorskip('dp_accounting')
  # Ten clients at 1.5 / sqrt(10) each, four rounds: mu = 2 / 1.5.
  got = uplinks.epsilon(1.5 / math.sqrt(10), 10, 10, 4, 1e-5)
  assert gaussian_delta(got, 2 / 1.5) < 1e-5
  assert gaussian_delta(0.8 * got, 2 / 1.5) > 1e-5
  assert uplinks.epsilon(1.5 / math.sqrt(10), 10, 100, 4, 1e-5) < got / 2
