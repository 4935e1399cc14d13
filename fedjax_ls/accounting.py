"""What clients have spent: bytes received and sent, multiply-accumulates."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_ls.clock import BYTES, TRAINING, kahan
from fedjax_ls.cost import Cost, Traffic
from fedjax_ls.types import Array, Draw, Sampler, Tree, passed_on


class Spent(NamedTuple):
  """State of a sampler that counts, since the first round.

  Attributes:
    inner: state of the sampler itself.
    clients: `[T]` clients drawn of each tier.
    examples: `[T]` examples that they trained on, with repetition.
    lost: `[T]` what `examples` is too much by, of bits that it cannot hold.
    sent: `[T]` bytes that a client sends in a round.
  """

  inner: Tree
  clients: Array
  examples: Array
  lost: Array
  sent: Array


def counted(
  sampler: Sampler,
  costs: Sequence[Cost],
  traffic: Sequence[Traffic],
  sent_of: Callable[[Any], Array],
  examples_of: Callable[[Array], Array],
) -> Sampler:
  """A sampler that adds up what the clients it draws spend.

  Each receives what the method sends to its tier, trains (three times the
  multiply-accumulates of a forward pass) and sends what its uplink makes of
  its update; as with the clock, the method's messages and the local steps are
  counted.  Who misses a deadline has spent all the same.

  Args:
    sampler: who takes part.
    costs: of the networks, one a tier or one for all.
    traffic: of the method, likewise.
    sent_of: `(hyper) -> bytes[T]` that a client sends, such as
      `clock.bytes_sent(traffic)`.
    examples_of: `(size[K]) -> examples[K]` that a client sees in a round.

  Returns:
    The sampler.  Its metrics are `macs`, `bytes_down` and `bytes_up` of all
    clients since the first round, and of each tier as `macs/tier0` and so on
    where there are several.

  >>> from fedjax_ls import data, samplers
  >>> who = counted(
  ...   samplers.everyone(),
  ...   [Cost(macs=7, parameters=5, bytes=20), Cost(2, 1, 4)],
  ...   [Traffic(5, (5,)), Traffic(1, (1,))],
  ...   lambda hyper: jnp.array([10.0, 2.0]),
  ...   lambda size: 10 * size,
  ... )
  >>> federation = data.federate(
  ...   np.ones((6, 1)), np.zeros(6, int), [[0, 1, 2], [3, 4], [5]],
  ...   tier=np.array([0, 1, 1]))
  >>> _, state = who.sample(
  ...   None, who.init(federation), Draw(federation, None, 0))
  >>> for name, value in who.metrics(state).items():
  ...   print(name, value)
  macs 810.0
  macs/tier0 630.0
  macs/tier1 180.0
  bytes_down 28.0
  bytes_down/tier0 20.0
  bytes_down/tier1 8.0
  bytes_up 14.0
  bytes_up/tier0 10.0
  bytes_up/tier1 4.0
  """
  tiers = len(costs)
  macs = np.array([TRAINING * cost.macs for cost in costs], float)
  received = np.array([BYTES * t.received for t in traffic], float)

  def init(federation):
    zero = jnp.zeros(tiers)
    none = jnp.zeros(tiers, jnp.int32)
    return Spent(sampler.init(federation), none, zero, zero, zero)

  def sample(hyper, state: Spent, draw: Draw):
    federation = draw.federation
    ids, inner = sampler.sample(hyper, state.inner, draw)
    size, tier = (
      jnp.take(jnp.asarray(a), ids, mode='clip')
      for a in (federation.size, federation.tier)
    )
    drawn = ids < len(federation.size)
    tier = jnp.minimum(tier, tiers - 1)
    mine = drawn[:, None] & (tier[:, None] == jnp.arange(tiers)[None])
    seen = examples_of(size).astype(state.examples.dtype)
    now = jnp.sum(jnp.where(mine, seen[:, None], 0), 0)
    examples, lost = kahan(state.examples, state.lost, now)
    clients = state.clients + jnp.sum(mine, 0, dtype=jnp.int32)
    sent = sent_of(hyper).astype(state.sent.dtype)
    return ids, Spent(inner, clients, examples, lost, sent)

  def metrics(state: Spent):
    dtype = state.examples.dtype
    spent = {
      'macs': jnp.asarray(macs, dtype) * state.examples,
      'bytes_down': jnp.asarray(received, dtype) * state.clients,
      'bytes_up': state.sent * state.clients,
    }
    told = {}
    for name, values in spent.items():
      told[name] = jnp.sum(values)
      if tiers > 1:
        told |= {f'{name}/tier{t}': values[t] for t in range(tiers)}
    return sampler.metrics(state.inner) | told

  return sampler._replace(
    init=init, sample=sample, observe=passed_on(sampler), metrics=metrics
  )
