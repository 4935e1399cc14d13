"""What a client's update goes through on its way to the server.

A chain of links is mapped over the clients: each takes a `Packet` and returns
the packet that arrives.  The update is `delta` of the last phase, summed or
stacked.  All else is sent as it is, 32 bits a number: BatchNorm statistics,
SCAFFOLD's control variates, FedGA's gradients, and numbers that a client
derives from its update (norms, losses), which are of the update before it is
sent.  What the server derives from an update (`Phase.derive`: FedDyn's history,
InclusiveFL's teachers) is of the one that arrives, and costs nothing.  Messages
from the server are never compressed.

  metric `uplink/bits`: bits that a client sends in a round, on average
    update    entries * bits an entry + further bits, see `fedjax_ls.links`
    all else  32 * entries

counts only entries that the client holds (a submodel's, a cluster's), and
neither weights nor metrics.
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp

from fedjax_ls import links as links_lib
from fedjax_ls.data.checks import require
from fedjax_ls.data.federation import Federation
from fedjax_ls.hyper import Hyper
from fedjax_ls.hyper import Uplink as Settings
from fedjax_ls.types import (
  Algorithm,
  Array,
  Ctx,
  Phase,
  Tree,
  Upload,
  Weighted,
  context_of,
)

# Purpose that a client's key is folded with, away from those of training.
_UPLINK = 1 << 20


def through(algorithm: Algorithm, settings: Settings) -> Algorithm:
  """A method whose clients' updates go through an uplink.

  Args:
    algorithm: the method.
    settings: names the links; their numbers come with `hyper.uplink`.

  Returns:
    The method with the metric `uplink/bits`, or itself without links.  With
    error feedback a client's state is `(the method's, what was lost)`.
  """
  if not settings.links:
    return algorithm
  last = len(algorithm.phases) - 1
  require(
    'noise' not in settings.links or last == 0,
    f'uplink.links = {settings.links!r} does not cover a method whose clients '
    'send something before their update; use fedavg, or no noise',
  )
  made = algorithm._replace(
    phases=tuple(
      _phase(phase, at, at == last, settings.error_feedback)
      for at, phase in enumerate(algorithm.phases)
    )
  )
  if not settings.error_feedback:
    return made
  personal = algorithm.personal

  def init(hyper, key, federation):
    server, client = algorithm.init(hyper, key, federation)
    shapes = _update_shape(algorithm, hyper, federation, server, client)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return server, (client, zeros)

  def own_model(hyper, ctx: Ctx):
    assert personal is not None
    return personal(hyper, ctx._replace(state=ctx.state[0]))

  return made._replace(init=init, personal=personal and own_model)


def check(uplink: Settings, weights: str) -> None:
  """Refuses links that make no sense together.

  Args:
    uplink: the links.
    weights: what clients count by, `size` or `uniform`.

  Raises:
    ValueError: in one sentence.
  """
  links, named = uplink.links, f'uplink.links = {uplink.links!r}'
  quantizers = [name for name in links if name in links_lib.QUANTIZERS]
  require(
    len(quantizers) <= 1,
    f'{named} rounds each entry twice; use one of {", ".join(quantizers)}',
  )
  require(
    'noise' not in links or 'clip' in links,
    f'{named} has noise in units of a norm that nothing bounds; add clip',
  )
  require(
    'noise' not in links or weights == 'uniform',
    f'{named} does not cover a client that counts by {weights}; set '
    'server.weights = uniform',
  )
  require(
    not uplink.error_feedback or bool(links),
    'uplink.error_feedback = True has nothing to correct with uplink.links = '
    '(); choose top_k or sign, or set it to false',
  )
  unfit = [name for name in links if name in ('clip', 'noise', 'qsgd')]
  require(
    not uplink.error_feedback or not unfit,
    f'uplink.error_feedback = True would send later what {unfit[:1]} takes '
    'away on purpose, or grow without bound; use top_k, sign or bfloat16',
  )


def epsilon(
  noise: float, cohort_size: int, population: int, rounds: int, delta: float
) -> float:
  """How private a client is: epsilon of (epsilon, delta)-differential privacy.

  Of the sequence of sums of clipped and noised updates, for adding or removing
  one client, each round's cohort counted as a Poisson sample at rate
  `cohort_size / population`; by Renyi accounting.  The noise of all clients
  together counts, so whoever sees a single update sees less noise: the sum
  must be formed by someone trusted or by secure aggregation.

  Args:
    noise: `uplink.noise`, standard deviation over clip norm, of one client.
    cohort_size: clients a round, all of which must send.
    population: all clients.
    rounds: number of rounds.
    delta: in (0, 1), such as 1 / population.

  Returns:
    epsilon.

  Raises:
    ImportError: dp-accounting is not installed.
  """
  try:
    import dp_accounting
    from dp_accounting import rdp
  except ImportError as error:
    raise ImportError(
      "epsilon needs dp-accounting; install it by pip install '.[privacy]'"
    ) from error
  accountant = rdp.RdpAccountant()
  gaussian = dp_accounting.GaussianDpEvent(noise * math.sqrt(cohort_size))
  share = cohort_size / population
  a_round = dp_accounting.PoissonSampledDpEvent(share, gaussian)
  accountant.compose(a_round, rounds)
  return float(accountant.get_epsilon(delta))


def update_of(named: str, upload: Upload) -> tuple[Tree, Tree]:
  """The change of the model in an upload, and which entries of it count.

  Args:
    named: the setting that asks for it.
    upload: with `delta`, summed or stacked.

  Raises:
    ValueError: the method sends no such thing.
  """
  if 'delta' in upload.summed:
    change, weight = upload.summed['delta']
    return change, _held(change, weight)
  require(
    isinstance(upload.stacked, dict) and 'delta' in upload.stacked,
    f'{named} needs a method whose clients send a change of the model by the '
    'name of delta; use another method',
  )
  change = upload.stacked['delta']
  return change, _held(change, 1.0)


def with_update(upload: Upload, change: Tree) -> Upload:
  """The upload with another change of the model."""
  if 'delta' in upload.summed:
    sent = upload.summed['delta']._replace(value=change)
    return upload._replace(summed=upload.summed | {'delta': sent})
  return upload._replace(stacked=upload.stacked | {'delta': change})


def _phase(phase: Phase, at: int, last: bool, feedback: bool) -> Phase:
  """A phase whose client counts its bits, and in the last one compresses.

  Bits of earlier phases come along in the carry.
  """

  def client(train, hyper: Hyper, ctx: Ctx) -> Upload:
    state, lost = ctx.state if feedback else (ctx.state, None)
    carry, bits = ctx.carry if at > 0 else (ctx.carry, 0.0)
    upload = train(hyper, ctx._replace(state=state, carry=carry))
    state = state if upload.state is None else upload.state
    carry = carry if upload.carry is None else upload.carry
    if last:
      upload, lost, sent = _send(hyper.uplink, ctx.key, upload, lost)
      bits = bits + sent
    bits = bits + links_lib.PLAIN * _others(upload, last)
    told = {'uplink/bits': Weighted(bits, 1.0)} if last else {}
    return upload._replace(
      state=(state, lost) if feedback else state,
      carry=(carry, jnp.asarray(bits, float)),
      metrics=upload.metrics | told,
    )

  return phase.around(lambda train: partial(client, train))


def _send(
  settings: Settings, key: Array, upload: Upload, lost: Tree
) -> tuple[Upload, Tree, Array]:
  """The upload that arrives, what is lost by now, and the update's bits."""
  if 'noise' in settings.links:
    _check_private(settings, upload)
  change, held = update_of(f'uplink.links = {settings.links!r}', upload)
  if lost is not None:
    change = jax.tree.map(jnp.add, change, lost)
  key = jax.random.fold_in(key, _UPLINK)
  arrived, packet = _arriving(settings, key, change, held)
  if lost is not None:
    lost = jax.tree.map(
      lambda h, c, a, e: jnp.where(h, c - a, e), held, change, arrived, lost
    )
  return with_update(upload, arrived), lost, packet.size


def _arriving(
  settings: Settings, key: Array, change: Tree, held: Tree
) -> tuple[Tree, links_lib.Packet]:
  """What arrives of a change, and the packet that it was sent in."""
  leaves, tree = jax.tree.flatten(change)
  values = [v.reshape(-1) for v in leaves]
  where = [h.reshape(-1) for h in jax.tree.leaves(held)]
  if not settings.per_layer:
    values, where = [jnp.concatenate(values)], [jnp.concatenate(where)]
  values = [jnp.where(h, v, 0) for v, h in zip(values, where, strict=True)]
  packet = links_lib.Packet(values, where)
  for number, name in enumerate(settings.links):
    packet = links_lib.LINKS[name](
      settings, jax.random.fold_in(key, number), packet
    )
  flat = jnp.concatenate(packet.values)
  ends = list(itertools.accumulate(leaf.size for leaf in leaves))
  parts = jnp.split(flat, ends[:-1])
  arrived = [
    part.reshape(leaf.shape).astype(leaf.dtype)
    for part, leaf in zip(parts, leaves, strict=True)
  ]
  return jax.tree.unflatten(tree, arrived), packet


def _others(upload: Upload, but_delta: bool) -> Array | float:
  """Number of entries that are sent besides the update."""
  count: Array | float = 0.0
  for name, (value, weight) in upload.summed.items():
    if not (but_delta and name == 'delta'):
      count = count + links_lib.count(jax.tree.leaves(_held(value, weight)))
  stacked = upload.stacked
  if but_delta and isinstance(stacked, dict):
    stacked = {k: v for k, v in stacked.items() if k not in ('delta', 'weight')}
  return count + sum(jnp.size(leaf) for leaf in jax.tree.leaves(stacked))


def _held(value: Tree, weight: Tree) -> Tree:
  """Which entries of a value count for anything, bool and of its shape.

  A weight that spreads a value over models counts if it does for any.
  """

  def leaf(v, w):
    counts = w != 0
    spread = [
      axis
      for axis in range(w.ndim)
      if jnp.shape(v)[axis] == 1 and w.shape[axis] > 1
    ]
    counts = jnp.any(counts, axis=tuple(spread), keepdims=True)
    return jnp.broadcast_to(counts, jnp.shape(v))

  weight = jax.tree.broadcast(jax.tree.map(jnp.asarray, weight), value)
  return jax.tree.map(leaf, value, weight)


def _update_shape(
  algorithm: Algorithm, hyper: Hyper, federation: Federation, server, client
) -> Tree:
  """Shapes and types of the update that a client of a method sends."""

  def update(federation: Federation, server, client) -> Tree:
    federation = jax.tree.map(jnp.asarray, federation)
    zero, carry = jnp.zeros((), jnp.int32), ()
    for phase in algorithm.phases:
      message = phase.broadcast(hyper, server, zero)
      ctx = context_of(federation, zero, message, client, zero, carry)
      upload = phase.client(hyper, ctx)
      carry = carry if upload.carry is None else upload.carry
    return update_of('uplink.error_feedback = True', upload)[0]

  return jax.eval_shape(update, federation, server, client)


def _check_private(settings: Settings, upload: Upload) -> None:
  """Noise covers one mean of whole updates and nothing else."""
  more = sorted({*upload.summed} - {'delta', 'stats'})
  more += ['stacked'] if jax.tree.leaves(upload.stacked) else []
  delta, stats = upload.summed.get('delta'), upload.summed.get('stats')
  more += ['stats'] if stats and jax.tree.leaves(stats.value) else []
  masked = delta is None or any(map(jnp.ndim, jax.tree.leaves(delta.weight)))
  more += ['weights'] if masked else []
  require(
    not more,
    f'uplink.links = {settings.links!r} does not cover what clients send '
    f'besides their update ({", ".join(more)}); use fedavg without BatchNorm, '
    'or no noise',
  )
