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

import jax
import jax.numpy as jnp

from fedjax_ls import debug
from fedjax_ls.data.federation import Federation
from fedjax_ls.types import (
  Algorithm,
  Array,
  Cohort,
  Ctx,
  Execution,
  Reduced,
  State,
  Tree,
  Weighted,
)

# The fields of Ctx that are the same for all clients.
_SHARED = ('message', 'x', 'y', 'round')


def clients_mesh(devices: int) -> jax.sharding.Mesh:
  """The mesh over the first `devices` devices that the clients spread over."""
  auto = jax.sharding.AxisType.Auto
  return jax.make_mesh(
    (devices,), ('clients',), (auto,), devices=jax.devices()[:devices]
  )


def init(
  algorithm: Algorithm, hyper, federation: Federation, key, seed
) -> State:
  """State before the first round.

  Args:
    algorithm: the method.
    hyper: its numbers.
    federation: the data.
    key: random key of the initial parameters.
    seed: integer seed of the training randomness (cohorts, batches, noise).
  """
  server, client = algorithm.init(hyper, key, federation)
  population = len(federation.size)
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
  shapes = jax.eval_shape(
    lambda s: round_step(algorithm, hyper, federation, s)[1], state
  )
  tally = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  return state._replace(tally=tally)


def round_step(
  algorithm: Algorithm,
  hyper,
  federation: Federation,
  state: State,
  execution: Execution = Execution(),  # noqa: B008
) -> tuple[State, dict[str, tuple[Array, Array]]]:
  """One round.

  Returns:
    The new state, and `{metric: (sum of weight * value, sum of weights)}` of
    this round.
  """
  key = jax.random.fold_in(jax.random.key(state.seed), state.round)
  sample_key, client_key = jax.random.split(key)
  population = len(federation.size)
  ids, sampler = algorithm.sampler.sample(
    state.sampler, federation, sample_key, state.round
  )
  live = ids < population
  cohort = Cohort(
    ids, jnp.where(live, _gather(federation.size, ids), 0), population
  )
  server, clients = state.server, _gather(state.clients, ids)
  carry: Tree = ()
  report: dict[str, tuple[Array, Array]] = {}
  keys = jax.vmap(jax.random.fold_in, (None, 0))(client_key, ids)
  # Phases count down, so that the last one, where training is, draws the same
  # batches in every method.
  for left, phase in zip(
    reversed(range(len(algorithm.phases))), algorithm.phases, strict=True
  ):
    ctx = Ctx(
      message=phase.broadcast(hyper, server, state.round),
      state=clients,
      carry=carry,
      x=federation.x,
      y=federation.y,
      rows=_gather(federation.index, ids),
      size=cohort.size,
      labels=_gather(federation.labels, ids),
      tier=_gather(federation.tier, ids),
      key=jax.vmap(jax.random.fold_in, (0, None))(keys, left),
      round=state.round,
    )
    summed, metrics, (stacked, clients, carry) = _map_clients(
      phase.client, hyper, ctx, ids, live, execution
    )
    server = phase.server(hyper, server, _reduce(summed), stacked, cohort)
    report |= metrics
  tally = {k: _add(v, report[k]) for k, v in state.tally.items()}
  new = State(
    server,
    _scatter(state.clients, ids, clients),
    sampler,
    tally,
    state.seed,
    state.round + 1,
  )
  return new, report


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
      state, _ = round_step(algorithm, hyper, federation, state, execution)
    return state
  return jax.lax.fori_loop(
    0,
    num_rounds,
    lambda _, s: round_step(algorithm, hyper, federation, s, execution)[0],
    state,
  )


def _gather(tree: Tree, ids: Array) -> Tree:
  return jax.tree.map(lambda a: jnp.take(a, ids, axis=0, mode='clip'), tree)


def _scatter(tree: Tree, ids: Array, new: Tree) -> Tree:
  return jax.tree.map(lambda a, b: a.at[ids].set(b, mode='drop'), tree, new)


def _add(a: Tree, b: Tree) -> Tree:
  return jax.tree.map(jnp.add, a, b)


def _sums(weighted: dict[str, Weighted], live: Array) -> dict[str, Tree]:
  """{name: (tree of weight * value, tree of weights)} of one client."""

  def product(w, v):
    return jnp.where(w != 0, w * v, 0).astype(v.dtype)

  sums = {}
  for name, (value, weight) in weighted.items():
    # A dead slot counts for nothing, whatever it uploads.
    weight = jax.tree.map(lambda w: live * jnp.asarray(w, float), weight)
    weight = jax.tree.broadcast(weight, value)
    sums[name] = (jax.tree.map(product, weight, value), weight)
  return sums


def _reduce(sums: dict[str, Tree]) -> Reduced:
  def mean(total, weight):
    return total / jnp.where(weight > 0, weight, 1).astype(total.dtype)

  return Reduced(
    mean={k: jax.tree.map(mean, *v) for k, v in sums.items()},
    total={k: total for k, (total, _) in sums.items()},
    held={
      k: jax.tree.map(lambda w: w > 0, weight)
      for k, (_, weight) in sums.items()
    },
  )


def _map_clients(client, hyper, ctx: Ctx, ids, live, execution: Execution):
  """Runs `client` over the cohort and adds up what is to be summed.

  Returns:
    Sums of `Upload.summed`, sums of `Upload.metrics`, and the tuple of
    stacked arrays, states and carries, `[K, ...]` in the cohort's order.
  """

  def one(hyper, ctx: Ctx, live: Array):
    upload = client(hyper, ctx)
    kept = (
      upload.stacked,
      ctx.state if upload.state is None else upload.state,
      ctx.carry if upload.carry is None else upload.carry,
    )
    return _sums(upload.summed, live), _sums(upload.metrics, live), kept

  if execution.debug:
    outs = debug.each_client(partial(one, hyper), *_split(ctx), ids, live)
    summed, metrics, kept = jax.tree.map(lambda *a: jnp.stack(a), *outs)
    return *jax.tree.map(lambda a: a.sum(0), (summed, metrics)), kept

  mesh = execution.mesh
  devices = 1 if mesh is None else mesh.size
  order = _by_size(ctx.size, devices, execution.chunk)
  slots = jnp.clip(order, max=len(ids) - 1)
  shared, own = _split(ctx)
  own = _gather(own, slots)
  live = jnp.where(order < len(ids), live[slots], False)

  def run(hyper, shared, own, live):
    client = partial(one, hyper)
    axes = () if mesh is None else mesh.axis_names
    return _chunks(client, shared, own, live, execution.chunk, axes)

  run = run if mesh is None else _sharded(run, mesh)
  summed, metrics, kept = run(hyper, shared, own, live)
  back = jnp.argsort(order)[: len(ids)]
  return summed, metrics, _gather(kept, back)


def _by_size(size: Array, devices: int, chunk: int) -> Array:
  """Order of the slots that puts alike sizes into one chunk.

  Neighbours in size land on different devices, so that all get the same work;
  values of `len(size)` and more are padding.
  """
  block = devices * chunk
  padded = math.ceil(len(size) / block) * block
  order = jnp.argsort(-size, stable=True)
  order = jnp.concatenate([order, jnp.arange(len(size), padded)])
  return order.reshape(-1, devices, chunk).swapaxes(0, 1).reshape(-1)


def _split(ctx: Ctx) -> tuple[dict[str, Tree], dict[str, Tree]]:
  """What all clients share, and what each has of its own, by field."""
  fields = ctx._asdict()
  shared = {name: fields.pop(name) for name in _SHARED}
  return shared, fields


def _chunks(one, shared, own, live: Array, chunk: int, axes=()):
  """Scans over chunks of clients, each a `vmap`, with running sums.

  `axes` are the mesh axes that the clients, and so the sums, vary over.
  """

  def block(own, live):
    if chunk == 1:  # no batch axis: plain matmuls and real loop lengths
      squeezed = jax.tree.map(lambda a: a[0], (own, live))
      out = one(Ctx(**shared, **squeezed[0]), squeezed[1])
      return *out[:2], jax.tree.map(lambda a: a[None], out[2])
    out = jax.vmap(lambda o, v: one(Ctx(**shared, **o), v))(own, live)
    return *jax.tree.map(lambda a: a.sum(0), out[:2]), out[2]

  def step(sums, part):
    *new, kept = block(*part)
    return _add(sums, tuple(new)), kept

  parts = jax.tree.map(
    lambda a: a.reshape(len(a) // chunk, chunk, *a.shape[1:]), (own, live)
  )
  first = jax.tree.map(lambda a: a[0], parts)
  if len(live) == chunk:
    return block(*first)
  shapes = jax.eval_shape(lambda p: block(*p)[:2], first)
  zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  zeros = jax.lax.pcast(zeros, axes, to='varying') if axes else zeros
  sums, kept = jax.lax.scan(step, zeros, parts)
  flat = jax.tree.map(lambda a: a.reshape(len(live), *a.shape[2:]), kept)
  return *sums, flat


def _sharded(run, mesh):
  """`run` with its clients split over the mesh and its sums added up."""
  replicated = jax.sharding.PartitionSpec()
  split = jax.sharding.PartitionSpec('clients')

  def local(hyper, shared, own, live):
    # A gradient with respect to a replicated value would be summed over the
    # devices, silently: make each device's copy its own.
    hyper, shared = jax.lax.pcast((hyper, shared), 'clients', to='varying')
    summed, metrics, kept = run(hyper, shared, own, live)
    return *jax.lax.psum((summed, metrics), 'clients'), kept

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(replicated, replicated, split, split),
    out_specs=(replicated, replicated, split),
  )
