"""What clients spend, tier by tier."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import accounting, build, local
from fedjax_ls import round as round_lib
from fedjax_ls.cost import Cost
from tests import toy
from tests.clock_test import sampled

COSTS = (Cost(40, 40, 160), Cost(20, 20, 80), Cost(10, 10, 40))
COHORTS = np.array([[2, 0, 5, 1], [4, 3, 1, toy.DEAD], [0, toy.DEAD, 2, 3]])


def spent(p, costs=COSTS, rounds=3):
  """The metrics after some rounds, and the problem with the accounting."""
  seen = partial(local.examples_seen, toy.CLIENT)
  who = accounting.counted(p.algorithm.sampler, costs, seen)
  algorithm = p.algorithm._replace(sampler=who)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  inner = state.sampler._replace(inner=jnp.asarray(COHORTS))
  p = p._replace(algorithm=algorithm, state=state._replace(sampler=inner))
  told = who.metrics(toy.run(p, rounds).sampler)
  return {k: float(v) for k, v in told.items()}, p


def test_everybody_is_counted_in_their_tier():
  told, _ = spent(toy.problem('width'))
  macs, sent = np.zeros(3), np.zeros(3)
  for client in COHORTS[COHORTS < toy.DEAD]:
    t = client % 3
    macs[t] += 3 * COSTS[t].macs * 2 * toy.SIZES[client]
    sent[t] += COSTS[t].bytes
  for name, values in (
    ('macs', macs),
    ('bytes_down', sent),
    ('bytes_up', sent),
  ):
    assert told[name] == values.sum()
    assert [told[f'{name}/tier{t}'] for t in range(3)] == values.tolist()


def test_one_network_for_all_has_no_tiers():
  told, _ = spent(toy.problem('fedavg'), COSTS[:1])
  sizes = np.array(toy.SIZES)[COHORTS[COHORTS < toy.DEAD]]
  sent = 160 * len(sizes)
  macs = 3 * 40 * 2 * sizes.sum()
  assert told == {'macs': macs, 'bytes_down': sent, 'bytes_up': sent}


def test_levels_that_are_drawn_are_counted_as_drawn():
  settings = fl.algorithms.find('heterofl').toy
  settings = type(settings)(rates=settings.rates, assignment='dynamic')
  told, p = spent(toy.problem('heterofl', settings))
  expected = np.zeros(3)
  for t, cohort in enumerate(COHORTS):
    state = p.state._replace(round=jnp.int32(t))
    tier = round_lib.with_tiers(p.algorithm, p.federation, state).tier
    for client in cohort[cohort < toy.DEAD]:
      expected[tier[client]] += COSTS[tier[client]].bytes
  assert [told[f'bytes_up/tier{t}'] for t in range(3)] == expected.tolist()
  assert expected.tolist() != [480.0, 320.0, 80.0]


def test_a_run_counts_what_its_method_says():
  """FjORD trains a random width, narrower than what it is sent."""
  clock = {'clock__macs_per_second': (1e3,)}
  wide, drawn = (
    build.prepare(sampled(name, **clock, algorithm__rates=('1', '1/2', '1/4')))
    for name in ('width', 'fjord')
  )
  macs = [c.macs for c in wide.costs]
  mean = [sum(macs) // 3, sum(macs[1:]) // 2, macs[2]]
  assert [c.macs for c in drawn.costs] == mean
  assert [c.bytes for c in drawn.costs] == [c.bytes for c in wide.costs]


def test_a_deadline_is_checked_for_every_level_that_may_be_drawn():
  fields = {
    'clock__macs_per_second': (1e6, 1e6, 1e6),
    'clock__deadline': 1e-9,
    'algorithm__rates': ('1', '1/2', '1/4'),
    'algorithm__assignment': 'dynamic',
  }
  with pytest.raises(fl.ConfigError, match='before any client is done') as e:
    build.prepare(sampled('heterofl', **fields))
  needed = float(str(e.value).split('choose ')[1].split(' ')[0])
  narrow = 3 * 2 * 74 * 1e-6
  assert needed == pytest.approx(96 * narrow, rel=0.2)
