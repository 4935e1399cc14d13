"""FedGA: gradient alignment by a displacement at the start of the round."""

import dataclasses

import jax
import optax

from fedjax_ls import local, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import Start
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Weighted


@traced
@dataclasses.dataclass
class FedGA:
  """Numbers of FedGA.

  Attributes:
    beta: length of the displacement along g_i - g, >= 0; half the client
      learning rate in the authors' examples.
  """

  beta: float = 0.025


def fedga(settings: FedGA, parts: Parts) -> Algorithm:
  """Implicit gradient alignment in federated learning.

  Two exchanges a round.  With server model x, cohort S, weights w_i:

    g_i <- grad f_i(x) over all examples;   g <- weighted mean of g_i over S
    y_i <- x - beta (g - g_i),  then K local SGD steps on f_i
    x   <- x + server step along the weighted mean of y_i - x

  The displacements cancel in the mean because both exchanges use the same
  weights.  One local step is GradAlign.

  Args:
    settings: none is read here; `beta` comes with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state; g_i lives within the round.

  References:
    Dandi, Barba, Jaggi. Implicit gradient alignment in distributed and
    federated learning. AAAI 2022.

  Differs from the authors' code in: there g is weighted by n_i and the models
  uniformly, which leaves a rest of the displacements for unequal n_i; here
  `server.weights` serves both.  As there, weight decay enters the local steps
  but not g and g_i.
  """
  del settings
  model = parts.model

  def gradient(hyper: Hyper, ctx: Ctx) -> Upload:
    params, stats = ctx.message.params, ctx.message.stats
    own, _ = local.full_gradient(model, hyper, ctx, params, stats)
    weight = server.client_weight(hyper, ctx)
    return Upload({'gradient': Weighted(own, weight)}, carry=own)

  def keep_gradient(hyper, state, reduced, stacked, cohort):
    return state._replace(extra=reduced.mean['gradient'])

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    displaced = jax.tree.map(
      lambda x, g, own: x - hyper.method.beta * (g - own),
      ctx.message.params,
      ctx.message.extra,
      ctx.carry,
    )
    x = ctx.message.params
    return Start(displaced, ctx.message.stats, anchor=x)

  def init(hyper: Hyper, key, federation):
    state = server.start(model, hyper, key)
    return state._replace(extra=optax.tree.zeros_like(state.params)), ()

  client = local.local_sgd(model, start=start, unroll=parts.unroll)
  return Algorithm(
    init=init,
    phases=(
      Phase(server.send, gradient, keep_gradient),
      Phase(server.send, client, server.step),
    ),
    sampler=parts.sampler,
    model=server.global_model,
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
)
