"""FedDyn: every client's objective is regularized by its own history."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, rules, server, transforms
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.models.base import Model
from fedjax_ls.types import (
  Algorithm,
  Cohort,
  Ctx,
  Phase,
  Reduced,
  Upload,
  Weighted,
)

Tree = Any


class History(NamedTuple):
  """What the server keeps: the mean of all h_i, and the clients' mean size."""

  history: Tree
  mean_size: jax.Array


@traced
@dataclasses.dataclass
class FedDyn:
  """Numbers of FedDyn.

  Attributes:
    alpha: strength of the regularizer, >= 0; 0.01 in the authors' examples.
    form: `paper`, or `code`: each client's own strength, see `feddyn`.
  """

  weights: ClassVar = 'uniform'
  alpha: float = 0.01
  form: str = 'paper'


def feddyn(settings: FedDyn, parts: Parts) -> Algorithm:
  """Federated learning with dynamic regularization.

  With server model x, N clients in all, and the history h_i of client i, zero
  at first:

    y_i <- x, then K local steps on f_i(y) + (a_i / 2) |y - (x - h_i)|^2
    h_i <- h_i + y_i - x
    x   <- x + server step along mean_S (y_i - x) + (1/N) sum_N h_i

  `paper` has a_i = alpha.  In the paper's words, with g_i = -alpha h_i and
  h = -(alpha / N) sum_N h_i: a client minimizes
  f_i(y) - <g_i, y> + alpha/2 |y - x|^2, then g_i <- g_i - alpha (y_i - x), and
  x is mean_S y_i - h / alpha.  `code` has a_i = alpha n / (N n_i), n all
  examples, which weighs the clients' objectives by n_i in the end; and it
  clips the gradient, where that is asked for, before a_i y is added to it.
  For equal n_i, and unless it clips, it is the same.

  Args:
    settings: `form` is structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Each client keeps h_i, the size of the model, and the
    server the mean of all h_i.

  Raises:
    ValueError: `form` is unknown.

  References:
    Acar, Zhao, Matas, Mattina, Whatmough, Saligrama. Federated learning based
    on dynamic regularization. ICLR 2021.

  Differs from the authors' code in: it reports the mean of all clients' last
  models, here x is judged.  The mean of all h_i is uniform, whatever
  `server.weights` says of the models, and grows by the changes as they arrive,
  lossy after an uplink, where each client's own h_i grows by the exact one.
  """
  if settings.form not in ('paper', 'code'):
    raise ValueError(f'algorithm.form is {settings.form!r}; use paper or code.')

  paper = settings.form == 'paper'

  def strength(hyper: Hyper, ctx: Ctx):
    alpha = hyper.method.alpha
    return (
      alpha if paper else alpha * ctx.message.extra / jnp.maximum(ctx.size, 1)
    )

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    params, stats, _ = ctx.message
    anchor = optax.tree.sub(params, ctx.state)
    pull = optax.tree.scale(-strength(hyper, ctx), anchor)
    extra = {'anchor': anchor} if paper else {'control': pull}
    return Start(params, stats, extra=extra)

  def tx(hyper: Hyper, ctx: Ctx):
    alpha = strength(hyper, ctx)
    if paper:
      link = transforms.proximal(alpha)
      return optax.chain(link, local.optimizer(hyper, ctx))
    decay = hyper.client.weight_decay + alpha
    client = dataclasses.replace(hyper.client, weight_decay=decay)
    chain = local.optimizer(hyper._replace(client=client), ctx)
    return optax.chain(transforms.control_variate(), chain)

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    return remembered(ctx, local.upload_change(hyper, ctx, begin, end))

  def send(hyper: Hyper, state: server.ServerState, round) -> server.Message:
    return server.Message(state.params, state.stats, state.extra.mean_size)

  client = local.local_sgd(
    parts.model, tx=tx, start=start, finish=finish, unroll=parts.unroll
  )
  return Algorithm(
    init=init(parts.model),
    phases=(Phase(send, client, step, derive=history),),
    sampler=parts.sampler,
    model=server.global_model,
  )


def remembered(ctx: Ctx, upload: Upload) -> Upload:
  """The upload with the client's history grown by its change."""
  change = upload.summed['delta'].value
  return upload._replace(state=optax.tree.add(ctx.state, change))


def history(hyper: Hyper, ctx: Ctx, upload: Upload) -> dict[str, Weighted]:
  """`Phase.derive`: the change once more, for the server's history."""
  del hyper, ctx
  return {'history': Weighted(upload.summed['delta'].value, 1.0)}


def init(model: Model) -> Callable[..., tuple[server.ServerState, Tree]]:
  """`Algorithm.init`: no history yet, of the server and of the clients."""

  def without(hyper: Hyper, key, federation):
    state = server.start(model, hyper, key)
    zeros = optax.tree.zeros_like(state.params)
    extra = History(zeros, jnp.mean(federation.size.astype(float)))
    return state._replace(extra=extra), zeros

  return without


def step(
  hyper: Hyper,
  state: server.ServerState,
  reduced: Reduced,
  stacked: Tree,
  cohort: Cohort,
) -> server.ServerState:
  """`Phase.server`: a step along the mean change plus the mean history.

  Args:
    hyper: settings; reads `hyper.server`.
    state: with `History`.
    reduced: with `delta`, `stats` and `history`, the changes once more with
      weight 1.
    stacked: not read.
    cohort: says how many clients there are.
  """
  change = optax.tree.scale(1 / cohort.population, reduced.total['history'])
  history = optax.tree.add(state.extra.history, change)
  delta = optax.tree.add(reduced.mean['delta'], history)
  state = server.move(hyper, state, reduced, delta)
  return state._replace(extra=state.extra._replace(history=history))


METHOD = Method(
  name='feddyn',
  settings=FedDyn,
  build=feddyn,
  references=(
    'Acar, Zhao, Matas, Mattina, Whatmough, Saligrama. Federated learning '
    'based on dynamic regularization. ICLR 2021.',
  ),
  toy=FedDyn(alpha=0.5),
  # Without a regularizer, the first round goes twice as far as FedAvg: once
  # for the models, once for their history.
  identity=Identity(
    FedDyn(alpha=0.0),
    'fedavg',
    FedAvg(),
    server={'weights': 'uniform'},
    other_server={'learning_rate': 2.0},
    rounds=1,
  ),
  ranges={'alpha': rules.NOT_NEGATIVE},
)
