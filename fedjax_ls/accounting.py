"""What clients have spent: models received and sent, multiply-accumulates."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_ls.clock import TRAINING, kahan
from fedjax_ls.cost import Cost
from fedjax_ls.types import Array, Draw, Sampler, Tree, passed_on


class Spent(NamedTuple):
  """State of a sampler that counts, since the first round.

  Attributes:
    inner: state of the sampler itself.
    clients: `[T]` clients drawn of each tier.
    examples: `[T]` examples that they trained on, with repetition.
    lost: `[T]` what `examples` is too much by, of bits that it cannot hold.
  """

  inner: Tree
  clients: Array
  examples: Array
  lost: Array


def counted(
  sampler: Sampler,
  costs: Sequence[Cost],
  examples_of: Callable[[Array], Array],
) -> Sampler:
  """A sampler that adds up what the clients it draws spend.

  Each receives the model of its tier, trains it (three times the
  multiply-accumulates of a forward pass) and sends it back; as with the clock,
  only one model each way and the local steps are counted.  Who misses a
  deadline has spent all the same.

  Args:
    sampler: who takes part.
    costs: of the networks, one a tier or one for all.
    examples_of: `(size[K]) -> examples[K]` that a client sees in a round.

  Returns:
    The sampler.  Its metrics are `macs`, `bytes_down` and `bytes_up` of all
    clients since the first round, and of each tier as `macs/tier0` and so on
    where there are several.

  >>> from fedjax_ls import data, samplers
  >>> who = counted(
  ...   samplers.everyone(),
  ...   [Cost(macs=7, parameters=5, bytes=20), Cost(2, 1, 4)],
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
  bytes_up 28.0
  bytes_up/tier0 20.0
  bytes_up/tier1 8.0
  """
  tiers = len(costs)
  macs = np.array([TRAINING * cost.macs for cost in costs], float)
  sent = np.array([cost.bytes for cost in costs], float)

  def init(federation):
    zero = jnp.zeros(tiers)
    return Spent(
      sampler.init(federation), jnp.zeros(tiers, jnp.int32), zero, zero
    )

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
    return ids, Spent(inner, clients, examples, lost)

  def metrics(state: Spent):
    models = jnp.asarray(sent, state.examples.dtype) * state.clients
    spent = {
      'macs': jnp.asarray(macs, state.examples.dtype) * state.examples,
      'bytes_down': models,
      'bytes_up': models,
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
