"""Simulated time, deadlines, and who is too late."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_ls as fl
from fedjax_ls import build, clock, local, types
from fedjax_ls import round as round_lib
from fedjax_ls.cost import Cost, Traffic
from fedjax_ls.train import train
from tests import toy
from tests.messages_test import says
from tests.resume_test import assert_same_run
from tests.train_test import lines, tiny

COSTS = (Cost(40, 40, 160), Cost(20, 20, 80), Cost(10, 10, 40))
TRAFFIC = (Traffic(60, (20, 20), 5), Traffic(20, (20,)), Traffic(10, (10,)))
SPEEDS = clock.Clock((120.0, 30.0, 60.0), (80.0, 80.0, 20.0), (40.0,), 26.5)


CLIENTS = st.builds(
  fl.Client,
  batch_size=st.integers(1, 6),
  unit=st.sampled_from(['steps', 'epochs']),
  amount=st.integers(1, 6),
  last_batch=st.sampled_from(['masked', 'dropped']),
)


@settings(deadline=None)
@given(st.integers(1, 20), CLIENTS)
def test_examples_seen_are_those_of_the_batches(size, client):
  batches = [min(client.batch_size, size)] * (size // client.batch_size)
  if client.last_batch == 'masked' and size % client.batch_size:
    batches.append(size % client.batch_size)
  steps = client.amount * (len(batches) if client.unit == 'epochs' else 1)
  cycle = batches or [size]
  seen = sum(cycle[step % len(cycle)] for step in range(steps))
  assert local.examples_seen(client, np.int32(size)) == seen


@pytest.mark.parametrize('size', [0, 3, 11])
@pytest.mark.parametrize('last_batch', ['masked', 'dropped'])
def test_examples_seen_are_those_of_the_masks(size, last_batch):
  client = fl.Client(batch_size=4, amount=7, last_batch=last_batch)
  seen = 0
  for step in range(client.amount):
    rows, size = jnp.arange(12), jnp.int32(size)
    chosen = local.reshuffled(client, jax.random.key(0), size, step)
    mask = local.batch(client, rows, size, chosen, step)[1]
    seen += int(mask.sum())
  assert local.examples_seen(client, jnp.int32(size)) == seen


def examples(size: int) -> int:
  """Under `toy.CLIENT`: two epochs, the last batch masked."""
  return 2 * size


def seconds(client: int, speeds=SPEEDS) -> float:
  """What a round takes a client of the toy problem."""
  tier = client % len(toy.RATES)
  received, update, further = TRAFFIC[tier]
  down, up = speeds.down[tier], speeds.up[0]
  work = 3 * COSTS[tier].macs * examples(toy.SIZES[client])
  sent = 4 * (sum(update) + further)
  trained = work / speeds.macs_per_second[tier]
  return 4 * received / down + trained + sent / up


def clocked(p: toy.Problem, speeds: clock.Clock) -> toy.Problem:
  """The toy problem with a clock around its sampler."""
  who = clock.timed(
    p.algorithm.sampler,
    clock.pace(speeds, COSTS, TRAFFIC),
    clock.bytes_sent(TRAFFIC),
    clock.local_seconds(toy.CLIENT),
  )
  algorithm = p.algorithm._replace(sampler=who)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  return p._replace(algorithm=algorithm, state=state)


def with_cohorts(p: toy.Problem, cohorts) -> toy.Problem:
  state = p.state.sampler._replace(inner=jnp.asarray(cohorts))
  return p._replace(state=p.state._replace(sampler=state))


COHORTS = np.array(
  [[2, 0, 5, 1], [4, 3, 1, 5], [0, toy.DEAD, 2, 3], [3, 4, 0, toy.DEAD]]
)


def test_rounds_last_as_the_formula_says():
  p = with_cohorts(clocked(toy.problem('fedavg'), SPEEDS), COHORTS)
  deadline = SPEEDS.deadline
  total, invited, late = 0.0, 0, 0
  state, go = p.state, toy.program(p)
  for cohort in COHORTS:
    taken = np.array([seconds(c) for c in cohort if c != toy.DEAD])
    total += min(taken.max(), deadline)
    invited += len(taken)
    late += int((taken > deadline).sum())
    state = go(p.hyper, p.federation, state, 1)
    told = p.algorithm.sampler.metrics(state.sampler)
    assert told['simulated_seconds'] == pytest.approx(total, rel=1e-6)
    assert told['dropped'] == pytest.approx(late / invited, rel=1e-6)
  # Some rounds had late clients, and some had none.
  assert 0 < late < invited
  assert total < len(COHORTS) * deadline


@pytest.mark.parametrize('method', ['scaffold', 'fedga', 'width'])
def test_late_clients_are_dead_slots(method):
  late = {c for c in range(len(toy.SIZES)) if seconds(c) > SPEEDS.deadline}
  assert 0 < len(late) < len(toy.SIZES)
  cohorts = np.where(np.isin(COHORTS, list(late)), toy.DEAD, COHORTS)
  p = toy.problem(method)
  expected = toy.run(p.with_cohorts(cohorts), 4)
  found = toy.run(with_cohorts(clocked(p, SPEEDS), COHORTS), 4)
  for name in ('server', 'clients', 'tally'):
    chex.assert_trees_all_equal(getattr(expected, name), getattr(found, name))


@pytest.mark.parametrize('optimizer', ['momentum', 'adam'])
def test_when_all_miss_the_deadline_passes_and_nothing_moves(optimizer):
  p = toy.problem('scaffold', server={'optimizer': optimizer})
  # One round that all make, so that the server has momentum to go on with.
  easy = clocked(p, dataclasses.replace(SPEEDS, deadline=0.0))
  before = toy.run(easy, 1)
  pace = before.sampler.pace._replace(deadline=jnp.asarray(0.25))
  hurried = before._replace(sampler=before.sampler._replace(pace=pace))
  after = toy.program(easy)(p.hyper, p.federation, hurried, 2)
  assert after.round == 3
  gone = after.sampler.seconds - before.sampler.seconds
  assert gone == pytest.approx(0.5, rel=1e-5)
  assert after.sampler.late == 8
  for name in ('server', 'clients', 'tally'):
    a, b = getattr(before, name), getattr(after, name)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
      # The server may count its rounds.
      if jnp.issubdtype(x.dtype, jnp.inexact):
        np.testing.assert_array_equal(x, y)


def test_a_round_without_clients_takes_no_time():
  p = clocked(toy.problem('fedavg'), SPEEDS)
  p = with_cohorts(p, np.full((3, 4), toy.DEAD))
  told = p.algorithm.sampler.metrics(toy.run(p).sampler)
  assert told == {'simulated_seconds': 0, 'dropped': 0}


def test_other_speeds_are_the_same_program():
  p = clocked(toy.problem('fedavg'), SPEEDS)
  traces = []

  @jax.jit
  def go(state):
    traces.append(None)
    return round_lib.run_rounds(p.algorithm, p.hyper, p.federation, state, 3)

  def at(speeds):
    pace = clock.pace(speeds, COSTS, TRAFFIC)
    return p.state._replace(sampler=p.state.sampler._replace(pace=pace))

  fast = dataclasses.replace(SPEEDS, up=(4e3,))
  one = [go(at(speeds)).sampler.seconds for speeds in (SPEEDS, fast)]
  assert len(traces) == 1
  assert one[1] < one[0]
  states = [at(SPEEDS), at(fast)]
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *states)
  many = jax.vmap(go)(stacked).sampler.seconds
  np.testing.assert_allclose(many, one, rtol=1e-6)


def test_equal_rounds_do_not_drift():
  """A plain float32 sum would be off by 1e-3 of the whole."""
  federation = toy.federation()
  none = jnp.zeros(3)
  pace = clock.Pace(jnp.full(3, 0.1), none, none, jnp.zeros(()))
  taken = clock.local_seconds(toy.CLIENT)
  who = clock.timed(toy.given(), pace, lambda hyper: none, taken)

  @jax.jit
  def go(state):
    def turn(_, state):
      return who.sample(None, state, types.Draw(federation, None, 0))[1]

    return jax.lax.fori_loop(0, 100_000, turn, state)

  total = go(who.init(federation)).seconds
  assert total == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-6)


def test_no_bandwidth_means_no_waiting():
  pace = clock.pace(clock.Clock((6.0,)), COSTS, TRAFFIC)
  np.testing.assert_array_equal(pace.receive, 0)
  np.testing.assert_array_equal(pace.send, 0)
  np.testing.assert_allclose(pace.example, [20, 10, 5])


def sampled(method: str = 'fedavg', **fields) -> fl.Config:
  fields = {'sampler__name': 'uniform', 'sampler__cohort_size': 4, **fields}
  return tiny(method, **fields)


SPENT = ('macs', 'bytes_down', 'bytes_up')
TIMES = {
  'clock__macs_per_second': (1e6, 1e5),
  'clock__down': (1e4,),
  'clock__up': (1e4, 1e3),
}


def test_a_run_tells_its_time_and_is_the_same_run(tmp_path):
  train(sampled(), tmp_path / 'plain')
  config = sampled(**TIMES, writers__plots=True)
  train(config, tmp_path / 'clock')
  found = lines(tmp_path / 'clock')
  times = [line.pop('simulated_seconds') for line in found]
  assert [line.pop('dropped') for line in found] == [0, 0, 0]
  used = {name: found[-1][name] for name in SPENT}
  found = [{k: v for k, v in line.items() if k not in SPENT} for line in found]
  assert found == lines(tmp_path / 'plain')
  for name in ('simulated_seconds', 'macs', 'bytes_up'):
    assert (tmp_path / 'clock' / 'plots' / f'{name}.png').exists()
  stored = json.loads((tmp_path / 'clock' / 'config.json').read_text())
  weights = 64 * 8 + 8 * 10
  (spent,) = stored['costs']
  assert spent == {'macs': weights, 'parameters': weights, 'bytes': 4 * weights}
  clients = 4 * found[-1]['round']
  assert used['bytes_up'] == used['bytes_down'] == 4 * weights * clients
  assert used['macs'] == 3 * weights * 96 * clients
  # Three steps of 32 of at least 96 examples; both tiers occur in two rounds.
  slow = 4 * weights * (1 / 1e4 + 1 / 1e3) + 3 * weights * 96 / 1e5
  assert times == pytest.approx([2 * slow, 4 * slow, 6 * slow], rel=1e-5)


def test_an_uplink_shortens_what_is_sent(tmp_path):
  uplink = {'uplink__links': ('qsgd',), 'uplink__levels': 3.0}
  train(sampled(**TIMES, **uplink), tmp_path)
  last = lines(tmp_path)[-1]
  weights, clients = 64 * 8 + 8 * 10, 4 * last['round']
  sent = (32 + 3 * weights) / 8
  assert last['uplink/bits'] == 8 * sent
  assert last['bytes_up'] == clients * sent
  assert last['bytes_down'] == clients * 4 * weights
  slow = 4 * weights / 1e4 + sent / 1e3 + 3 * weights * 96 / 1e5
  seconds = last['simulated_seconds']
  assert seconds == pytest.approx(last['round'] * slow, rel=1e-5)


def test_without_a_clock_nothing_is_added(tmp_path):
  experiment = build.prepare(sampled())
  assert experiment.state.sampler == ()
  assert experiment.costs == ()
  assert experiment.job.algorithm.sampler.metrics(()) == {}


def test_a_run_with_a_clock_resumes_bit_equal(tmp_path):
  config = sampled(
    'width', rounds=9, clock__macs_per_second=(1e6, 4e4, 1e4),
    clock__deadline=4.0,
  )  # fmt: skip
  train(config, tmp_path / 'whole')
  for rounds in (3, 4, 9):
    config.rounds = rounds
    train(config, tmp_path / 'parts')
  assert_same_run(tmp_path / 'whole', tmp_path / 'parts', 9)
  assert lines(tmp_path / 'whole')[-1]['dropped'] > 0


def test_the_slim_network_is_timed():
  config = sampled('width', clock__macs_per_second=(1e3,))
  experiment = build.prepare(config)
  macs = [8 * 74, 4 * 74, 2 * 74]
  assert [c.macs for c in experiment.costs] == macs
  pace = experiment.state.sampler.pace
  np.testing.assert_allclose(pace.example, np.multiply(3e-3, macs), rtol=1e-6)


WRONG = [
  ({'clock__macs_per_second': (1e6, 0.0)}, ('(1000000.0, 0.0)', 'above 0')),
  ({**TIMES, 'clock__up': (-1.0,)}, ('clock.up = (-1.0,)', 'above 0')),
  ({**TIMES, 'clock__deadline': -1.0}, ('clock.deadline', 'choose 0 or more')),
  (
    {'clock__deadline': 3.0},
    ('clock.deadline = 3.0', 'needs clock.macs_per_second'),
  ),
  ({'clock__down': (3.0,)}, ('clock.down', 'needs clock.macs_per_second')),
  (
    {**TIMES, 'clock__down': (1e3,) * 3},
    ('clock.macs_per_second', '2 speeds for 3 tiers', 'or one for all'),
  ),
  (
    {**TIMES, 'clock__deadline': 1e-3},
    ('clock.deadline = 0.001', 'before any client is done', 'seconds or more'),
  ),
]


@pytest.mark.parametrize(('fields', 'parts'), WRONG)
def test_clocks_that_are_refused(tmp_path, fields, parts):
  with says(*parts):
    train(sampled(**fields), tmp_path)


def test_speeds_of_a_clock_must_fit_the_rates(tmp_path):
  with says('clock.macs_per_second', '2 speeds for 3 tiers', 'give 3'):
    train(sampled('width', **TIMES), tmp_path)
