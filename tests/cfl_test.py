"""Clusters: the best split, CFL's splits and its tree, IFCA's shared body."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_ls as fl
from fedjax_ls import build, clusters, config, local, loop, server, stacked
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms.cfl import CFL, METHOD
from fedjax_ls.algorithms.ifca import Ifca
from tests import oracles, toy
from tests.oracles.cfl import least_across
from tests.oracles.cfl import oracle as cfl_oracle

split = jax.jit(clusters.bipartition)


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 8), st.integers(0, 10_000), st.booleans())
def test_no_split_has_a_smaller_largest_similarity(num, seed, coarse):
  """Against all splits, with non-members between and with ties."""
  random = np.random.RandomState(seed)
  s = random.randint(-3, 4, (10, 10)) / 3 if coarse else random.randn(10, 10)
  s = (s + s.T) / 2
  members = sorted(random.choice(10, num, replace=False).tolist())
  _, least = least_across(lambda i, j: s[i, j], members)
  member = np.isin(np.arange(10), members)
  side, across = jax.device_get(split(s, member))
  assert not side[~member].any()
  assert 0 < side.sum() < num
  one, other = np.flatnonzero(side), np.flatnonzero(member & ~side)
  assert s[np.ix_(one, other)].max() == pytest.approx(least, abs=1e-6)
  assert float(across) == pytest.approx(least, abs=1e-6)


SPLITTING = CFL(
  clusters=4, eps1=10.0, eps2=0.0, gamma=0.3, first_split=1, min_size=3
)


def with_everyone(made, **changes):
  method = dataclasses.replace(made, **changes)
  return toy.problem('cfl', method).with_cohorts(toy.EVERYONE)


def difference(p):
  """From the oracle, which has split."""
  told = []
  expected = cfl_oracle(p, told)
  assert max(told) >= 1
  state = toy.run(p).server
  got = oracles.weights_of(state.params)
  error = max(np.abs(a - b).max() for a, b in zip(got, expected, strict=True))
  return error, told, state.extra


@pytest.mark.usefixtures('x64')
def test_splits_agree_with_the_oracle():
  error, told, tree = difference(with_everyone(SPLITTING))
  assert error < 1e-9
  np.testing.assert_array_equal(tree.of, told)
  assert int(tree.num) == max(told) + 1
  assert tree.born[1] == 1


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  'changes',
  [
    {'eps1': 1e-6},
    {'eps2': 1e6},
    {'gamma': 1.0},
    {'first_split': 3},
    {'min_size': 7},
    {'clusters': 1},
  ],
  ids=str,
)
def test_each_condition_alone_prevents_a_split(changes):
  p = with_everyone(SPLITTING, **changes)
  assert int(toy.run(p).server.extra.num) == 1


@pytest.mark.usefixtures('x64')
def test_who_is_absent_prevents_a_split():
  cohorts = np.array([[0, 1, 2, 3, 4, toy.DEAD]] * 3)
  p = with_everyone(SPLITTING, first_split=0).with_cohorts(cohorts)
  assert int(toy.run(p).server.extra.num) == 1


@pytest.mark.usefixtures('x64')
def test_the_servers_momentum_is_inherited():
  """A new cluster is pushed on by the moments of the old one."""

  def after(rounds, **server):
    p = toy.problem('cfl', SPLITTING, server=server)
    return toy.run(p.with_cohorts(toy.EVERYONE), rounds).server

  before = after(1, optimizer='momentum', momentum=0.5)
  moments = oracles.weights_of(before.opt[0].trace)
  pushed, plain = after(2, optimizer='momentum', momentum=0.5), after(2)
  assert int(pushed.extra.num) == 2
  params = (oracles.weights_of(state.params) for state in (pushed, plain))
  for m, a, b in zip(moments, *params, strict=True):
    for cluster in range(2):
      np.testing.assert_allclose(a[cluster] - b[cluster], -0.5 * m[0])


def complete_linkage(s):
  """Largest similarity across when the least similar members decide, as in
  the authors' code."""
  groups = [[i] for i in range(len(s))]
  while len(groups) > 2:
    pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
    a, b = max(pairs, key=lambda ab: s[np.ix_(*(groups[i] for i in ab))].min())
    groups[b] += groups.pop(a)
  return s[np.ix_(*groups)].max()


def test_complete_linkage_is_noticed():
  worse = 0
  for s in np.random.RandomState(0).randn(40, 6, 6):
    s = (s + s.T) / 2
    best = float(split(s, np.ones(6, bool))[1])
    assert best <= complete_linkage(s) + 1e-6
    worse += complete_linkage(s) > best + 1e-6
  assert worse > 10


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('mutant', ['mean', 'cosine'])
def test_wrong_rules_are_noticed(monkeypatch, mutant):
  if mutant == 'mean':
    monkeypatch.setattr(server, 'client_weight', lambda *_: jnp.ones(()))
  else:
    true = stacked.gram
    monkeypatch.setattr(stacked, 'gram', lambda change: -true(change))
  assert difference(with_everyone(SPLITTING))[0] > 1e-4


def planted(num_groups: int) -> build.Experiment:
  """Nine clients in groups that call the digits by other names."""
  return build.prepare(
    fl.Config(
      rounds=12,
      partition=config.Partition(
        kind='iid',
        num_clients=9,
        transform='label_permutation',
        num_groups=num_groups,
      ),
      model=config.Model(hidden=(16,)),
      algorithm=CFL(clusters=4, eps1=1.0, eps2=0.2, gamma=0.5, first_split=4),
      client=fl.Client(learning_rate=0.1, unit='steps', amount=8),
    )
  )


def test_planted_groups_are_found_and_new_clients_find_theirs(tmp_path):
  made = planted(3)
  job = made.job
  go = jax.jit(
    lambda state: round_lib.run_rounds(
      job.algorithm, job.hyper, job.federation, state, 14, job.execution
    )
  )
  tree = go(made.state).server.extra
  group, found = made.samples.group, np.asarray(tree.of)
  pairs = {*zip(group.tolist(), found.tolist(), strict=True)}
  assert len(pairs) == 3 == int(tree.num)

  def starting(params, stats):
    return local.local_sgd(
      job.model, start=lambda hyper, ctx: local.Start(params, stats)
    )

  def change_of(client):
    """Of a client that is nobody's member: half of an old one's rows."""
    federation = job.federation

    def change(params, stats):
      ctx = fl.types.Ctx(
        server.Message(params, stats), (), (), federation.x, federation.y,
        federation.index[client], federation.size[client] // 2,
        federation.labels[client], federation.tier[client],
        jax.random.key(99), jnp.zeros((), int), jnp.asarray(99),
      )  # fmt: skip
      upload = starting(params, stats)(job.hyper, ctx)
      return upload.summed['delta'].value

    return jax.jit(change)

  for client in range(4):
    assert clusters.walk(tree, change_of(client)) == found[client]
  clusters.draw(tree, tmp_path / 'tree.png')
  assert (tmp_path / 'tree.png').read_bytes().startswith(b'\x89PNG')


def test_updates_that_are_too_large_are_refused(monkeypatch):
  monkeypatch.setattr(stacked, 'MOST_BYTES', 100)
  with pytest.raises(ValueError, match=r'method cfl holds .* 672 bytes') as e:
    toy.problem('cfl')
  assert '\n' not in str(e.value)


def test_settings_out_of_range():
  for name, value in {'gamma': 1.5, 'min_size': 1, 'eps1': 0.0}.items():
    good, fix = METHOD.ranges[name]
    assert not good(value)
    assert fix


@pytest.mark.usefixtures('x64')
def test_a_shared_body_is_one_and_the_heads_are_not():
  p = toy.problem('ifca', Ifca(own=('classifier',)))
  body, head = oracles.weights_of(toy.run(p).server.params)
  np.testing.assert_array_equal(body[0], body[1])
  assert np.abs(head[0] - head[1]).max() > 0.01


def test_a_head_that_does_not_exist_is_refused():
  with pytest.raises(ValueError, match=r"has \['hed'\] .* classifier/kernel"):
    toy.problem('ifca', Ifca(own=('hed',)))


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('lost', [0, 1])
def test_a_cluster_that_diverged_is_chosen_by_nobody(lost):
  p = toy.problem('ifca')
  params = jax.tree.map(
    lambda a: a.at[lost].set(jnp.nan), p.state.server.params
  )
  server = p.state.server._replace(params=params)
  p = p._replace(state=p.state._replace(server=server))
  state = toy.run(p)
  got = oracles.weights_of(state.server.params)
  for a, b in zip(got, oracles.ORACLES['ifca'](p), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert np.isnan(a[lost]).all()
    assert np.isfinite(a[1 - lost]).all()
  ctx = toy.ctx(p, 0)._replace(message=state.server)
  assert int(p.algorithm.cluster(p.hyper, ctx)) == 1 - lost


# The IFCA paper's linear regression: mixture of P models, d = 50 here.
D, NOISE, CLIENTS, EACH, SEEDS, INITS = 50, 0.1, 20, 30, 5, 3
RATES = (0.3, 0.6)


def regression(seed: int) -> tuple[fl.Federation, np.ndarray]:
  """Clients of two linear models and these models `[2, D]`."""
  random = np.random.RandomState(seed)
  truth = random.binomial(1, 0.5, (2, D)).astype(float)
  truth *= 1 / np.linalg.norm(truth, axis=1, keepdims=True)
  x = random.randn(CLIENTS, EACH, D)
  y = np.einsum('ced,cd->ce', x, truth[np.arange(CLIENTS) % 2])
  y = y + NOISE * random.randn(*y.shape)
  parts = np.arange(CLIENTS * EACH).reshape(CLIENTS, EACH)
  made = fl.federate(
    x.reshape(-1, D).astype(np.float32),
    y.reshape(-1, 1).astype(np.float32),
    list(parts),
  )
  return made, truth


def distances(num_models: int) -> np.ndarray:
  """Mean distance of the true models to the nearest that IFCA finds.

  `[SEEDS, INITS, RATES]`; it starts from Bernoulli(1/2), as in the paper.
  """
  net = fl.flax_model(
    fl.models.nets.nn.Dense(1, use_bias=False),
    np.zeros((1, D), np.float32),
    loss='squared_error',
  )
  parts = fl.algorithms.Parts(net, fl.samplers.everyone())
  method = Ifca(clusters=num_models, option='gradients')
  algorithm = fl.algorithms.find('ifca').build(method, parts)
  client = fl.Client(batch_size=EACH, unit='steps', amount=1)
  hyper = loop.numbers(fl.Hyper(client, fl.Server(), method))
  federations, truths = zip(*map(regression, range(SEEDS)), strict=True)
  data = jax.tree.map(lambda *a: jnp.stack(a), *federations)

  def distance(federation, truth, key, rate):
    state = round_lib.init(algorithm, hyper, federation, key, 0)
    draw = jax.random.bernoulli(key, 0.5, (num_models, D, 1))
    draw = draw.astype(jnp.float32)
    draw = draw / jnp.sqrt(jnp.sum(draw**2, 1, keepdims=True))
    params = {'kernel': draw}
    state = state._replace(server=state.server._replace(params=params))
    numbers = dataclasses.replace(hyper.client, learning_rate=rate)
    state = round_lib.run_rounds(
      algorithm, hyper._replace(client=numbers), federation, state, 100,
      fl.Execution(chunk=CLIENTS),
    )  # fmt: skip
    found = state.server.params['kernel'][:, :, 0]
    apart = jnp.linalg.norm(found[:, None] - truth[None], axis=-1)
    return jnp.mean(jnp.min(apart, axis=0))

  several = jax.vmap(distance, (None, None, None, 0))
  several = jax.vmap(several, (None, None, 0, None))
  several = jax.jit(jax.vmap(several, (0, 0, None, None)))
  keys = jax.random.split(jax.random.key(7), INITS)
  apart = several(data, jnp.asarray(truths), keys, jnp.asarray(RATES))
  assert apart.shape == (SEEDS, INITS, len(RATES))
  return np.asarray(apart)


def test_ifca_recovers_two_linear_models_for_all_of_five_seeds():
  """Distance to the nearest truth below 0.6 of the noise, as in the paper, for
  the best of several starts and learning rates."""
  assert (distances(2).min((1, 2)) < 0.6 * NOISE).all()


def test_one_model_for_all_is_far_from_both():
  assert (distances(1) > 3 * NOISE).all()
