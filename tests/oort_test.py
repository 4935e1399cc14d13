"""Oort against a plain reading of its formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import clock, hyper, samplers
from fedjax_ls.samplers import guided
from fedjax_ls.types import Draw
from tests import choosing, clock_test, oracles, toy

pytestmark = pytest.mark.usefixtures('x64')

NUMBERS = hyper.Hyper(None, None, None, sampler=hyper.Sampler())


def guide(utility, last, percent=10.0):
  zero = jnp.zeros(())
  return guided.Guide(
    jnp.asarray(utility, float),
    jnp.asarray(last, jnp.int32),
    jnp.asarray(percent),
    zero,
    zero,
  )


def plain_scores(utility, last, turn, seconds, percent):
  known = np.flatnonzero(last)
  ordered = np.sort(utility[known])
  clip = ordered[min(int(0.98 * len(known)), len(known) - 1)]
  most, utility = ordered[-1], np.minimum(utility, clip)
  least = 0.999 * ordered[0]
  score = np.full(len(utility), -np.inf)
  limit = np.sort(seconds)[min(int(len(seconds) * percent / 100),
                               len(seconds) - 1)]  # fmt: skip
  for k in known:
    score[k] = (utility[k] - least) / max(most - least, 1e-4)
    score[k] += np.sqrt(0.1 * np.log(turn) / last[k])
    if percent < 100 and seconds[k] > limit:
      score[k] *= (limit / seconds[k]) ** 2
  return score


@pytest.mark.parametrize('percent', [10.0, 50.0, 100.0])
def test_scores_are_the_formula(percent):
  random = np.random.RandomState(0)
  go = jax.jit(
    lambda s, turn, seconds: guided.scores(NUMBERS, s, turn, seconds)
  )
  for _ in range(5):
    utility, seconds = random.rand(60) * 9, random.rand(60)
    last = random.randint(0, 8, 60)
    got = go(guide(utility, last, percent), 9, seconds)
    expected = plain_scores(utility, last, 9, seconds, percent)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
  # Without a clock nobody is slow.
  got = guided.scores(NUMBERS, guide(utility, last, percent), 9, None)
  expected = plain_scores(utility, last, 9, seconds, 100.0)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def cohorts(state, round, count=10, available=None, total=300, seconds=None):
  federation = toy.federation()._replace(
    size=np.arange(1, len(state.utility) + 1)
  )

  def one(key):
    draw = Draw(
      federation,
      key,
      jnp.int32(round),
      available=available,
      seconds=seconds,
    )
    score = guided.scores(NUMBERS, state, jnp.int32(round + 1), seconds)
    return guided.choose(NUMBERS, state, draw, score, count)

  keys = jax.random.split(jax.random.key(0), total)
  ids, exploited = jax.jit(jax.vmap(one))(keys)
  return np.asarray(ids), np.asarray(exploited)


def test_the_share_of_new_clients_falls_to_its_floor():
  last = np.where(np.arange(40) < 20, 1, 0)
  state = guide(np.linspace(1, 2, 40), last)
  # 0.9 0.95^t: 0.857 and 0.696 of ten; the floor of 0.2 from round 30 on.
  for round, old in ((1, 1), (5, 3), (30, 8), (200, 8)):
    ids, exploited = cohorts(state, round, total=20)
    assert (exploited.sum(1) == old).all()
    assert (ids[exploited] < 20).all()
    assert (ids[~exploited] >= 20).all()
    assert all(len(set(row)) == 10 for row in ids)


def test_known_ones_are_good_enough_and_new_ones_come_by_size():
  last = np.where(np.arange(40) < 20, 30, 0)
  state = guide(np.arange(1, 41), last)
  ids, exploited = cohorts(state, 60)
  score = np.asarray(guided.scores(NUMBERS, state, 61, None))
  eighth = np.sort(score[:20])[-8]
  pool = np.flatnonzero(score >= 0.7 * eighth)
  assert set(ids[exploited]) == set(pool)
  assert 8 < len(pool) < 20
  counts = np.bincount(ids[~exploited], minlength=40)[20:]
  expected = 600 * np.arange(21, 41) / np.arange(21, 41).sum()
  assert np.sum((counts - expected) ** 2 / expected) < 60


def test_new_ones_that_are_slow_are_drawn_less_often():
  seconds = jnp.where(jnp.arange(40) % 2 == 0, 1.0, 4.0)
  state = guide(np.ones(40), np.zeros(40))
  ids, _ = cohorts(state, 0, count=1, total=1000, seconds=seconds)
  counts = np.bincount(ids[:, 0], minlength=40)
  expected = np.arange(1, 41) * np.where(np.arange(40) % 2 == 0, 1.0, 1 / 16)
  expected = 1000 * expected / expected.sum()
  slow = counts[1::2].sum()
  assert slow == pytest.approx(expected[1::2].sum(), abs=40)
  assert slow < 150  # 512 if they came by size alone


def test_the_pacer_counts_the_mean_of_new_utilities():
  p = toy.problem('fedavg')
  size = np.array(toy.SIZES)
  losses = np.linspace(1, 2, 6)
  state = guide(np.full(6, 9.0), [1, 1, 1, 1, 0, 0])
  sampler = samplers.oort(3, toy.model())
  draw = Draw(
    p.federation,
    jax.random.key(0),
    jnp.int32(9),
    ask=lambda question, ids: jnp.asarray(losses**2)[ids],
  )
  ids, after = sampler.sample(p.hyper, state, draw)
  known = np.array([i for i in ids.tolist() if i < 4])
  assert 0 < len(known) < 3
  mean = (losses[known] * size[known]).mean()
  assert float(after.now) == pytest.approx(mean)


def test_others_fill_up_where_one_kind_is_missing():
  new = guide(np.ones(12), np.zeros(12))
  ids, exploited = cohorts(new, 60, total=5)
  assert not exploited.any()
  assert (ids < 12).all()
  old = guide(np.ones(12), np.ones(12))
  ids, exploited = cohorts(old, 0, total=5)
  assert exploited.all()
  here = jnp.arange(12) < 4
  ids, _ = cohorts(guide(np.ones(12), np.arange(12) % 2), 9, available=here)
  assert all(sorted(row) == [0, 1, 2, 3] + [12] * 6 for row in ids.tolist())


def test_the_pacer_relaxes_when_utility_is_flat():
  @jax.jit
  def turn(state, round, gained):
    state = guided._paced(NUMBERS, state, round, 3)
    return state._replace(now=state.now + gained)

  def percents(gains):
    state, found = guide(np.ones(4), np.ones(4), -1.0), []
    for round, gained in enumerate(gains):
      state = turn(state, jnp.int32(round), gained)
      found.append(float(state.percent))
    return found

  flat = percents([1.0] * 13)
  assert flat == [10.0] * 6 + [15.0] * 3 + [20.0] * 3 + [25.0]
  assert percents([1.0] * 3 + [2.0] * 7)[6:] == [10.0] * 3 + [15.0]
  assert percents([1.0] * 200)[-1] == 100.0
  # Five times more or less than before is sharp; not below a step.
  sharp = percents([1.0] * 3 + [6.0] * 3 + [36.0] * 3 + [36.0] * 4)
  assert sharp == [10.0] * 6 + [5.0] * 6 + [10.0]


def test_a_run_knows_the_utilities_of_whom_it_chose():
  p = toy.problem('fedavg')
  speeds = clock_test.SPEEDS
  who = clock.timed(
    samplers.oort(3, toy.model(), pacer_window=2),
    clock.pace(speeds, clock_test.COSTS, clock_test.TRAFFIC),
    clock.bytes_sent(clock_test.TRAFFIC),
    clock.local_seconds(p.hyper.client),
  )
  p = choosing.with_sampler(p, who, exploration=0.5)
  go, state, draw = toy.program(p), p.state, choosing.drawing(p)
  utility, last = np.zeros(6), np.zeros(6, int)
  for round in range(3):
    ids, _ = draw(p.hyper, state)
    bare = p._replace(state=state._replace(sampler=()))
    d, w = oracles.Data(bare), oracles.weights_of(state.server.params)
    state = go(p.hyper, p.federation, state, 1)
    chosen = np.flatnonzero(np.asarray(state.sampler.inner.last) == round + 1)
    assert len(chosen) == 3
    assert set(ids.tolist()) - {6} <= set(chosen)  # some miss the deadline
    for i in chosen:
      x, y = d.own(i)
      losses = -oracles.forward(w, x)[1][np.arange(len(y)), y]
      utility[i], last[i] = len(y) * np.sqrt((losses**2).mean()), round + 1
    np.testing.assert_allclose(state.sampler.inner.utility, utility)
    np.testing.assert_array_equal(state.sampler.inner.last, last)
  assert go._cache_size() == 1
  assert 'oort_percent' in who.metrics(state.sampler)
  found = toy.program(p, chunk=3)(p.hyper, p.federation, p.state, 3)
  choosing.assert_close(found, state)
