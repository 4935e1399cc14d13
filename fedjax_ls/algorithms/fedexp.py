"""FedExP: the server's step size follows from how the clients differ."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, learning_rate, traced
from fedjax_ls.local import End, Start
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Weighted

Tree = Any


@traced
@dataclasses.dataclass
class FedExP:
  """Numbers of FedExP.

  Attributes:
    eps: keeps the step size small where the mean change is small, > 0.
    form: `paper`, or `code`: eps follows cohort and learning rate.
    evaluates: which model is judged, the `mean` of the last two or the `last`.
  """

  eps: float = 1e-3
  form: str = 'paper'
  evaluates: str = 'mean'


class Past(NamedTuple):
  """What the server keeps: the model before the last round, and the round."""

  params: Tree
  round: jax.Array


def fedexp(settings: FedExP, parts: Parts) -> Algorithm:
  """Federated averaging with extrapolation.

  With server model x, local models y_k and weights w_k that sum to 1 over the
  cohort S:

    D_k <- y_k - x;   D <- sum_S w_k D_k
    x   <- x + max(1, sum_S w_k |D_k|^2 / (2 (|D|^2 + e))) D

  `paper` has e = eps.  `code` has e = |S| eps (a / a_0)^2 with the learning
  rates a of this round and a_0 of the first.  As x tends to jump to and fro,
  `mean` judges the mean of x and the x before.

  Args:
    settings: `form` and `evaluates` are structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  Raises:
    ValueError: `form` or `evaluates` is unknown.

  References:
    Jhunjhunwala, Wang, Joshi. FedExP: speeding up federated averaging via
    extrapolation. ICLR 2023.

  Differs from the authors' code in: clients count by `server.weights`;
  statistics of BatchNorm are averaged as they are and enter no norm.
  """
  _known('form', settings.form, ('paper', 'code'))
  _known('evaluates', settings.evaluates, ('mean', 'last'))

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    upload = local.upload_change(hyper, ctx, begin, end)
    change, weight = upload.summed['delta']
    square = optax.tree.norm(change, squared=True)
    own = {
      'square': Weighted(square, weight),
      'count': Weighted(jnp.ones(()), 1.0),
    }
    return upload._replace(summed=upload.summed | own)

  def send(hyper: Hyper, state: server.ServerState, round) -> server.Message:
    return server.Message(state.params, state.stats)

  def damping(hyper: Hyper, count, round):
    if settings.form == 'paper':
      return hyper.method.eps
    first = learning_rate(hyper.client, jnp.zeros_like(round))
    decay = learning_rate(hyper.client, round) / first
    return hyper.method.eps * count * decay**2

  def step(hyper: Hyper, state, reduced, stacked, cohort):
    past, mean = state.extra, reduced.mean
    e = damping(hyper, reduced.total['count'], past.round)
    size = step_size(mean['square'], mean['delta'], e)
    moved = server.move(
      hyper, state, reduced, optax.tree.scale(size, mean['delta'])
    )
    # The initial model is no iterate.
    before = jax.tree.map(
      lambda old, new: jnp.where(past.round > 0, old, new),
      state.params,
      moved.params,
    )
    return moved._replace(extra=Past(before, past.round + 1))

  def judged(state: server.ServerState) -> tuple[Tree, Tree]:
    if settings.evaluates == 'last':
      return server.global_model(state)
    both = optax.tree.add(state.params, state.extra.params)
    return optax.tree.scale(0.5, both), state.stats

  def init(hyper: Hyper, key, federation):
    state = server.start(parts.model, hyper, key)
    past = Past(state.params, jnp.zeros((), jnp.int32))
    return state._replace(extra=past), ()

  client = local.local_sgd(parts.model, finish=finish, unroll=parts.unroll)
  return Algorithm(
    init=init,
    phases=(Phase(send, client, step),),
    sampler=parts.sampler,
    model=judged,
  )


def step_size(square, delta: Tree, e) -> jax.Array:
  """max(1, square / (2 (|delta|^2 + e))), 1 where nothing moved.

  Args:
    square: mean of the squared norms of the clients' changes.
    delta: mean of the changes.
    e: >= 0.

  >>> print(step_size(4.0, jnp.array([0.5, 0.0]), 0.25))
  4.0
  """
  below = 2 * (optax.tree.norm(delta, squared=True) + e)
  return jnp.maximum(1, square / jnp.where(below > 0, below, jnp.inf))


def _known(field: str, value: str, names: tuple[str, ...]) -> None:
  if value not in names:
    raise ValueError(
      f'algorithm.{field} is {value!r}; use {" or ".join(names)}.'
    )


def _check(config) -> None:
  for field, needed in (('optimizer', 'sgd'), ('learning_rate', 1.0)):
    value = getattr(config.server, field)
    if value != needed:
      raise ValueError(
        f'server.{field} = {value!r} does not fit method fedexp, which chooses '
        f'the server step itself; use {needed}'
      )


METHOD = Method(
  name='fedexp',
  settings=FedExP,
  build=fedexp,
  references=(
    'Jhunjhunwala, Wang, Joshi. FedExP: speeding up federated averaging via '
    'extrapolation. ICLR 2023.',
  ),
  toy=FedExP(),
  # Far below eps the step is 1.
  identity=Identity(FedExP(eps=1e9), 'fedavg', FedAvg()),
  ranges={'eps': rules.POSITIVE},
  check=_check,
)
