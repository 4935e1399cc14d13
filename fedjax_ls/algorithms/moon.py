"""MOON: features like the global model's, unlike the client's last ones."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_ls import local, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.losses import Term, View, masked_mean
from fedjax_ls.models.base import Model
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload

Tree = Any


@traced
@dataclasses.dataclass
class Moon:
  """Numbers of MOON.

  Attributes:
    mu: weight of the contrastive term, >= 0; the authors tune it, 5 for
      CIFAR-10.
    tau: temperature, > 0.
  """

  mu: float = 1.0
  tau: float = 0.5


class Previous(NamedTuple):
  """What a client keeps: its last local model, and whether there is one."""

  params: Tree
  stats: Tree
  there: jax.Array


def moon(settings: Moon, parts: Parts) -> Algorithm:
  """Model-contrastive federated learning.

  For an example let z be the features of the local model y_k, z_g those of
  the received model x and z_p those of the client's previous local model,
  both frozen and in evaluation mode.  A client takes local steps on

    f_k(y) + mu mean(-log(e^(cos(z, z_g) / tau)
                          / (e^(cos(z, z_g) / tau) + e^(cos(z, z_p) / tau))))

  and keeps y_k; the server averages.  The first time that a client takes part
  the second term is 0.

  The paper's features are the outputs of a projector, linear layers of d and
  256 for the d inputs of the classifier: `model.projector = (d, 256)` with
  `use_bias`.  A step runs the network three times.

  Args:
    settings: none is read here; the numbers come with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Each client keeps its last model.

  References:
    Li, He, Song. Model-contrastive federated learning. CVPR 2021.

  Differs from the authors' code in: a batch's padding does not count.
  """
  del settings

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    upload = local.upload_change(hyper, ctx, begin, end)
    there = jnp.ones_like(ctx.state.there)
    return upload._replace(state=Previous(end.params, end.stats, there))

  def init(hyper: Hyper, key, federation):
    state = server.start(parts.model, hyper, key)
    return state, Previous(state.params, state.stats, jnp.zeros((), bool))

  client = local.local_sgd(
    parts.model,
    terms=(contrastive(parts.model),),
    finish=finish,
    unroll=parts.unroll,
  )
  return Algorithm(
    init=init,
    phases=(Phase(server.send, client, server.step),),
    sampler=parts.sampler,
    model=server.global_model,
  )


def contrastive(model: Model) -> Term:
  """The second term of MOON's objective, for clients that keep `Previous`."""

  def term(hyper: Hyper, view: View) -> jax.Array:
    previous = view.ctx.state

    def features(params, stats):
      return model.apply(params, stats, view.x, mask=view.mask)[0].features

    z = view.outputs.features
    received = features(view.anchor, view.ctx.message.stats)
    gap = cosine(z, features(previous.params, previous.stats))
    gap = gap - cosine(z, received)
    values = jax.nn.softplus(gap / hyper.method.tau)
    values = values.reshape(len(values), -1).mean(1)
    value = hyper.method.mu * masked_mean(values, view.mask)
    return jnp.where(previous.there, value, 0)

  return term


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
  """Cosine of the angles of `a` and `b`, `[..., D]`.

  It is 0 where one of them is 0, and so is its gradient for that one.

  >>> print(cosine(jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])))
  0.8
  """

  def unit(v):
    # Features of ReLU networks may be all 0; the gradient is 0 there, and not
    # what the smallest length allows.
    square = jnp.sum(v * v, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.maximum(square, 1e-16))
    return v * jnp.where(square > 0, inverse, 0)

  return jnp.sum(unit(a) * unit(b), -1)


METHOD = Method(
  name='moon',
  settings=Moon,
  build=moon,
  references=(
    'Li, He, Song. Model-contrastive federated learning. CVPR 2021.',
  ),
  toy=Moon(mu=0.2),
  identity=Identity(Moon(mu=0.0), 'fedavg', FedAvg()),
  ranges={'mu': rules.NOT_NEGATIVE, 'tau': rules.POSITIVE},
)
