"""The map over a cohort's clients, and the reduction of what they upload.

Chunks of `vmap` run inside a `scan` that keeps running sums; the chunks are
split over devices by `shard_map`, whose sums are added by one `psum`.
"""

from functools import partial

import jax
import jax.numpy as jnp

from fedjax_ls import debug
from fedjax_ls.types import Array, Ctx, Execution, Reduced, Tree, Weighted

# The fields of Ctx that are the same for all clients.
_SHARED = ('message', 'x', 'y', 'round')


def weighted_sums(
  weighted: dict[str, Weighted], live: Array
) -> dict[str, Tree]:
  """What one client adds to the sums over the cohort.

  Args:
    weighted: what it uploads, by name.
    live: scalar, 0 or False for a dead slot, which adds nothing.

  Returns:
    `{name: (tree of weight * value, tree of weights)}`; weights are broadcast
    to the tree of the value, and keep their shapes.
  """

  def product(w, v):
    return jnp.where(w != 0, w * v, 0).astype(v.dtype)

  sums = {}
  for name, (value, weight) in weighted.items():
    # A dead slot counts for nothing, whatever it uploads.
    weight = jax.tree.map(lambda w: live * jnp.asarray(w, float), weight)
    weight = jax.tree.broadcast(weight, value)
    sums[name] = (jax.tree.map(product, weight, value), weight)
  return sums


def reduce(sums: dict[str, Tree]) -> Reduced:
  """Means from sums over the cohort.

  Args:
    sums: `{name: (tree of totals, tree of total weights)}`, of `weighted_sums`
      added up over clients.

  Returns:
    Mean (0 where the weight is 0), total, and where the weight is positive.
  """

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


def map_clients(client, hyper, ctx: Ctx, ids, live, execution: Execution):
  """Runs `client` over the cohort and adds up what is to be summed.

  Args:
    client: `(hyper, Ctx) -> Upload`, of one client.
    hyper: the numbers, the same for all.
    ctx: of all slots, `[P, ...]` in the fields that differ between clients;
      `message`, `x`, `y` and `round` are shared.
    ids: `[P]` client numbers, to name one that fails.
    live: `[P]`, False for dead slots.
    execution: chunk (which divides the P of each device), mesh, debug.

  Returns:
    Sums of `Upload.summed`, sums of `Upload.metrics`, and the tuple of
    stacked arrays, states, carries and each client's own metrics, `[P, ...]`.

  Raises:
    fedjax_ls.debug.ClientError: a client fails under `execution.debug`.
  """

  def one(hyper, ctx: Ctx, live: Array):
    upload = client(hyper, ctx)
    kept = (
      upload.stacked,
      ctx.state if upload.state is None else upload.state,
      ctx.carry if upload.carry is None else upload.carry,
      {name: value for name, (value, _) in upload.metrics.items()},
    )
    return (
      weighted_sums(upload.summed, live),
      weighted_sums(upload.metrics, live),
      kept,
    )

  shared, own = _split(ctx)
  if execution.debug:
    outs = debug.each_client(partial(one, hyper), shared, own, ids, live)
    summed, metrics, kept = jax.tree.map(lambda *a: jnp.stack(a), *outs)
    return *jax.tree.map(lambda a: a.sum(0), (summed, metrics)), kept

  mesh = execution.mesh

  def run(hyper, shared, own, live):
    client = partial(one, hyper)
    axes = () if mesh is None else ('clients',)
    return _chunks(client, shared, own, live, execution.chunk, axes)

  run = run if mesh is None else _sharded(run, mesh, execution.fed)
  return run(hyper, shared, own, live)


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
    return jax.tree.map(jnp.add, sums, tuple(new)), kept

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


def _sharded(run, mesh, fed: bool):
  """`run` with its clients split over the mesh and its sums added up.

  A study's mesh has a second axis, over which the caller has split already.
  """
  replicated = jax.sharding.PartitionSpec()
  split = jax.sharding.PartitionSpec('clients')
  examples = split if fed else replicated
  shared_specs = {
    name: examples if name in ('x', 'y') else replicated for name in _SHARED
  }

  def local(hyper, shared, own, live):
    # A gradient with respect to a replicated value would be summed over the
    # devices, silently: make each device's copy its own.
    varying = partial(jax.lax.pcast, axis_name='clients', to='varying')
    whole = {k: v for k, v in shared.items() if shared_specs[k] == replicated}
    shared = shared | varying(whole)
    summed, metrics, kept = run(varying(hyper), shared, own, live)
    return *jax.lax.psum((summed, metrics), 'clients'), kept

  return jax.shard_map(
    local,
    mesh=mesh if mesh.axis_names == ('clients',) else None,
    in_specs=(replicated, shared_specs, split, split),
    out_specs=(replicated, replicated, split),
    axis_names={'clients'},
  )
