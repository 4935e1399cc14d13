"""Settings that are pytrees: numbers are traced, structure is static.

A settings dataclass decorated with `traced` has its `float` fields as leaves
and all others (ints, strings, bools, tuples) as static structure.  A sweep
over numbers stacks the leaves and never recompiles; changing structure gives
another program.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar('T')


def traced(cls: type[T]) -> type[T]:
  """Registers a dataclass as a pytree whose leaves are its float fields.

  Args:
    cls: a dataclass; fields annotated `float` become leaves, all others must
      be hashable and become part of the tree's structure.

  Returns:
    `cls` itself.
  """
  kinds = typing.get_type_hints(cls)
  names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
  numbers = [name for name in names if kinds[name] is float]
  structure = [name for name in names if kinds[name] is not float]
  return jax.tree_util.register_dataclass(cls, numbers, structure)


@traced
@dataclasses.dataclass
class Client:
  """What a client does in a round.

  Attributes:
    learning_rate: step size of round 0, > 0.
    schedule: `constant`, `exponential` (`decay ** round`), `cosine` (to zero
      at `horizon` rounds) or `step` (times `decay` at each of `milestones`).
    decay: factor of the exponential and step schedules, in (0, 1].
    horizon: rounds of the cosine schedule.
    milestones: rounds at which the step schedule decays.
    optimizer: `sgd`, `momentum` or `adam`; its state is new every round.
    momentum: of `momentum`, in [0, 1).
    weight_decay: added to the gradient times the weights, >= 0.
    clip: whether to clip the gradient's global norm at `clip_norm`.
    clip_norm: largest global norm of a gradient, > 0.
    sam: whether gradients are taken at the worst point `rho` away (SAM).
    rho: that distance, >= 0.
    batch_size: examples a step.
    unit: what `amount` counts, `steps` or `epochs`.
    amount: local steps or epochs a round.
    last_batch: an epoch's short last batch is `masked` or `dropped`.
    partial_work: whether some clients, drawn anew each round, do only part of
      it: 1 to `amount` steps or epochs, each equally likely.
    stragglers: share of the clients that do, on average, in [0, 1].
  """

  learning_rate: float = 0.1
  schedule: str = 'constant'
  decay: float = 1.0
  horizon: int = 0
  milestones: tuple[int, ...] = ()
  optimizer: str = 'sgd'
  momentum: float = 0.9
  weight_decay: float = 0.0
  clip: bool = False
  clip_norm: float = 10.0
  sam: bool = False
  rho: float = 0.05
  batch_size: int = 32
  unit: str = 'steps'
  amount: int = 10
  last_batch: str = 'masked'
  partial_work: bool = False
  stragglers: float = 0.5


@traced
@dataclasses.dataclass
class Server:
  """How the server uses what arrives.

  Attributes:
    optimizer: `sgd`, `momentum`, `damped_momentum`, `adagrad`, `adam` or
      `yogi`, on the pseudo-gradient (server minus mean of clients).
    learning_rate: server step size; 1 with `sgd` is the plain average.
    momentum: of the two momentum optimizers, in [0, 1).
    b1: first-moment decay of the adaptive optimizers, in [0, 1).
    b2: second-moment decay of `adam` and `yogi`, in [0, 1).
    tau: added to the root of the second moment, > 0.
    v0: initial second moment, >= 0.
    bias_correction: divide moments by `1 - b ** t`; the paper does not.
    weights: clients count by `size` (n_k), `uniform`, or as in the paper of the
      `method`.
    reduction: how the clients' updates become one, `mean` or a rule of
      `fedjax_ls.robust.RULES`.
    byzantine: share of a cohort that may lie, which those rules allow for, in
      [0, 0.5).
  """

  optimizer: str = 'sgd'
  learning_rate: float = 1.0
  momentum: float = 0.9
  b1: float = 0.9
  b2: float = 0.99
  tau: float = 1e-3
  v0: float = 0.0
  bias_correction: bool = False
  weights: str = 'method'
  reduction: str = 'mean'
  byzantine: float = 0.2


@traced
@dataclasses.dataclass
class Loss:
  """What a client's loss has beside the model's own, under any method.

  Attributes:
    terms: terms that are added, of `fedjax_ls.losses.TERMS`.
    mu: weight of `proximal`, >= 0.
    decorrelation: weight of `decorrelation`, >= 0.
    decorrelation_scale: `paper` or `code`.
    calibration: how a client's labels change its logits in training, of
      `fedjax_ls.calibrations.CALIBRATIONS`.
    tau: margin of `fedlc`, >= 0.
    alpha: factor of absent classes of `fedrs` and `fedrs_graded`, in [0, 1].
  """

  terms: tuple[str, ...] = ()
  mu: float = 0.01
  decorrelation: float = 0.1
  decorrelation_scale: str = 'paper'
  calibration: str = 'none'
  tau: float = 1.0
  alpha: float = 0.5


@traced
@dataclasses.dataclass
class Sampler:
  """Who takes part in a round; each sampler reads some of the fields.

  Attributes:
    name: of `fedjax_ls.samplers.SAMPLERS`.
    cohort_size: clients a round, of all but `everyone`.
    candidates: clients among which `pow_d`, `cpow_d` and `rpow_d` choose, 0
      for all.
    size_exponent: e where clients are ranked by their loss times n_k^e.
    gradients: what `divfl` compares, `full` gradients, those of the `head` or
      a random `sketch`.
    sketch_size: numbers in such a sketch.
    refresh: whose gradients `divfl` renews, those of the `cohort`, or of
      `everyone` in each round.
    subset: clients among which a step of `divfl`'s greedy search chooses, at
      random; 0 for all.
    exploration: share of clients new to `oort` in its first round, in [0, 1].
    exploration_decay: factor of it from round to round, in (0, 1].
    exploration_floor: least share of new clients, in [0, 1].
    cutoff: how near to the last score in rank `oort` still chooses, in [0, 1].
    straggler_penalty: power with which slow clients lose score, >= 0.
    pacer_start: percentile of the clients' times that is not slow, in [0, 100].
    pacer_step: by how much it may rise, >= 0.
    pacer_window: rounds after which it may.
    tiers: tiers whose clients take part, () for all.
    dropout: probability that a chosen client drops out, in [0, 1].
    availability: an `.npz` with `available[T, C]`, who is there in each round,
      over and over, or `dropout[C]` in place of `dropout`, or both; empty for
      everyone.
  """

  name: str = 'everyone'
  cohort_size: int = 10
  candidates: int = 0
  size_exponent: float = 0.0
  gradients: str = 'full'
  sketch_size: int = 64
  refresh: str = 'cohort'
  subset: int = 0
  exploration: float = 0.9
  exploration_decay: float = 0.95
  exploration_floor: float = 0.2
  cutoff: float = 0.7
  straggler_penalty: float = 2.0
  pacer_start: float = 10.0
  pacer_step: float = 5.0
  pacer_window: int = 20
  tiers: tuple[int, ...] = ()
  dropout: float = 0.0
  availability: str = ''


@traced
@dataclasses.dataclass
class Uplink:
  """What a client's update goes through on its way to the server.

  Attributes:
    links: of `fedjax_ls.links.LINKS`, in that order; () to send the update
      as it is and count nothing.
    clip_norm: largest norm of an update after `clip`, > 0.
    noise: standard deviation of `noise`, in units of `clip_norm`, >= 0.
    keep: share of the entries that `top_k` sends, in (0, 1].
    levels: of `qsgd`, a whole number >= 1.
    per_layer: whether `top_k`, `qsgd` and `sign` treat each parameter array by
      itself and not the update as one vector.
    error_feedback: whether a client keeps what was lost and adds it to its
      next update.
  """

  links: tuple[str, ...] = ()
  clip_norm: float = 1.0
  noise: float = 0.0
  keep: float = 0.01
  levels: float = 1.0
  per_layer: bool = False
  error_feedback: bool = False


@traced
@dataclasses.dataclass
class Attack:
  """Clients that lie: the first ones of the population.

  Attributes:
    kind: `none`, `label_flip` (they learn class Y - 1 - y for class y) or
      `sign_flip` (they send their update times `-scale`).
    share: share of the clients that lie, rounded, in [0, 1].
    scale: of `sign_flip`, > 0.
  """

  kind: str = 'none'
  share: float = 0.2
  scale: float = 1.0


@traced
@dataclasses.dataclass
class Adversarial:
  """Training on attacked examples (PGD), and judging by them.

  Attributes:
    steps: of an attack, 0 for no attacks; BatchNorm is doubled if there are.
    share: of the attacked examples in the loss, in [0, 1].
    eps: largest change of a number of an image in [0, 1], > 0.
    mixes: shares of the attacked half of BatchNorm with which the model is
      judged, as decimals or fractions in [0, 1].
  """

  steps: int = 0
  share: float = 0.5
  eps: float = 8 / 255
  mixes: tuple[str, ...] = ('0', '1/2', '1')


class Hyper(NamedTuple):
  """All settings a round reads; `method` is the method's own dataclass."""

  client: Client
  server: Server
  method: Any
  loss: Loss = Loss()
  sampler: Sampler = Sampler()
  uplink: Uplink = Uplink()
  attack: Attack = Attack()
  adversarial: Adversarial = Adversarial()


def weights(server: Server, method: Any) -> str:
  """What clients count by, `size` or `uniform`.

  Args:
    server: its `weights`, if they are not `method`, say so.
    method: settings of the method, whose class may have `weights`; else n_k.

  >>> weights(Server(), None), weights(Server(weights='uniform'), None)
  ('size', 'uniform')
  """
  if server.weights != 'method':
    return server.weights
  return getattr(method, 'weights', 'size')


# How a part reads a number of its own from `Hyper`.
Number = Callable[[Any], jax.Array]


def learning_rate(client: Client, round: jax.Array) -> jax.Array:
  """The client learning rate of a round, traced in both arguments.

  Raises:
    ValueError: `client.schedule` is unknown.

  >>> float(learning_rate(Client(0.5, 'exponential', decay=0.5), 2))
  0.125
  """
  match client.schedule:
    case 'constant':
      factor = jnp.ones(())
    case 'exponential':
      factor = client.decay ** jnp.asarray(round, float)
    case 'cosine':
      share = jnp.minimum(round / client.horizon, 1.0)
      factor = 0.5 * (1.0 + jnp.cos(jnp.pi * share))
    case 'step':
      milestones = jnp.asarray(client.milestones, int)
      passed = jnp.sum(round >= milestones)
      factor = client.decay ** passed.astype(float)
    case _:
      raise ValueError(
        f'client.schedule is {client.schedule!r}; use constant, exponential, '
        'cosine or step.'
      )
  return client.learning_rate * factor
