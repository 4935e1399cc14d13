"""Samplers by size and by loss, against exact counts and exhaustive search."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import hosted, local, samplers
from fedjax_ls import round as round_lib
from fedjax_ls.samplers import draws
from fedjax_ls.types import Draw, Execution
from tests import choosing, oracles, toy

pytestmark = pytest.mark.usefixtures('x64')

SIZES = np.array(toy.SIZES)


def chi_square(found, expected) -> float:
  return float(np.sum((found - expected) ** 2 / expected))


def test_draws_without_replacement_follow_the_exact_distribution():
  """Ordered pairs: p_i p_j / (1 - p_i); 30 cells, P(chi2 > 90) < 1e-7."""
  total = 6000
  federation, sampler = toy.federation(), samplers.proportional(2)
  keys = jax.random.split(jax.random.key(0), total)
  ids, _ = jax.jit(
    jax.vmap(lambda key: sampler.sample(None, (), Draw(federation, key, 0)))
  )(keys)
  p = SIZES / SIZES.sum()
  pairs = list(itertools.permutations(range(6), 2))
  expected = np.array([p[i] * p[j] / (1 - p[i]) for i, j in pairs])
  code = np.asarray(ids) @ [6, 1]
  found = np.array([np.sum(code == 6 * i + j) for i, j in pairs])
  assert found.sum() == total
  assert chi_square(found, total * expected) < 90
  # The test can tell: as if drawn uniformly.
  assert chi_square(found, np.full(30, total / 30)) > 90


def test_ties_are_broken_evenly_and_what_is_left_out_stays_out():
  score = jnp.array([2.0, 5.0, 2.0, -jnp.inf, 2.0])
  keys = jax.random.split(jax.random.key(1), 3000)
  at = np.asarray(jax.vmap(lambda key: draws.top(key, score, 2))(keys))
  assert (at[:, 0] == 1).all()
  counts = np.bincount(at[:, 1], minlength=5)
  assert counts[[1, 3]].sum() == 0
  assert chi_square(counts[[0, 2, 4]], np.full(3, 1000.0)) < 30
  five = np.asarray(draws.top(keys[0], score, 5))
  assert five[0] == 1
  assert sorted(five[1:]) == [0, 2, 4, 5]


def test_who_is_asked_answers_in_order_and_the_dead_do_not_matter():
  ids = jnp.array([3, toy.DEAD, 0, 5, 1])
  live = [0, 2, 3, 4]

  def answers(name, **execution):
    p = toy.problem(name)
    how = Execution(**execution)

    def question(hyper, ctx, params, stats):
      loss = local.full_loss(toy.model(), hyper, ctx, params, stats)
      return loss, ctx.size

    def sample(hyper, state, draw):
      return draw.ask(question, ids), state

    sampler = p.algorithm.sampler._replace(sample=sample)
    p = p._replace(algorithm=p.algorithm._replace(sampler=sampler))
    answer, _ = round_lib.draw(p.algorithm, p.hyper, p.federation, p.state, how)
    return p, jax.tree.map(lambda a: np.asarray(a)[live], answer)

  p, (loss, size) = answers('fedavg')
  np.testing.assert_array_equal(size, SIZES[[3, 0, 5, 1]])
  np.testing.assert_allclose(loss, choosing.losses(p)[[3, 0, 5, 1]])
  mesh = round_lib.clients_mesh(2)
  for how in ({'chunk': 2, 'mesh': mesh}, {'debug': True}):
    choosing.assert_close(answers('fedavg', **how)[1], (loss, size))
  # Where clients have models of their own, they answer about those.
  p, (loss, _) = answers('ifca')
  d, stacked = oracles.Data(p), oracles.weights_of(p.state.server.params)
  own = [
    min(oracles.loss([v[m] for v in stacked], *d.own(i)) for m in range(2))
    for i in (3, 0, 5, 1)
  ]
  np.testing.assert_allclose(loss, own)


def test_pow_d_takes_the_largest_of_its_candidates():
  p = toy.problem('fedavg')
  loss = choosing.losses(p)
  chosen = set()
  for candidates in (0, 4):
    p = choosing.with_sampler(p, samplers.pow_d(2, candidates, toy.model()))
    draw = choosing.drawing(p)
    for exponent, seed in itertools.product((0.0, 1.0, -1.0), range(4)):
      settings = p.hyper.sampler
      settings.size_exponent = jnp.asarray(exponent)
      state = choosing.seeded(p.state, seed)
      ids, _ = draw(p.hyper._replace(sampler=settings), state)
      drawn = candidates_of(state, candidates or 6)
      ranked = sorted(drawn, key=lambda i: -loss[i] * SIZES[i] ** exponent)
      assert np.asarray(ids).tolist() == ranked[:2]
      chosen.add(tuple(ranked[:2]))
    assert draw._cache_size() == 1
  assert len(chosen) > 4


def candidates_of(state, count: int) -> list[int]:
  key = jax.random.fold_in(jax.random.key(state.seed), 0)
  drawing, _ = jax.random.split(jax.random.split(key)[0])
  return draws.in_proportion(drawing, SIZES, None, count).tolist()


def test_cpow_d_looks_at_one_batch():
  p = toy.problem('fedavg')
  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  ctx = toy.ctx(p, 1)
  batch = local.one_batch(p.hyper.client, ctx)
  rows = np.asarray(batch.rows)
  assert len(set(rows)) == int(batch.size) == 4
  assert set(rows) <= set(np.asarray(ctx.rows)[: toy.SIZES[1]])
  expected = oracles.loss(w, d.x[rows], d.y[rows])
  params, stats = p.algorithm.model(p.state.server)
  found = local.full_loss(toy.model(), p.hyper, batch, params, stats)
  np.testing.assert_allclose(found, expected)


def batch_losses(p) -> list[float]:
  """Each client's loss on the batch that it is asked about."""
  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  key = jax.random.fold_in(jax.random.key(p.state.seed), 0)
  key, found = jax.random.split(key)[1], []
  for i in range(toy.DEAD):
    own = jax.random.fold_in(jax.random.fold_in(key, i), round_lib._ASKED)
    ctx = toy.ctx(p, i)._replace(key=own)
    batch = local.one_batch(p.hyper.client, ctx)
    rows = np.asarray(batch.rows)[: int(batch.size)]
    found.append(oracles.loss(w, d.x[rows], d.y[rows]))
  return found


def test_cpow_d_takes_the_largest_of_one_batch():
  p = toy.problem('fedavg')
  whole = choosing.losses(p)
  ranked_by_all = np.argsort(-whole)[:2].tolist()
  p = choosing.with_sampler(p, samplers.cpow_d(2, 0, toy.model()))
  draw, seen = choosing.drawing(p), set()
  for seed in range(8):
    q = p._replace(state=choosing.seeded(p.state, seed))
    loss = batch_losses(q._replace(state=q.state._replace(sampler=())))
    ranked = sorted(range(6), key=lambda i: -loss[i])[:2]
    assert draw(q.hyper, q.state)[0].tolist() == ranked
    seen.add(tuple(ranked))
  assert len(seen) > 1
  assert seen - {tuple(ranked_by_all)}


def test_rpow_d_remembers_what_was_reported():
  """One step on all examples: the reported loss is that at the model sent."""
  client = {'batch_size': 16, 'unit': 'steps', 'amount': 1}
  p = toy.problem('fedavg', client=client)
  p = choosing.with_sampler(p, samplers.rpow_d(2, 0), cohort_size=2)
  go, state = toy.program(p), p.state
  expected, seen = np.full(6, np.inf), []
  for turn in range(5):
    ids = round_lib.draw(
      p.algorithm, p.hyper, p.federation, state, Execution()
    )[0]
    ids = np.asarray(ids)
    if turn < 3:
      assert np.isinf(expected[ids]).all()
    else:
      assert ids.tolist() == np.argsort(-expected)[:2].tolist()
    at_server = choosing.losses(p._replace(state=state))
    expected[ids] = at_server[ids]
    state = go(p.hyper, p.federation, state, 1)
    np.testing.assert_allclose(state.sampler, expected)
    seen += ids.tolist()
  assert sorted(seen[:6]) == list(range(6))


def test_watching_works_on_the_host_and_asking_does_not():
  p = choosing.with_sampler(toy.problem('fedavg'), samplers.rpow_d(2, 4))
  host = hosted.on_host(toy.federation())
  outlined = jax.tree.map(jnp.asarray, hosted.outline(host))
  args = outlined, jax.random.key(1), 0

  def started(p):
    state = hosted.init(p.algorithm, p.hyper, *args)
    return hosted.advance(p.algorithm, host, Execution(fed=True)), state

  rounds, state = started(p)
  for count in (1, 0, 4):
    state = rounds(p.hyper, outlined, state, count)
  expected = toy.run(p, 5)
  choosing.assert_close(
    (state.server, state.sampler), (expected.server, expected.sampler)
  )
  assert np.isfinite(state.sampler).sum() > 2
  asking = samplers.pow_d(2, 4, toy.model())
  rounds, state = started(choosing.with_sampler(p, asking))
  with pytest.raises(ValueError, match=r'data = host does not fit a sampler'):
    rounds(p.hyper, outlined, state, 1)


def test_pow_d_is_the_same_however_it_is_run():
  p = toy.problem('fedavg')
  p = choosing.with_sampler(p, samplers.pow_d(3, 5, toy.model()))
  points = []
  for exponent in (0.0, 2.0):
    settings = p.hyper.sampler.__class__(size_exponent=jnp.asarray(exponent))
    points.append(p.hyper._replace(sampler=settings))
  choosing.sweep_and_executions(p, points)
