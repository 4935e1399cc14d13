"""A simulated clock: what a round would last on devices of given speeds.

A client of tier t that sees e examples in a round takes

  received_t / down_t + 3 macs_t e / macs_per_second_t + sent_t / up_t  seconds:

it receives what the method broadcasts, trains (a backward pass costs two
forward passes) and sends its update, as short as the uplink makes it, and what
else the method uploads.  The server's own work takes no time, and all clients
start together.  A round lasts until its slowest client is done, or until the
deadline if somebody misses it: who is late does not count.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from fedjax_ls import links, local
from fedjax_ls.cost import Cost, Traffic
from fedjax_ls.hyper import Client, Hyper
from fedjax_ls.types import Array, Draw, Sampler, Tree, passed_on

# Multiply-accumulates of a training step for each one of a forward pass.
TRAINING = 3
# Of a number that nothing compresses.
BYTES = int(links.PLAIN) // 8


@dataclasses.dataclass
class Clock:
  """How fast the clients are; one number a tier, or one for all.

  Attributes:
    macs_per_second: multiply-accumulates a second, > 0; () for no clock.
    down: bytes a second that a client receives, > 0; () for no waiting.
    up: bytes a second that a client sends, > 0; () for no waiting.
    deadline: seconds after which a round ends for good, 0 for none.
  """

  macs_per_second: tuple[float, ...] = ()
  down: tuple[float, ...] = ()
  up: tuple[float, ...] = ()
  deadline: float = 0.0

  @property
  def num_tiers(self) -> int:
    """Number of tiers that the settings tell apart, 1 without a clock."""
    speeds = self.macs_per_second, self.down, self.up
    return max(1, *map(len, speeds))


class Pace(NamedTuple):
  """How long things take in each tier; arrays, and so part of the state.

  Attributes:
    receive: `[T]` seconds to receive what the server sends.
    send: `[T]` seconds to send a byte.
    example: `[T]` seconds to train on one example.
    deadline: scalar, seconds after which a round ends, 0 for never.
  """

  receive: Array
  send: Array
  example: Array
  deadline: Array


class Timed(NamedTuple):
  """State of a sampler with a clock.

  Attributes:
    inner: state of the sampler itself.
    pace: how long things take.
    seconds: simulated seconds so far.
    lost: what `seconds` is too much by, of the last bits that it cannot hold.
    invited: clients drawn so far, counted anew every round.
    late: how many of them missed the deadline.
  """

  inner: Tree
  pace: Pace
  seconds: Array
  lost: Array
  invited: Array
  late: Array


SecondsOf = Callable[[Pace, Array, Array, Array], Array]


def pace(
  clock: Clock, costs: Sequence[Cost], traffic: Sequence[Traffic]
) -> Pace:
  """How long things take in each tier.

  Args:
    clock: the devices' speeds.
    costs: of the networks, one a tier or one for all.
    traffic: of the method, likewise.

  Returns:
    The pace of the `T` tiers.

  Raises:
    ValueError: the settings are of different numbers of tiers.

  >>> speeds = Clock((3e6, 1e6), down=(100.0,), up=(10.0,))
  >>> slow = pace(speeds, [Cost(1000, 5, 20)], [Traffic(5, (5,))])
  >>> print(slow.receive, slow.send, slow.example)
  [0.2 0.2] [0.1 0.1] [0.001 0.003]
  """
  received = np.array([BYTES * t.received for t in traffic], float)
  macs = np.array([c.macs for c in costs], float)
  down, up = (np.array(v or (np.inf,)) for v in (clock.down, clock.up))
  receive, send, example = np.broadcast_arrays(
    received / down, 1 / up, TRAINING * macs / np.array(clock.macs_per_second)
  )
  return Pace(
    jnp.asarray(receive, float),
    jnp.asarray(send, float),
    jnp.asarray(example, float),
    jnp.asarray(clock.deadline, float),
  )


def bytes_sent(traffic: Sequence[Traffic]) -> Callable[[Hyper], Array]:
  """What a client of each tier sends in a round, through the uplink.

  Args:
    traffic: of the method, one a tier or one for all.

  Returns:
    `(hyper) -> bytes[T]`; reads the numbers of `hyper.uplink`.
  """

  def sent(hyper: Hyper) -> Array:
    sizes = [
      links.bits(hyper.uplink, t.update) + links.PLAIN * t.further
      for t in traffic
    ]
    return jnp.stack([jnp.asarray(size, float) / 8 for size in sizes])

  return sent


def local_seconds(client: Client) -> SecondsOf:
  """What a round takes a client that trains as `client` says.

  Args:
    client: of which the number and the size of the steps are read.

  Returns:
    `(pace, sent[T], size[K], tier[K]) -> seconds[K]`, with the bytes that a
    client of each tier sends.
  """

  def seconds_of(pace: Pace, sent: Array, size: Array, tier: Array) -> Array:
    examples = local.examples_seen(client, size)
    transfer = pace.receive + pace.send * sent
    return transfer[tier] + pace.example[tier] * examples

  return seconds_of


def timed(
  sampler: Sampler,
  pace: Pace,
  sent_of: Callable[[Hyper], Array],
  seconds_of: SecondsOf,
) -> Sampler:
  """A sampler whose rounds take simulated time and may have a deadline.

  Clients that `sampler` drew but that miss the deadline become dead slots;
  `sampler` is not told.  If all miss it, the round lasts until the deadline
  and nothing moves.  A round to which nobody was invited lasts no time.

  What is counted are the method's messages and the local steps: gradients and
  losses over all examples, and what a sampler asks, are not.

  Args:
    sampler: who is invited.
    pace: how long things take; kept in the state, so that other numbers need
      no other program.
    sent_of: `(hyper) -> bytes[T]` that a client sends, such as
      `bytes_sent(traffic)`.
    seconds_of: `(pace, sent[T], size[K], tier[K]) -> seconds[K]`, such as
      `local_seconds(client)`.

  Returns:
    The sampler.  Its metrics are `simulated_seconds` since the first round
    and `dropped`, the share of late clients among all invited since then.

  >>> from fedjax_ls import data, samplers
  >>> who = timed(
  ...   samplers.everyone(),
  ...   Pace(*jnp.array([[0, 0], [0, 0], [0.5, 1.0]]), jnp.asarray(2.5)),
  ...   lambda hyper: jnp.zeros(2),
  ...   local_seconds(Client(unit='epochs', amount=1)),
  ... )
  >>> federation = data.federate(
  ...   np.ones((7, 1)), np.zeros(7, int), [[0, 1, 2], [3, 4], [4, 5, 6]],
  ...   tier=np.array([0, 0, 1]))
  >>> ids, state = who.sample(
  ...   None, who.init(federation), Draw(federation, None, 0))
  >>> print(ids, who.metrics(state)['simulated_seconds'])
  [0 1 3] 2.5
  """

  def init(federation):
    zero, none = jnp.zeros_like(pace.deadline), jnp.zeros((), jnp.int32)
    return Timed(sampler.init(federation), pace, zero, zero, none, none)

  def sample(hyper, state: Timed, draw: Draw):
    size, tier = map(jnp.asarray, (draw.federation.size, draw.federation.tier))
    taken = seconds_of(state.pace, sent_of(hyper), size, tier)
    draw = draw._replace(seconds=taken)
    ids, inner = sampler.sample(hyper, state.inner, draw)
    population = len(size)
    invited = ids < population
    seconds = jnp.take(taken, ids, mode='fill', fill_value=0)
    deadline = state.pace.deadline
    late = (deadline > 0) & (seconds > deadline)
    lasted = jnp.where(jnp.any(late), deadline, jnp.max(seconds))
    total, lost = kahan(state.seconds, state.lost, lasted)
    state = Timed(
      inner,
      state.pace,
      total,
      lost,
      state.invited + jnp.sum(invited, dtype=jnp.int32),
      state.late + jnp.sum(late, dtype=jnp.int32),
    )
    return jnp.where(late, population, ids), state

  def metrics(state: Timed):
    dropped = state.late / jnp.maximum(state.invited, 1)
    own = {'simulated_seconds': state.seconds, 'dropped': dropped}
    return sampler.metrics(state.inner) | own

  return Sampler(init, sample, passed_on(sampler), metrics, sampler.asks)


def kahan(total: Array, lost: Array, value: Array) -> tuple[Array, Array]:
  """Kahan's sum: thousands of rounds of equal length must not drift.

  Args:
    total: sum so far.
    lost: what it is too much by.
    value: to be added.

  Returns:
    The new sum, and what that is too much by.
  """
  value = value - lost
  new = total + value
  return new, (new - total) - value
