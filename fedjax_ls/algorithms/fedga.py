"""FedGA and GradAlign: gradients taken at displaced models."""

import dataclasses
import functools

import optax

from fedjax_ls import local, rules, server, transforms
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.cost import and_a_tree
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import Start
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Weighted


@traced
@dataclasses.dataclass
class FedGA:
  """Numbers of FedGA.

  Attributes:
    beta: length of the displacement along g_i - g, >= 0.  The authors' EMNIST
      example has half the client learning rate, 0.025; with K local steps at
      learning rate a, a (K - 1) / 2 cancels what these add to the spread of
      the gradients, and more than that takes from it.
    displace: what is displaced, the `model` (once, at the start of the round)
      or the point of every local `gradient` (GradAlign).
  """

  beta: float = 0.025
  displace: str = 'model'


def fedga(settings: FedGA, parts: Parts) -> Algorithm:
  """Implicit gradient alignment in federated learning.

  Two exchanges a round.  With server model x, cohort S, weights w_i:

    g_i <- grad f_i(x) over all examples;   g <- weighted mean of g_i over S
    v_i <- -beta (g - g_i)
    y_i <- x + v_i,  then K steps  y_i <- y_i - a grad f_i(y_i)       (model)
    y_i <- x,  then K steps  y_i <- y_i - a grad f_i(y_i + v_i)    (gradient)
    x   <- x + server step along the weighted mean of y_i - x

  The displacements cancel in the mean because both exchanges use the same
  weights.  With one SGD step both are GradAlign: the mean gradient is that of
  f + (beta / 2) (weighted mean of |g_i - g|^2) up to O(beta^2).

  Args:
    settings: `displace` is structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state; g_i lives within the round.

  Raises:
    ValueError: `displace` is unknown.

  References:
    Dandi, Barba, Jaggi. Implicit gradient alignment in distributed and
    federated learning. AAAI 2022.

  Differs from the authors' code in: there g is weighted by n_i and the models
  uniformly, which leaves a rest of the displacements for unequal n_i; here
  `server.weights` serves both.  g_i is always of all examples, there at most
  of `fg_batch_size`.  Statistics of BatchNorm are averaged here, there not.
  beta stays as it is when the learning rate decays, as in their last version
  (an earlier one decayed both).  As there, weight decay enters the local steps
  but not g and g_i.  With `gradient` and several steps v_i is that of the
  start of the round at each of them; GradAlign, which takes one step, has a
  new one.
  """
  if settings.displace not in ('model', 'gradient'):
    raise ValueError(
      f'algorithm.displace is {settings.displace!r}; use model or gradient.'
    )
  model = parts.model

  def gradient(hyper: Hyper, ctx: Ctx) -> Upload:
    params, stats = ctx.message.params, ctx.message.stats
    own, _ = local.full_gradient(model, hyper, ctx, params, stats)
    weight = server.client_weight(hyper, ctx)
    return Upload({'gradient': Weighted(own, weight)}, carry=own)

  def keep_gradient(hyper, state, reduced, stacked, cohort):
    return state._replace(extra=reduced.mean['gradient'])

  def displacement(hyper: Hyper, ctx: Ctx):
    gap = optax.tree.sub(ctx.carry, ctx.message.extra)
    return optax.tree.scale(hyper.method.beta, gap)

  def displaced(hyper: Hyper, ctx: Ctx) -> Start:
    x, v = ctx.message.params, displacement(hyper, ctx)
    return Start(optax.tree.add(x, v), ctx.message.stats, anchor=x)

  def undisplaced(hyper: Hyper, ctx: Ctx) -> Start:
    extra = {'displacement': displacement(hyper, ctx)}
    return Start(ctx.message.params, ctx.message.stats, extra)

  def aligned(hyper: Hyper, ctx: Ctx) -> optax.GradientTransformation:
    return optax.chain(transforms.grad_align(), local.optimizer(hyper, ctx))

  def init(hyper: Hyper, key, federation):
    state = server.start(model, hyper, key)
    return state._replace(extra=optax.tree.zeros_like(state.params)), ()

  build = functools.partial(local.local_sgd, model, unroll=parts.unroll)
  if settings.displace == 'model':
    client = build(start=displaced)
  else:
    client = build(start=undisplaced, tx=aligned)
  return Algorithm(
    init=init,
    phases=(
      Phase(server.send, gradient, keep_gradient),
      Phase(server.send, client, server.step),
    ),
    sampler=parts.sampler,
    model=server.global_model,
  )


def _check(config) -> None:
  if config.client.sam and config.algorithm.displace == 'gradient':
    raise ValueError(
      'client.sam = True and algorithm.displace = gradient both choose the '
      'point of the gradient; set one of them off'
    )


METHOD = Method(
  name='fedga',
  settings=FedGA,
  build=fedga,
  references=(
    'Dandi, Barba, Jaggi. Implicit gradient alignment in distributed and '
    'federated learning. AAAI 2022.',
  ),
  toy=FedGA(beta=0.05),
  identity=Identity(FedGA(beta=0.0), 'fedavg', FedAvg()),
  ranges={'beta': rules.NOT_NEGATIVE},
  check=_check,
  # The gradients.
  traffic=and_a_tree,
)
