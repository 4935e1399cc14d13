"""Data and client states on the host give the same run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms, hosted
from fedjax_ls import round as round_lib
from fedjax_ls.types import Execution
from tests import toy

pytestmark = pytest.mark.usefixtures('x64')


def on_host(p, **execution):
  """Three rounds with everything on the host, in blocks of one and two."""
  how = Execution(fed=True, **execution)
  host = hosted.on_host(toy.federation())
  outlined = jax.tree.map(jnp.asarray, hosted.outline(host))
  key = jax.random.key(1)
  state = hosted.init(p.algorithm, p.hyper, outlined, key, seed=0)
  state = state._replace(sampler=p.state.sampler)
  rounds = hosted.advance(p.algorithm, host, how)
  for count in (1, 2):
    state = rounds(p.hyper, outlined, state, count)
  return state


def assert_same(a, b):
  assert int(a.round) == int(b.round)
  jax.tree.map(
    lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-10, atol=1e-10),
    (a.server, a.clients, a.tally),
    (b.server, b.clients, b.tally),
  )


@pytest.mark.parametrize('name', sorted(algorithms.METHODS))
def test_equals_the_device(name):
  p = toy.problem(name)
  assert_same(on_host(p), toy.run(p))


@pytest.mark.parametrize('name', ['scaffold', 'fedga'])
def test_equals_the_device_in_chunks_and_on_a_mesh(name):
  d = toy.DEAD
  short = np.array([[2, d, 5, 1], [d, 3, d, 4], [d, d, 0, 5]])
  p = toy.problem(name).with_cohorts(short)
  expected = toy.run(p)
  for execution in ({'chunk': 3}, {'mesh': round_lib.clients_mesh(2)}):
    assert_same(on_host(p, **execution), expected)


def test_each_device_is_fed_its_own_clients_only():
  host = hosted.on_host(toy.federation())
  how = Execution(fed=True, mesh=round_lib.clients_mesh(2))
  slots = hosted.lay_out(host, toy.COHORTS[0], how)
  assert [len(block) for block in slots.x] == [16, 16]
  for slot, (client, size) in enumerate(
    zip(slots.ids, slots.size, strict=True)
  ):
    assert size == toy.SIZES[client]
    own = slots.rows[slot, :size]
    expected = host.rows[host.offset[client] : host.offset[client + 1]]
    for blocks, array in ((slots.x, host.x), (slots.y, host.y)):
      np.testing.assert_array_equal(blocks[slot // 2][own], array[expected])


def test_states_of_all_clients_start_alike():
  p = toy.problem('scaffold')
  outlined = hosted.outline(hosted.on_host(toy.federation()))
  key = jax.random.key(1)
  made = hosted.init(p.algorithm, p.hyper, outlined, key, seed=0)
  jax.tree.map(np.testing.assert_array_equal, made, p.state)

  def init(hyper, key, federation):
    server, client = p.algorithm.init(hyper, key, federation)
    return server, jax.tree.map(lambda a: a + 2, client)

  other = p.algorithm._replace(init=init)
  made = hosted.init(other, p.hyper, outlined, key, seed=0).clients
  leaves = jax.tree.leaves(made)
  assert all(isinstance(a, np.ndarray) and len(a) == 6 for a in leaves)
  assert all((a == 2).all() for a in leaves)
