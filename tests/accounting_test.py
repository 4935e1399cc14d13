"""What clients spend, tier by tier."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import accounting, build, clock, cost, local
from fedjax_ls import round as round_lib
from fedjax_ls.cost import Cost, Traffic
from tests import toy
from tests.clock_test import sampled

COSTS = (Cost(40, 40, 160), Cost(20, 20, 80), Cost(10, 10, 40))
TRAFFIC = (Traffic(60, (20, 20)), Traffic(20, (20,), 5), Traffic(10, (10,)))
DOWN, UP = np.array([240, 80, 40]), np.array([160, 100, 40])
COHORTS = np.array([[2, 0, 5, 1], [4, 3, 1, toy.DEAD], [0, toy.DEAD, 2, 3]])


def spent(p, tiers=3):
  """The metrics after three rounds, and the problem with the accounting."""
  who = accounting.counted(
    p.algorithm.sampler,
    COSTS[:tiers],
    TRAFFIC[:tiers],
    clock.bytes_sent(TRAFFIC[:tiers]),
    partial(local.examples_seen, toy.CLIENT),
  )
  algorithm = p.algorithm._replace(sampler=who)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  inner = state.sampler._replace(inner=jnp.asarray(COHORTS))
  p = p._replace(algorithm=algorithm, state=state._replace(sampler=inner))
  told = who.metrics(toy.run(p).sampler)
  return {k: float(v) for k, v in told.items()}, p


def test_everybody_is_counted_in_their_tier():
  told, _ = spent(toy.problem('width'))
  macs, clients = np.zeros(3), np.zeros(3)
  for client in COHORTS[COHORTS < toy.DEAD]:
    t = client % 3
    macs[t] += 3 * COSTS[t].macs * 2 * toy.SIZES[client]
    clients[t] += 1
  for name, values in (
    ('macs', macs),
    ('bytes_down', clients * DOWN),
    ('bytes_up', clients * UP),
  ):
    assert told[name] == values.sum()
    assert [told[f'{name}/tier{t}'] for t in range(3)] == values.tolist()


def test_one_network_for_all_has_no_tiers():
  told, _ = spent(toy.problem('fedavg'), tiers=1)
  sizes = np.array(toy.SIZES)[COHORTS[COHORTS < toy.DEAD]]
  down, up = DOWN[0] * len(sizes), UP[0] * len(sizes)
  macs = 3 * 40 * 2 * sizes.sum()
  assert told == {'macs': macs, 'bytes_down': down, 'bytes_up': up}


def test_what_is_sent_goes_through_the_uplink():
  """A sign an entry, and a scale an array; the rest as it is."""
  uplink = {'links': ('sign',), 'per_layer': True}
  told, _ = spent(toy.problem('fedavg', uplink=uplink), tiers=1)
  clients = (COHORTS < toy.DEAD).sum()
  assert told['bytes_up'] == clients * (2 * 32 + 40) / 8
  assert told['bytes_down'] == clients * DOWN[0]


def traffic_of(name, settings):
  """Of each tier of the toy problem."""
  method, x = fl.algorithms.find(name), toy.federation().x[:1]
  rates = method.slim_rates(settings) if method.needs_submodels else ('1',)
  net = toy.net_of(method, rates)
  parts_of = toy.depth_submodels if method.shallow else toy.width_submodels
  subs = parts_of(net, x, rates) if method.needs_submodels else None
  shapes = cost.shapes_of(net, x, subs)
  return [method.traffic(settings, t, *s) for t, s in enumerate(shapes)]


def uploaded(p):
  """Entries of the arrays that a client of the toy problem uploads."""

  def uploads(server):
    carry, found = (), []
    for phase in p.algorithm.phases:
      message = phase.broadcast(p.hyper, server, 0)
      ctx = toy.ctx(p, 0)._replace(message=message, carry=carry)
      upload = phase.client(p.hyper, ctx)
      carry = carry if upload.carry is None else upload.carry
      found += [[w.value for w in upload.summed.values()], upload.stacked]
    return found

  shapes = jax.tree.leaves(jax.eval_shape(uploads, p.state.server))
  return sum(leaf.size for leaf in shapes if leaf.ndim)


METHODS = fl.algorithms.METHODS
NARROW = sorted(name for name in METHODS if METHODS[name].needs_submodels)


@pytest.mark.parametrize('name', sorted({*METHODS} - {*NARROW}))
def test_a_method_sends_what_it_says(name):
  (told,) = traffic_of(name, METHODS[name].toy)
  assert sum(told.update) + told.further == uploaded(toy.problem(name))


# HeteroFL's classifier is cut by the labels of a client.
SETTINGS = {'heterofl': {'owners': False}}


@pytest.mark.parametrize('name', NARROW)
def test_a_narrow_client_sends_what_its_method_says(name):
  change = SETTINGS.get(name, {})
  settings = dataclasses.replace(METHODS[name].toy, **change)
  p = toy.problem(name, settings, uplink={'links': ('float32',)})
  total, _ = toy.run(p, 1).tally['uplink/bits']
  each = clock.bytes_sent(traffic_of(name, settings))(p.hyper)
  assert total == 8 * sum(each[client % 3] for client in toy.COHORTS[0])


@pytest.mark.parametrize(
  ('name', 'models'),
  [('fedavg', 1), ('scaffold', 2), ('fedga', 2), ('ifca', 2), ('cfl', 1)],
)
def test_what_a_client_receives(name, models):
  (told,) = traffic_of(name, fl.algorithms.find(name).toy)
  assert told.received == models * 42


def test_clusters_with_one_body_receive_it_once():
  settings = fl.algorithms.find('ifca').settings(3, own=('classifier',))
  (told,) = traffic_of('ifca', settings)
  assert told == Traffic(24 + 3 * 18, (18, 24))


def test_batch_norm_that_stays_is_not_sent():
  net = toy.MLP(hidden=(6,), num_classes=3, norm='bn', norm_affine=True)
  ((params, stats),) = cost.shapes_of(net, toy.federation().x[:1])
  whole = cost.one_model(None, 0, params, stats)
  assert (whole.received, sorted(whole.update), whole.further) == (
    66, [6, 6, 18, 24], 12,
  )  # fmt: skip
  told = fl.algorithms.find('fedbn').traffic(None, 0, params, stats)
  assert told == Traffic(42, (18, 24))


def test_levels_that_are_drawn_are_counted_as_drawn():
  settings = fl.algorithms.find('heterofl').toy
  settings = type(settings)(rates=settings.rates, assignment='dynamic')
  told, p = spent(toy.problem('heterofl', settings))
  expected = np.zeros(3)
  for t, cohort in enumerate(COHORTS):
    state = p.state._replace(round=jnp.int32(t))
    tier = round_lib.with_tiers(p.algorithm, p.federation, state).tier
    for client in cohort[cohort < toy.DEAD]:
      expected[tier[client]] += UP[tier[client]]
  assert [told[f'bytes_up/tier{t}'] for t in range(3)] == expected.tolist()
  fixed = np.bincount(COHORTS[COHORTS < toy.DEAD] % 3) * UP
  assert expected.tolist() != fixed.tolist()


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
