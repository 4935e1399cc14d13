"""The contract that every method passes; methods are found by discovery."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms, types
from fedjax_ls import round as round_lib
from fedjax_ls.checkpoint import Checkpoints
from tests import oracles, toy

NAMES = sorted(algorithms.METHODS)
TIGHT = 1e-10
every_method = pytest.mark.parametrize('name', NAMES)

pytestmark = pytest.mark.usefixtures('x64')


_TRACES: collections.Counter = collections.Counter()


@functools.cache
def problem_and_program(name):
  """One compiled program a method, shared by the tests that can."""
  p = toy.problem(name)

  def counted(phase):
    def client(hyper, ctx):
      _TRACES[name] += 1
      return phase.client(hyper, ctx)

    return phase._replace(client=client)

  phases = tuple(map(counted, p.algorithm.phases))
  return p, toy.program(
    p._replace(algorithm=p.algorithm._replace(phases=phases))
  )


def after(name, cohorts=toy.COHORTS, rounds=3):
  p, go = problem_and_program(name)
  p = p.with_cohorts(cohorts)
  return go(p.hyper, p.federation, p.state, rounds)


def assert_close(a, b, tolerance=TIGHT):
  jax.tree.map(
    lambda u, v: np.testing.assert_allclose(
      u, v, rtol=tolerance, atol=tolerance
    ),
    a,
    b,
  )


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def results(state):
  return state.server, state.clients, state.tally


@every_method
def test_agrees_with_its_oracle(name):
  p, _ = problem_and_program(name)
  expected = oracles.ORACLES[name](p.with_cohorts(toy.COHORTS))
  got = oracles.weights_of(after(name).server.params)
  start = oracles.weights_of(p.state.server.params)
  assert len(got) == len(expected)
  for n in range(len(got)):
    assert np.abs(got[n] - start[n]).max() > 1e-2
    np.testing.assert_allclose(got[n], expected[n], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
  ('name', 'change'),
  [
    ('scaffold', {'option': 'gradient'}),
    ('ifca', {'option': 'gradients'}),
    ('qffl', {'option': 'gradient', 'lipschitz': 0.0}),
    ('qffl', {'option': 'batch', 'q': 2.0}),
    ('ifca', {'own': ('classifier',)}),
    ('ifca', {'own': ('classifier',), 'option': 'gradients'}),
    ('feddecorr', {'scale': 'code'}),
    ('fedrs', {'graded': True}),
    ('fedga', {'displace': 'gradient'}),
  ],
)
def test_options_agree_with_their_oracle(name, change):
  settings = dataclasses.replace(algorithms.find(name).toy, **change)
  p = toy.problem(name, settings)
  got = oracles.weights_of(toy.run(p).server.params)
  for a, b in zip(got, oracles.ORACLES[name](p), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


_EVERYBODY: dict = {}


def with_everybody(name, settings, client, server, every_class, rounds):
  """The weights after some rounds of all clients; methods share identities."""
  case = repr((name, settings, client, server, every_class))
  if case not in _EVERYBODY:
    p = toy.problem(name, settings, client, server, every_class=every_class)
    p = p.with_cohorts(toy.EVERYONE)
    _EVERYBODY[case] = p, toy.program(p)
  p, go = _EVERYBODY[case]
  state = go(p.hyper, p.federation, p.state, rounds)
  return oracles.weights_of(state.server.params)


@every_method
def test_is_its_identity(name):
  i = algorithms.find(name).identity
  if i is None:
    pytest.skip('the others come down to it')
  rest = (i.every_class, i.rounds)
  got = with_everybody(name, i.settings, i.client, i.server, *rest)
  server = i.server | i.other_server
  expected = with_everybody(i.other, i.other_settings, i.client, server, *rest)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a.reshape(b.shape), b, rtol=TIGHT, atol=TIGHT)


@every_method
def test_rounds_and_numbers_share_one_trace(name):
  p, go = problem_and_program(name)
  state = go(p.hyper, p.federation, p.state, 1)
  traces, programs = _TRACES[name], go._cache_size()
  other = jax.tree.map(lambda a: a * 0.5, p.hyper)
  for rounds in (1, 2):
    state = go(other, p.federation, state, rounds)
  assert _TRACES[name] == traces > 0
  assert go._cache_size() == programs


@every_method
def test_chunks_and_devices_change_nothing(name):
  p, _ = problem_and_program(name)
  expected = results(after(name))
  two, four = round_lib.clients_mesh(2), round_lib.clients_mesh(4)
  executions = [{'mesh': two, 'chunk': 1}]
  if name == 'fedavg':
    executions += [{'chunk': 3}, {'mesh': four}, {'mesh': two, 'chunk': 2}]
  for execution in executions:
    assert_close(results(toy.run(p, **execution)), expected)


# One phase, two, a loop over models, client states: the debug mode maps all
# methods alike, and slowly.
@pytest.mark.parametrize('name', ['fedavg', 'fedga', 'ifca', 'scaffold'])
def test_debug_mode_computes_the_same(name):
  p, _ = problem_and_program(name)
  go = round_lib.run_rounds
  how = types.Execution(debug=True)
  got = go(p.algorithm, p.hyper, p.federation, p.state, 1, how)
  assert_close(results(got), results(after(name, rounds=1)))


@every_method
def test_vmapped_sweep_is_single_runs(name):
  p, go = problem_and_program(name)
  factors = (0.3, 1.0)
  points = [jax.tree.map(lambda a, f=f: a * f, p.hyper) for f in factors]
  singles = [results(go(n, p.federation, p.state)) for n in points]
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *points)
  sweep = jax.jit(jax.vmap(go, in_axes=(0, None, None)))
  swept = results(sweep(stacked, p.federation, p.state))
  assert_close(swept, jax.tree.map(lambda *a: jnp.stack(a), *singles))
  rates = stacked.client.learning_rate
  assert rates[0] != rates[1]


@every_method
def test_dead_slots_and_order_change_nothing(name):
  d = toy.DEAD
  short = np.array([[2, 5, 1, d], [d, 3, d, 4], [d, d, 0, 5]])
  moved = np.array([[d, 1, 2, 5], [4, d, d, 3], [5, d, d, 0]])
  assert_close(results(after(name, short)), results(after(name, moved)))
  assert_close(results(after(name, toy.COHORTS[:, ::-1])), results(after(name)))


@every_method
def test_only_who_takes_part_changes_state(name):
  cohorts = np.tile([1, 4, toy.DEAD, toy.DEAD], (3, 1))
  p, _ = problem_and_program(name)
  state = after(name, cohorts)
  absent = np.array([0, 2, 3, 5])
  assert_equal(
    jax.tree.map(lambda a: a[absent], state.clients),
    jax.tree.map(lambda a: a[absent], p.state.clients),
  )


@every_method
def test_where_nobody_holds_nothing_moves(name):
  optimizer = 'momentum' if name == 'fedavg' else 'adam'
  p = toy.problem(name, server={'optimizer': optimizer})
  go = toy.program(p)
  cohorts = np.array([[0, 1, 2, 3], [toy.DEAD] * 4, [toy.DEAD] * 4])
  p = p.with_cohorts(cohorts)
  once = go(p.hyper, p.federation, p.state, 1).server
  thrice = go(p.hyper, p.federation, p.state, 3).server
  assert_equal((once.params, once.stats), (thrice.params, thrice.stats))
  moments = [a for a in jax.tree.leaves(once.opt) if a.ndim]
  assert any(np.abs(m).max() > 0 for m in moments)
  assert_equal(moments, [a for a in jax.tree.leaves(thrice.opt) if a.ndim])


@every_method
def test_checkpoint_then_resume_is_bit_equal(name, tmp_path):
  p, go = problem_and_program(name)
  saved = go(p.hyper, p.federation, p.state, 1)
  writer = Checkpoints(tmp_path)
  writer.save(saved, {})
  writer.close()
  reader = Checkpoints(tmp_path)
  state, _ = reader.restore(1, p.state)
  reader.close()
  state = go(p.hyper, p.federation, jax.tree.map(jnp.asarray, state), 2)
  assert_equal(results(state), results(after(name)))


@every_method
def test_loss_falls(name):
  p, go = problem_and_program(name)
  first = go(p.hyper, p.federation, p.state, 1)
  last = go(p.hyper, p.federation, p.state, 14)
  last = last._replace(tally=p.state.tally)
  last = go(p.hyper, p.federation, last, 1)

  def loss(state):
    total, weight = state.tally['train/loss']
    return total / weight

  assert loss(last) < 0.7 * loss(first)
