"""The contract: what server, clients and methods are made of.

Axes: K cohort, C clients, N examples, L rows of the largest client, S local
steps, B batch, M models, Y classes, D features.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_ls.data.federation import Federation
from fedjax_ls.models.base import Model, Outputs

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
    rank: how many of the cohort have a smaller number.
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
  rank: Array | int = 0


def context_of(
  federation: Federation,
  client: Array | int,
  message: Tree,
  state: Tree,
  round: Array,
  carry: Tree = (),
) -> Ctx:
  """What one client sees outside of a round, with a key that is no round's.

  Args:
    federation: all clients.
    client: number of this one.
    message: what the server broadcast, or its state.
    state: the client's own.
    round: number of the round.
    carry: what an earlier phase left.
  """
  x, y, *own = federation
  rows, size, labels, tier = (a[client] for a in own)
  return Ctx(
    message=message,
    state=state,
    carry=carry,
    x=x,
    y=y,
    rows=rows,
    size=size,
    labels=labels,
    tier=tier,
    key=jax.random.key(0),
    round=round,
    id=jax.numpy.asarray(client),
  )


class Weighted(NamedTuple):
  """A value to be averaged and what it counts for.

  `weight` is a scalar, or a tree that is a prefix of `value`'s; its leaves
  broadcast against the value's, so that a mask counts elements and a one-hot
  vector over a leading axis of length 1 spreads a value over models.
  """

  value: Tree
  weight: Tree


class Trained(NamedTuple):
  """A client's model before and after local training, for diagnostics.

  Attributes:
    before: `(params, stats)` of the model that the client received.
    after: `(params, stats)` after its last step.
    width: share of the channels in use, None for all.
  """

  before: tuple[Tree, Tree]
  after: tuple[Tree, Tree]
  width: Any


class Upload(NamedTuple):
  """All that one client gives back.

  Attributes:
    summed: named `Weighted` trees, reduced over the cohort.
    stacked: small arrays, gathered to `[K, ...]` for rules that are no sum.
    state: the client's new state, None to leave it.
    carry: for this client's next phase, None to leave it.
    metrics: named `Weighted` scalars, averaged until the next evaluation.
    trained: what local training made, None if there was none; a round does
      not read it.
  """

  summed: dict[str, Weighted] = {}  # noqa: RUF012
  stacked: Tree = ()
  state: Tree = None
  carry: Tree = None
  metrics: dict[str, Weighted] = {}  # noqa: RUF012
  trained: Trained | None = None


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


# `(hyper, Ctx) -> Upload`, what one client does.
ClientFunction = Callable[[Any, Ctx], Upload]


class Phase(NamedTuple):
  """One exchange between server and clients.

  Attributes:
    broadcast: `(hyper, server, round) -> message`.
    client: `(hyper, Ctx) -> Upload`, for one client.
    server: `(hyper, server, Reduced, stacked[K, ...], Cohort) -> server`.
    alone: does what `client` does but branches by the client, which is cheaper
      where one client runs at a time; None if there is no such way.
    derive: `(hyper, Ctx, Upload) -> {name: Weighted}`, further sums that the
      server makes of what arrives of an upload.  They are not sent: an attack
      or an uplink changes what they are made of.  None for none; `Ctx.state`
      is not the method's own there.
  """

  broadcast: Callable[[Any, Tree, Array], Tree]
  client: Callable[[Any, Ctx], Upload]
  server: Callable[[Any, Tree, Reduced, Tree, Cohort], Tree]
  alone: Callable[[Any, Ctx], Upload] | None = None
  derive: Callable[[Any, Ctx, Upload], dict[str, Weighted]] | None = None

  def around(
    self,
    wrap: Callable[[ClientFunction], ClientFunction],
  ) -> 'Phase':
    """The phase with `wrap(client)`, whichever way a client runs."""
    alone = None if self.alone is None else wrap(self.alone)
    return self._replace(client=wrap(self.client), alone=alone)


# `(hyper, Ctx, params, stats) -> small tree`, what one client answers about
# the model that it would use now.
Question = Callable[[Any, Ctx, Tree, Tree], Tree]


def nobody(question: Question, ids: Array) -> Tree:
  """`Draw.ask` where the examples are on the host.

  Raises:
    ValueError: always.
  """
  raise ValueError(
    'execution.data = host does not fit a sampler that asks clients about '
    'examples; use execution.data = device or another sampler.name'
  )


class Draw(NamedTuple):
  """What a sampler sees of a round.

  Attributes:
    federation: the clients; of examples on the host only an outline.
    key: random key of (round, cohort).
    round: number of the round, from 0.
    ask: `(question, ids[Q]) -> tree [Q, ...]`, the answers of these clients,
      mapped as a phase is.
    available: `[C]` who can take part, None for everyone.
    seconds: `[C]` what a round takes each client, None without a clock.
  """

  federation: Federation
  key: Array
  round: Array
  ask: Callable[[Question, Array], Tree] = nobody
  available: Array | None = None
  seconds: Array | None = None


class Sampler(NamedTuple):
  """Who takes part in a round.

  Attributes:
    init: `(federation) -> state`.
    sample: `(hyper, state, Draw) -> (ids[K], state)`; live ids are distinct, a
      dead slot is the number of clients.
    observe: `(hyper, state, ids[K], {metric: [K]}) -> state`, called after the
      round with what each client of the cohort uploaded as its own metrics;
      None if the sampler does not look at them.
    metrics: `(state) -> {name: scalar}`, what there is to tell of the rounds
      so far.
    asks: whether `sample` needs `Draw.ask`.
  """

  init: Callable[[Federation], Tree]
  sample: Callable[[Any, Tree, Draw], tuple[Array, Tree]]
  observe: Callable[[Any, Tree, Array, dict[str, Array]], Tree] | None = None
  metrics: Callable[[Tree], dict[str, Array]] = lambda state: {}
  asks: bool = False


def passed_on(sampler: Sampler):
  """`Sampler.observe` around a sampler whose state is kept as `inner`."""
  told = sampler.observe
  if told is None:
    return None

  def observe(hyper, state, ids, own):
    return state._replace(inner=told(hyper, state.inner, ids, own))

  return observe


class Variant(NamedTuple):
  """A further model that a method is judged by on all test examples.

  Attributes:
    name: what its metrics are called, `metric@name`.
    model: the network, its loss and metrics.
    weights: `(hyper, server, federation) -> (params, stats)`.
    attack: `(hyper, params, stats, x, y, key) -> x`, what is done to a batch of
      test examples before; None for nothing.
  """

  name: str
  model: Model
  weights: Callable[[Any, Tree, Federation], tuple[Tree, Tree]]
  attack: Callable[..., Array] | None = None


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
    ready: `(hyper, server, federation) -> (params, stats)`, the global model
      as it is judged, if its statistics need training examples.
    variants: further models to judge.
    answer: `(hyper, labels[Y], outputs) -> outputs`, how a client changes
      what the global model says on its own examples; None for no such metric.
    tier: `(key) -> tier`, a client's tier of one round by a key of round and
      client; None for the federation's.
    judges_global: whether the global model is judged beside personal ones.
    network: the network that the global model is judged with, None if it is
      the clients'.
    cluster: `(hyper, Ctx) -> number`, which of several models a client uses,
      with `ctx.message` the server's state; None if there is one.
  """

  init: Callable[[Any, Array, Federation], tuple[Tree, Tree]]
  phases: tuple[Phase, ...]
  sampler: Sampler
  model: Callable[[Tree], tuple[Tree, Tree]]
  personal: Callable[[Any, Ctx], tuple[Tree, Tree]] | None = None
  ready: Callable[[Any, Tree, Federation], tuple[Tree, Tree]] | None = None
  variants: tuple[Variant, ...] = ()
  answer: Callable[[Any, Array, Outputs], Outputs] | None = None
  tier: Callable[[Array], Array] | None = None
  judges_global: bool = False
  network: Model | None = None
  cluster: Callable[[Any, Ctx], Array] | None = None


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
    slim: where one client runs at a time, compute the small networks of narrow
      tiers instead of masking the whole one; under a `vmap` over whole runs
      all of them would be computed, so that such a run sets it to False.
    fed: whether the host feeds each device the examples of its own clients,
      instead of all examples being on all devices.
  """

  chunk: int = 1
  mesh: jax.sharding.Mesh | None = None
  debug: bool = False
  slim: bool = True
  fed: bool = False
