"""The contract: what server, clients and methods are made of.

Axes: K cohort, C clients, N examples, L rows of the largest client, S local
steps, B batch, M models, Y classes, D features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_ls.data.federation import Federation

Array = jax.Array
Tree = Any


class Ctx(NamedTuple):
  """All that one client sees in a phase.

  Attributes:
    message: what the server broadcast.
    state: this client's own state, kept between rounds.
    carry: what this client's previous phase of this round left, `()` at first.
    x: `[N, ...]` all examples; the client reads only its own `rows`.
    y: `[N, ...]` their labels or targets.
    rows: `[L]` row numbers of the client's examples, the first `size` valid.
    size: number of examples, 0 for a dead slot.
    labels: `[Y]` examples of each class.
    tier: index of the client's resource tier.
    key: random key of (round, client, phase).
    round: number of the round, from 0.
    id: number of the client, C for a dead slot.
  """

  message: Tree
  state: Tree
  carry: Tree
  x: Array
  y: Array
  rows: Array
  size: Array
  labels: Array
  tier: Array
  key: Array
  round: Array
  id: Array


class Weighted(NamedTuple):
  """A value to be averaged and what it counts for.

  `weight` is a scalar, or a tree that is a prefix of `value`'s; its leaves
  broadcast against the value's, so that a mask counts elements and a one-hot
  vector over a leading axis of length 1 spreads a value over models.
  """

  value: Tree
  weight: Tree


class Upload(NamedTuple):
  """All that one client gives back.

  Attributes:
    summed: named `Weighted` trees, reduced over the cohort.
    stacked: small arrays, gathered to `[K, ...]` for rules that are no sum.
    state: the client's new state, None to leave it.
    carry: for this client's next phase, None to leave it.
    metrics: named `Weighted` scalars, averaged until the next evaluation.
  """

  summed: dict[str, Weighted] = {}  # noqa: RUF012
  stacked: Tree = ()
  state: Tree = None
  carry: Tree = None
  metrics: dict[str, Weighted] = {}  # noqa: RUF012


class Reduced(NamedTuple):
  """`Upload.summed` over the cohort, each a dict of trees by name.

  Attributes:
    mean: sum of weight * value / sum of weight; 0 where nobody holds.
    total: sum of weight * value.
    held: whether the sum of weights is positive; broadcasts to the value.
  """

  mean: dict[str, Tree]
  total: dict[str, Tree]
  held: dict[str, Tree]


class Cohort(NamedTuple):
  """Who takes part: `ids[K]` (C for a dead slot), `size[K]` (0 for a dead
  slot) and `population`, the number C of all clients."""

  ids: Array
  size: Array
  population: int


class Slots(NamedTuple):
  """A cohort as it is laid out on the devices: P >= K slots.

  The slots of one device follow one another, sorted by size so that a chunk
  holds clients alike; what fills up the last chunk is dead.

  Attributes:
    ids: `[P]` client numbers, C for a dead slot.
    size: `[P]` numbers of examples, 0 for a dead slot.
    rows: `[P, L]` row numbers in `x` and `y`.
    labels: `[P, Y]` examples of each class.
    tier: `[P]` resource tiers.
    state: `[P, ...]` the clients' own states.
    x: `[N, ...]` the examples.
    y: `[N, ...]` their labels or targets.
    place: `[K]` slot of each member of the cohort, in the sampler's order.
  """

  ids: Any
  size: Any
  rows: Any
  labels: Any
  tier: Any
  state: Any
  x: Any
  y: Any
  place: Any


class Phase(NamedTuple):
  """One exchange between server and clients.

  Attributes:
    broadcast: `(hyper, server, round) -> message`.
    client: `(hyper, Ctx) -> Upload`, for one client.
    server: `(hyper, server, Reduced, stacked[K, ...], Cohort) -> server`.
  """

  broadcast: Callable[[Any, Tree, Array], Tree]
  client: Callable[[Any, Ctx], Upload]
  server: Callable[[Any, Tree, Reduced, Tree, Cohort], Tree]


class Sampler(NamedTuple):
  """Who takes part in a round.

  Attributes:
    init: `(federation) -> state`.
    sample: `(state, federation, key, round) -> (ids[K], state)`; live ids are
      distinct, a dead slot is the number of clients.
    metrics: `(state) -> {name: scalar}`, what there is to tell of the rounds
      so far.
  """

  init: Callable[[Federation], Tree]
  sample: Callable[[Tree, Federation, Array, Array], tuple[Array, Tree]]
  metrics: Callable[[Tree], dict[str, Array]] = lambda state: {}


class Algorithm(NamedTuple):
  """A method: how it starts, its phases, and which model it is judged by.

  Attributes:
    init: `(hyper, key, federation) -> (server, client)`: the server's state
      and the state that every client starts with (`()` for none).
    phases: the exchanges of one round, in order.
    sampler: who takes part.
    model: `(server) -> (params, stats)`, the global model.
    personal: `(hyper, Ctx) -> (params, stats)`, the model that a client uses,
      with `ctx.message` the server's state; None if it is the global one.
  """

  init: Callable[[Any, Array, Federation], tuple[Tree, Tree]]
  phases: tuple[Phase, ...]
  sampler: Sampler
  model: Callable[[Tree], tuple[Tree, Tree]]
  personal: Callable[[Any, Ctx], tuple[Tree, Tree]] | None = None


class State(NamedTuple):
  """The whole run between two rounds; a checkpoint is this tree.

  Attributes:
    server: the server's state.
    clients: `[C, ...]` states of all clients.
    sampler: the sampler's state.
    tally: sums of weight * value and of weights of the clients' metrics since
      the last evaluation.
    seed: of the training randomness.
    round: rounds done.
  """

  server: Tree
  clients: Tree
  sampler: Tree
  tally: dict[str, tuple[Array, Array]]
  seed: Array
  round: Array


class Execution(NamedTuple):
  """How the map over clients runs; never changes what it computes.

  Attributes:
    chunk: clients vectorized at a time, on each device.
    mesh: `clients_mesh(devices)`, None for a single device.
    debug: run client by client, unjitted, and name the one that fails.
    fed: whether the host feeds each device the examples of its own clients,
      instead of all examples being on all devices.
  """

  chunk: int = 1
  mesh: jax.sharding.Mesh | None = None
  debug: bool = False
  fed: bool = False
