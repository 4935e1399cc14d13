"""SCAFFOLD: control variates against client drift."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, server, transforms
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.cost import and_a_tree
from fedjax_ls.hyper import Hyper, learning_rate, traced
from fedjax_ls.local import End, Start
from fedjax_ls.types import (
  Algorithm,
  Cohort,
  Ctx,
  Phase,
  Reduced,
  Upload,
  Weighted,
)


@traced
@dataclasses.dataclass
class Scaffold:
  """Numbers of SCAFFOLD.

  Attributes:
    option: how a client renews its control variate, `local_steps` (II: from
      its local steps) or `gradient` (I: its full gradient at the server
      model, one more pass over its data).
  """

  weights: ClassVar = 'uniform'
  option: str = 'local_steps'


def scaffold(settings: Scaffold, parts: Parts) -> Algorithm:
  """Stochastic controlled averaging.

  With server model x, control variates c (server) and c_i (clients), all
  zero at first, K_i local steps at learning rate a, and N clients in all:

    y_i  <- y_i - a (grad f_i(y_i) - c_i + c)
    c_i+ <- c_i - c + (x - y_i) / (K_i a)     (II),  grad f_i(x)  (I)
    x    <- x + server step along the weighted mean of y_i - x
    c    <- c + (1/N) sum_S (c_i+ - c_i)

  so that c stays the mean of all c_i.  K_i counts the steps actually taken
  and a is the learning rate of this round; where K_i a = 0, c_i stays (II).

  Args:
    settings: `option` is structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Each client keeps c_i, the size of the model.

  Raises:
    ValueError: `option` is unknown.

  References:
    Karimireddy et al. SCAFFOLD: stochastic controlled averaging for federated
    learning. ICML 2020.

  Differs from the paper in: under momentum, clipping or weight decay of the
  client, option II takes the mean step for a gradient.

  Differs from the authors' code in: it was not at hand.  Others' code weighs
  the controls by the clients' data (FedDyn's), starts c at a random network
  and counts BatchNorm's statistics into it (NIID-Bench), takes the mean change
  over S and not over N (FedRS's) or never updates c (the LN paper's).
  """
  if settings.option not in ('local_steps', 'gradient'):
    raise ValueError(
      f'algorithm.option is {settings.option!r}; use local_steps or gradient.'
    )

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    control = optax.tree.sub(ctx.message.extra, ctx.state)
    return Start(
      ctx.message.params, ctx.message.stats, extra={'control': control}
    )

  def renewed(hyper: Hyper, ctx: Ctx, end: End):
    x = ctx.message.params
    if settings.option == 'gradient':
      stats = ctx.message.stats
      return local.full_gradient(parts.model, hyper, ctx, x, stats)[0]
    moved = end.steps * learning_rate(hyper.client, ctx.round)
    scale = jnp.where(moved > 0, 1 / jnp.where(moved > 0, moved, 1), 0)
    return jax.tree.map(
      lambda ci, c, x, y: jnp.where(
        moved > 0, ci - c + (x - y) * scale.astype(x.dtype), ci
      ),
      ctx.state,
      ctx.message.extra,
      x,
      end.params,
    )

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    upload = local.upload_change(hyper, ctx, begin, end)
    control = renewed(hyper, ctx, end)
    change = Weighted(optax.tree.sub(control, ctx.state), 1.0)
    return upload._replace(
      summed=upload.summed | {'control': change}, state=control
    )

  def tx(hyper: Hyper, ctx: Ctx):
    chain = local.optimizer(hyper, ctx)
    return optax.chain(transforms.control_variate(), chain)

  def step(
    hyper: Hyper, state, reduced: Reduced, stacked, cohort: Cohort
  ) -> server.ServerState:
    change = optax.tree.scale(1 / cohort.population, reduced.total['control'])
    state = server.step(hyper, state, reduced, stacked, cohort)
    return state._replace(extra=optax.tree.add(state.extra, change))

  def init(hyper: Hyper, key, federation):
    state = server.start(parts.model, hyper, key)
    zeros = optax.tree.zeros_like(state.params)
    return state._replace(extra=zeros), zeros

  client = local.local_sgd(
    parts.model, tx=tx, start=start, finish=finish, unroll=parts.unroll
  )
  return Algorithm(
    init=init,
    phases=(Phase(server.send, client, step),),
    sampler=parts.sampler,
    model=server.global_model,
  )


METHOD = Method(
  name='scaffold',
  settings=Scaffold,
  build=scaffold,
  references=(
    'Karimireddy et al. SCAFFOLD: stochastic controlled averaging for '
    'federated learning. ICML 2020.',
  ),
  toy=Scaffold(),
  # With one step, everybody taking part and equal weights, the control
  # variates cancel in the mean.
  identity=Identity(
    Scaffold(),
    'fedavg',
    FedAvg(),
    client={'unit': 'steps', 'amount': 1},
    server={'weights': 'uniform'},
  ),
  # The control variates.
  traffic=and_a_tree,
  adversarial=True,
)
