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
  Draw,
  Execution,
  Phase,
  Question,
  Slots,
  State,
  Tree,
  Upload,
  nobody,
)

# What a client's key is folded with when a sampler asks it.
_ASKED = (1 << 31) - 1
# What a client's key is folded with for its tier; no phase has this number.
_TIER = 1 << 16


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
  """One round, with all examples and all client states on the device.

  Args:
    algorithm: the method.
    hyper: its numbers.
    federation: the data, C clients.
    state: before the round.
    execution: how it is mapped over clients.

  Returns:
    The state after it.
  """
  ids, sampler = draw(algorithm, hyper, federation, state, execution)
  slots = lay_out(federation, state.clients, ids, execution)
  server, clients, report, own = exchange(
    algorithm, hyper, state, slots, len(federation.size), execution
  )
  return State(
    server,
    _scatter(state.clients, slots.ids, clients),
    observe(algorithm, hyper, sampler, ids, own),
    add_up(state.tally, report),
    state.seed,
    state.round + 1,
  )


def draw(
  algorithm: Algorithm,
  hyper,
  federation: Federation,
  state: State,
  execution: Execution,
) -> tuple[Array, Tree]:
  """Draws the cohort of a round.

  Args:
    algorithm: the method, which has a sampler.
    hyper: its numbers.
    federation: the clients; of examples on the host an outline.
    state: before the round.
    execution: how questions of the sampler are mapped over clients.

  Returns:
    `ids[K]`, C for a dead slot, and the sampler's new state.
  """
  federation = with_tiers(algorithm, federation, state)
  key, _ = _keys(state)
  asked = partial(_ask, algorithm, hyper, federation, state, execution)
  ask = nobody if execution.fed else asked
  # Without jit a sampler may ask inside of `cond`, too.
  with jax.disable_jit(execution.debug):
    return algorithm.sampler.sample(
      hyper, state.sampler, Draw(federation, key, state.round, ask)
    )


def observe(
  algorithm: Algorithm, hyper, sampler: Tree, ids: Array, own: dict
) -> Tree:
  """The sampler's state after a round in which `ids[K]` reported `own`."""
  if algorithm.sampler.observe is None:
    return sampler
  return algorithm.sampler.observe(hyper, sampler, ids, own)


def with_tiers(
  algorithm: Algorithm, federation: Federation, state: State
) -> Federation:
  """The federation with the tiers of this round."""
  ids = jnp.arange(len(federation.size))
  return federation._replace(
    tier=_tiers(algorithm, state, ids, federation.tier)
  )


def lay_out(
  federation: Federation, clients: Tree, ids: Array, execution: Execution
) -> Slots:
  """Gathers what a cohort needs, in the order in which devices take it.

  Args:
    federation: the data.
    clients: `[C, ...]` states of all clients.
    ids: `[K]` the cohort, C for a dead slot.
    execution: chunk and devices, whose product divides P.

  Returns:
    P >= K slots; those that are added are dead.
  """
  population = len(federation.size)
  mesh = execution.mesh
  devices = 1 if mesh is None else mesh.shape['clients']
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
) -> tuple[Tree, Tree, dict[str, tuple[Array, Array]], dict[str, Array]]:
  """All phases of one round, with a cohort that is laid out.

  Args:
    algorithm: the method.
    hyper: its numbers.
    state: before the round; `server`, `seed` and `round` are read.
    slots: the cohort, P slots.
    population: number of clients C.
    execution: how phases are mapped over clients.

  Returns:
    The new server, the new client states `[P, ...]`,
    `{metric: (sum of weight * value, sum of weights)}` of this round, and
    `{metric: [K]}` of each member of the cohort.
  """
  server, clients, carry = state.server, slots.state, ()
  slots = slots._replace(tier=_tiers(algorithm, state, slots.ids, slots.tier))
  cohort = Cohort(slots.ids[slots.place], slots.size[slots.place], population)
  report: dict[str, tuple[Array, Array]] = {}
  each: dict[str, Array] = {}
  # Phases count down, so that the last one, where training is, draws the same
  # batches in every method.
  for left, phase in zip(
    reversed(range(len(algorithm.phases))), algorithm.phases, strict=True
  ):
    message = phase.broadcast(hyper, server, state.round)
    ctx = _context(state, slots, message, clients, carry, left)
    live = slots.ids < population
    client = _client(phase, execution)
    summed, metrics, (stacked, clients, carry, own) = map_clients(
      client, hyper, ctx, slots.ids, live, execution
    )
    stacked, own = _gather((stacked, own), slots.place)
    server = phase.server(hyper, server, reduce(summed), stacked, cohort)
    report |= metrics
    each |= own
  return server, clients, report, each


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
  """Runs rounds without leaving the device.

  Args:
    algorithm: the method.
    hyper: its numbers.
    federation: the data.
    state: before the first of them.
    num_rounds: how many, may be traced.
    execution: how rounds are mapped over clients; with `debug` they run one
      by one, unjitted.

  Returns:
    The state after the last.
  """
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


def _ask(
  algorithm: Algorithm,
  hyper,
  federation: Federation,
  state: State,
  execution: Execution,
  question: Question,
  ids: Array,
) -> Tree:
  """What clients `ids[Q]` answer about the model that each would use now."""

  def client(hyper, ctx: Ctx) -> Upload:
    if algorithm.personal is None:
      model = algorithm.model(ctx.message)
    else:
      model = algorithm.personal(hyper, ctx)
    return Upload(stacked=question(hyper, ctx, *model))

  slots = lay_out(federation, state.clients, ids, execution)
  ctx = _context(state, slots, state.server, slots.state, (), _ASKED)
  live = slots.ids < len(federation.size)
  kept = map_clients(client, hyper, ctx, slots.ids, live, execution)[2]
  return _gather(kept[0], slots.place)


def _context(
  state: State, slots: Slots, message: Tree, own: Tree, carry: Tree, purpose
) -> Ctx:
  """What the clients of all slots see, `[P, ...]` where they differ."""
  _, key = _keys(state)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slots.ids)
  return Ctx(
    message=message,
    state=own,
    carry=carry,
    x=slots.x,
    y=slots.y,
    rows=slots.rows,
    size=slots.size,
    labels=slots.labels,
    tier=slots.tier,
    key=jax.vmap(jax.random.fold_in, (0, None))(keys, purpose),
    round=state.round,
    id=slots.ids,
    rank=jnp.argsort(jnp.argsort(slots.ids)),
  )


def _client(phase: Phase, execution: Execution):
  alone = execution.slim and execution.chunk == 1 and not execution.debug
  client = phase.alone if alone and phase.alone is not None else phase.client
  derive = phase.derive
  if derive is None:
    return client

  def arriving(hyper, ctx: Ctx) -> Upload:
    upload = client(hyper, ctx)
    made = derive(hyper, ctx, upload)
    return upload._replace(summed=upload.summed | made)

  return arriving


def _report(algorithm: Algorithm, hyper, federation: Federation, state: State):
  """What a round reports, for its structure."""
  execution = Execution()
  ids, _ = draw(algorithm, hyper, federation, state, execution)
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


def _tiers(algorithm: Algorithm, state: State, ids: Array, tier: Array):
  """Tiers of some clients in a round, where the method draws them anew."""
  if algorithm.tier is None:
    return tier
  _, key = _keys(state)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
  keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _TIER)
  return jax.vmap(algorithm.tier)(keys)


def _gather(tree: Tree, ids: Array) -> Tree:
  return jax.tree.map(lambda a: jnp.take(a, ids, axis=0, mode='clip'), tree)


def _scatter(tree: Tree, ids: Array, new: Tree) -> Tree:
  return jax.tree.map(lambda a, b: a.at[ids].set(b, mode='drop'), tree, new)


def _add(a: Tree, b: Tree) -> Tree:
  return jax.tree.map(jnp.add, a, b)
