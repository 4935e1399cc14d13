"""Who is there, and who drops out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import hyper, samplers
from fedjax_ls.samplers import availability
from fedjax_ls.types import Draw
from tests import choosing, toy
from tests.messages_test import says
from tests.train_test import tiny

FEDERATION = toy.federation()
TRACE = np.array(
  [[1, 0, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]], bool
)


def drawn(sampler, round, total=400):
  """Cohorts of many keys in one round."""
  state = sampler.init(FEDERATION)
  numbers = hyper.Hyper(None, None, None, sampler=hyper.Sampler())

  def one(key):
    draw = Draw(FEDERATION, key, jnp.int32(round), available=None)
    return sampler.sample(numbers, state, draw)[0]

  keys = jax.random.split(jax.random.key(0), total)
  return np.asarray(jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize(
  'inner', [samplers.uniform(3), samplers.proportional(3)]
)
@pytest.mark.parametrize('round', [0, 1, 5])
def test_who_is_not_there_is_not_chosen(inner, round):
  ids = drawn(samplers.when_available(inner, TRACE), round)
  here = np.flatnonzero(TRACE[round % 3])
  counts = np.bincount(ids.ravel(), minlength=7)
  assert set(np.flatnonzero(counts[:6])) == set(here)
  # As many as there are, up to three, and the others are dead.
  assert counts[6] == 400 * max(0, 3 - len(here))
  assert all(len(set(row) - {6}) == min(3, len(here)) for row in ids)


def test_a_sampler_that_does_not_look_loses_those_not_there():
  who = samplers.when_available(toy.given(), TRACE)
  state = who.init(FEDERATION)
  ids, _ = who.sample(None, state, Draw(FEDERATION, None, 0))
  assert ids.tolist() == [2, 0, 5, 6]
  everyone = samplers.when_available(samplers.everyone(), TRACE)
  ids, _ = everyone.sample(
    None, everyone.init(FEDERATION), Draw(FEDERATION, None, 4)
  )
  assert ids.tolist() == [6, 6, 6, 3, 6, 6]


def test_only_clients_of_some_tiers_take_part():
  """Who is there and of the tier; too few leave dead slots."""
  tier = np.asarray(FEDERATION.tier)
  ids = drawn(samplers.of_tiers(samplers.uniform(2), (0, 2)), 0)
  assert set(ids.ravel()) == set(np.flatnonzero(tier != 1))
  both = samplers.when_available(
    samplers.of_tiers(samplers.uniform(3), (0,)), TRACE
  )
  ids = drawn(both, 0)
  there = np.flatnonzero((tier == 0) & TRACE[0])
  assert {tuple(sorted(row)) for row in ids} == {
    (*there, *[6] * (3 - len(there)))
  }


def test_clients_drop_out_by_their_own_probability():
  share = np.array([0.0, 1.0, 0.5, 0.2, 0.9, 0.0])
  who = samplers.dropping_out(samplers.everyone(), share)
  ids = drawn(who, 0, 3000)
  stays = (ids == np.arange(6)).sum(0)
  assert stays[[0, 1, 5]].tolist() == [3000, 0, 3000]
  spread = np.sqrt(3000 * share * (1 - share))
  assert (np.abs(stays - 3000 * (1 - share)) <= 5 * spread).all()
  # Independently: each pair as often as the product says.
  both = np.mean((ids[:, 2] == 2) & (ids[:, 3] == 3))
  assert both == pytest.approx(0.5 * 0.8, abs=5 * np.sqrt(0.24 / 3000))


def test_dropout_is_a_number_and_the_state_passes_through():
  p = toy.problem('fedavg')
  who = samplers.make(hyper.Sampler('rpow_d', cohort_size=4), toy.model())
  who = samplers.when_available(who, TRACE)
  p = choosing.with_sampler(p, who, name='rpow_d', cohort_size=4)
  draw = choosing.drawing(p)
  settings, kept = p.hyper.sampler, []
  for share in (1.0, 0.5, 0.0):
    settings.dropout = jnp.asarray(share)
    ids, _ = draw(p.hyper._replace(sampler=settings), p.state)
    kept.append(set(ids.tolist()) - {6})
  assert draw._cache_size() == 1
  assert kept[2] == {0, 2, 3, 5} > kept[1] > kept[0] == set()
  state = toy.run(p, 1)
  assert np.isfinite(state.sampler.inner).tolist() == TRACE[0].tolist()


def test_a_file_of_who_is_there(tmp_path):
  path = tmp_path / 'who.npz'
  np.savez(path, available=TRACE.astype(int), dropout=np.full(6, 0.25))
  trace, dropout = availability.read(path)
  np.testing.assert_array_equal(trace, TRACE)
  np.testing.assert_array_equal(dropout, np.full(6, 0.25))
  settings = hyper.Sampler('uniform', cohort_size=3, availability=str(path))
  ids = drawn(samplers.make(settings, None), 3)
  assert set(ids.ravel()) == {0, 2, 3, 5, 6}


WRONG = [
  ({'other': TRACE}, ("['other']", 'store available')),
  ({'available': TRACE[0]}, ('bool[6]', 'give [T, C] of 0 and 1')),
  ({'available': 2 * TRACE.astype(int)}, ('give [T, C] of 0 and 1',)),
  ({'dropout': np.array([0.5, 1.5])}, ('dropout', 'in [0, 1]')),
  ({'dropout': np.array([0.5, np.nan])}, ('dropout', 'in [0, 1]')),
]


@pytest.mark.parametrize(('content', 'parts'), WRONG)
def test_files_that_are_refused(tmp_path, content, parts):
  path = tmp_path / 'who.npz'
  np.savez(path, **content)
  with pytest.raises(ValueError, match=re.escape(parts[0])) as caught:
    availability.read(path)
  assert all(part in str(caught.value) for part in parts)


def test_a_trace_of_other_clients_is_refused(tmp_path):
  from fedjax_ls import build

  path = tmp_path / 'who.npz'
  np.savez(path, available=TRACE)
  config = tiny(sampler__availability=str(path))
  with says('available is of 6 clients', 'there are 10'):
    build.prepare(config)
  config.sampler.availability = str(tmp_path / 'none.npz')
  with says('sampler.availability', 'cannot be read'):
    build.prepare(config)
