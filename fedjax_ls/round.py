"""One round of federated learning, vectorized over clients.

A round samples a cohort, then runs the algorithm's phases.  A phase broadcasts
a message, maps a pure function over the clients (chunks of `vmap` inside a
`scan`, the chunks sharded over devices), reduces what they upload, and lets
the server act on it:

  sample ids[K] -> (broadcast -> client x K -> weighted sums -> server) x phases

Dead slots of a cohort (fewer clients available than K) carry the id C: they
weigh nothing and their states fall off the end when written back.  The records
and the names of the axes are in `types.py`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.data.federation import Federation
from fedjax_ls.mapping import map_clients, reduce
from fedjax_ls.types import (
  Algorithm,
  Array,
  Cohort,
  Ctx,
  Execution,
  Slots,
  State,
  Tree,
)


def clients_mesh(devices: int) -> jax.sharding.Mesh:
  """The mesh over the first `devices` devices that the clients spread over."""
  auto = jax.sharding.AxisType.Auto
  return jax.make_mesh(
    (devices,), ('clients',), (auto,), devices=jax.devices()[:devices]
  )


def init(
  algorithm: Algorithm,
  hyper,
  federation: Federation,
  key,
  seed,
  clients: Tree = None,
) -> State:
  """State before the first round.

  Args:
    algorithm: the method.
    hyper: its numbers.
    federation: the data.
    key: random key of the initial parameters.
    seed: integer seed of the training randomness (cohorts, batches, noise).
    clients: `[C, ...]` states of all clients; as the method says by default.
  """
  server, client = algorithm.init(hyper, key, federation)
  population = len(federation.size)
  if clients is None:
    clients = jax.tree.map(
      lambda a: jnp.broadcast_to(a, (population, *jnp.shape(a))), client
    )
  state = State(
    server,
    clients,
    algorithm.sampler.init(federation),
    tally={},
    seed=jnp.asarray(seed, jnp.uint32),
    round=jnp.zeros((), jnp.int32),
  )
  shapes = jax.eval_shape(partial(_report, algorithm, hyper), federation, state)
  tally = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  return state._replace(tally=tally)


def round_step(
  algorithm: Algorithm,
  hyper,
  federation: Federation,
  state: State,
  execution: Execution = Execution(),  # noqa: B008
) -> State:
  """One round, with all examples and all client states on the device."""
  ids, sampler = draw(algorithm, federation, state)
  slots = lay_out(federation, state.clients, ids, execution)
  server, clients, report = exchange(
    algorithm, hyper, state, slots, len(federation.size), execution
  )
  return State(
    server,
    _scatter(state.clients, slots.ids, clients),
    sampler,
    add_up(state.tally, report),
    state.seed,
    state.round + 1,
  )


def draw(
  algorithm: Algorithm, federation: Federation, state: State
) -> tuple[Array, Tree]:
  """The cohort `ids[K]` of a round, and the sampler's new state."""
  key, _ = _keys(state)
  return algorithm.sampler.sample(state.sampler, federation, key, state.round)


def lay_out(
  federation: Federation, clients: Tree, ids: Array, execution: Execution
) -> Slots:
  """Gathers what a cohort needs, in the order in which devices take it."""
  population = len(federation.size)
  mesh = execution.mesh
  devices = 1 if mesh is None else mesh.size
  size = jnp.where(ids < population, _gather(federation.size, ids), 0)
  order, place = by_size(size, devices, execution.chunk)
  beyond = order >= len(ids)
  at = jnp.where(beyond, 0, order)
  ids = jnp.where(beyond, population, ids[at])
  return Slots(
    ids=ids,
    size=jnp.where(beyond, 0, size[at]),
    rows=_gather(federation.index, ids),
    labels=_gather(federation.labels, ids),
    tier=_gather(federation.tier, ids),
    state=_gather(clients, ids),
    x=federation.x,
    y=federation.y,
    place=place,
  )


def by_size(size, devices: int, chunk: int):
  """Orders a cohort by size and spreads it over devices and chunks.

  Chunks are dealt to the devices to and fro, so that all get the same work, and
  alike sizes share a chunk, which runs as long as its largest client.

  Args:
    size: `[K]`, a JAX or a NumPy array; the results are of the same kind.
    devices: number of devices.
    chunk: clients vectorized at a time on each.

  Returns:
    `order[P]`, the member of the cohort in each slot, K and more for padding,
    and `place[K]`, the slot of each member.
  """
  xp: Any = np if isinstance(size, np.ndarray) else jnp
  block = devices * chunk
  padded = math.ceil(len(size) / block) * block
  order = xp.argsort(-size, stable=True)
  order = xp.concatenate([order, xp.arange(len(size), padded)])
  deals = order.reshape(-1, devices, chunk)
  there = xp.arange(len(deals))[:, None, None] % 2 == 0
  deals = xp.where(there, deals, deals[:, ::-1])
  order = deals.swapaxes(0, 1).reshape(-1)
  return order, xp.argsort(order)[: len(size)]


def exchange(
  algorithm: Algorithm,
  hyper,
  state: State,
  slots: Slots,
  population: int,
  execution: Execution,
) -> tuple[Tree, Tree, dict[str, tuple[Array, Array]]]:
  """All phases of one round, with a cohort that is laid out.

  Reads `server`, `seed` and `round` of the state.

  Returns:
    The new server, the new client states `[P, ...]`, and
    `{metric: (sum of weight * value, sum of weights)}` of this round.
  """
  server, clients, carry = state.server, slots.state, ()
  cohort = Cohort(slots.ids[slots.place], slots.size[slots.place], population)
  _, key = _keys(state)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slots.ids)
  report: dict[str, tuple[Array, Array]] = {}
  # Phases count down, so that the last one, where training is, draws the same
  # batches in every method.
  for left, phase in zip(
    reversed(range(len(algorithm.phases))), algorithm.phases, strict=True
  ):
    ctx = Ctx(
      message=phase.broadcast(hyper, server, state.round),
      state=clients,
      carry=carry,
      x=slots.x,
      y=slots.y,
      rows=slots.rows,
      size=slots.size,
      labels=slots.labels,
      tier=slots.tier,
      key=jax.vmap(jax.random.fold_in, (0, None))(keys, left),
      round=state.round,
      id=slots.ids,
    )
    live = slots.ids < population
    summed, metrics, (stacked, clients, carry) = map_clients(
      phase.client, hyper, ctx, slots.ids, live, execution
    )
    stacked = _gather(stacked, slots.place)
    server = phase.server(hyper, server, reduce(summed), stacked, cohort)
    report |= metrics
  return server, clients, report


def add_up(tally: dict, report: dict) -> dict:
  """The tally with one more round's report; an empty tally stays empty."""
  return {name: _add(sums, report[name]) for name, sums in tally.items()}


def run_rounds(
  algorithm: Algorithm,
  hyper,
  federation: Federation,
  state: State,
  num_rounds,
  execution: Execution = Execution(),  # noqa: B008
) -> State:
  """Runs `num_rounds` rounds (a traced integer) without leaving the device."""
  if execution.debug:
    for _ in range(int(num_rounds)):
      state = round_step(algorithm, hyper, federation, state, execution)
    return state
  return jax.lax.fori_loop(
    0,
    num_rounds,
    lambda _, s: round_step(algorithm, hyper, federation, s, execution),
    state,
  )


def _report(algorithm: Algorithm, hyper, federation: Federation, state: State):
  """What a round reports, for its structure."""
  execution = Execution()
  ids, _ = draw(algorithm, federation, state)
  slots = lay_out(federation, state.clients, ids, execution)
  population = len(federation.size)
  return exchange(algorithm, hyper, state, slots, population, execution)[2]


def _keys(state: State) -> tuple[Array, Array]:
  """Random keys of a round: for its cohort, and for its clients."""
  # Other kinds of keys draw other numbers under vmap than in a loop.
  key = jax.random.key(state.seed, impl='threefry2x32')
  key = jax.random.fold_in(key, state.round)
  sample_key, client_key = jax.random.split(key)
  return sample_key, client_key


def _gather(tree: Tree, ids: Array) -> Tree:
  return jax.tree.map(lambda a: jnp.take(a, ids, axis=0, mode='clip'), tree)


def _scatter(tree: Tree, ids: Array, new: Tree) -> Tree:
  return jax.tree.map(lambda a, b: a.at[ids].set(b, mode='drop'), tree, new)


def _add(a: Tree, b: Tree) -> Tree:
  return jax.tree.map(jnp.add, a, b)
