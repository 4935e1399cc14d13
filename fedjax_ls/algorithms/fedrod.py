"""FedROD: a generic head that is averaged and a personal head that is not."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts, has_calibration
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.losses import Term, View, masked_mean
from fedjax_ls.models.base import Model
from fedjax_ls.types import Algorithm, Ctx, Phase, Trained, Upload

Tree = Any


@traced
@dataclasses.dataclass
class FedROD:
  """Numbers of FedROD.

  Attributes:
    gamma: strength of the balanced softmax, >= 0; 1 is the class frequencies.
  """

  gamma: float = 1.0


class Heads(NamedTuple):
  """What a client trains: the generic model, and its own head P."""

  generic: Tree
  personal: Tree


def fedrod(settings: FedROD, parts: Parts) -> Algorithm:
  """Federated robust decoupling: one body, two heads.

  Let z be the features, G(z) the logits of the classifier, P_k a second one of
  client k, zero at first, and n_kc its examples of class c.  A client starts
  at the server's model x and takes local steps on

    CE(G(z)_c + gamma log n_kc) + CE(stop(G(z)) + P_k(stop(z)))

  where stop(.) passes no gradient: the first term trains body and G, the
  second P_k.  Classes that the client lacks get no logit in the first term
  (for gamma = 0 they do).  The server averages body and G; P_k stays.

  A client is judged by G + P_k, and the generic model by G alone (the metrics
  `global_...`), neither with the margins of training.

  Args:
    settings: none is read here; `gamma` comes with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Each client keeps P_k.

  Raises:
    ValueError: the network has no linear layer `classifier`.

  References:
    Chen, Chao. On bridging generic and personalized federated learning for
    image classification. ICLR 2022.

  Differs from third parties' code (the authors released none) in: P_k starts
  at 0, not at G; clipping takes the norm of either term's gradient.  The
  paper's heads from a hypernetwork are not here.
  """
  del settings
  _linear_classifier(parts.model)

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    return Start(Heads(ctx.message.params, ctx.state), ctx.message.stats)

  def tx(hyper: Hyper, ctx: Ctx):
    chain = local.optimizer(hyper, ctx)
    chains = {'generic': chain, 'personal': chain}
    return optax.partition(chains, Heads('generic', 'personal'))

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    generic, personal = end.params
    end = end._replace(params=generic)
    upload = local.upload_change(hyper, ctx, begin, end)
    return upload._replace(state=personal)

  def personal(hyper: Hyper, ctx: Ctx) -> tuple[Tree, Tree]:
    params, stats = ctx.message.params, ctx.message.stats
    head = optax.tree.add(params['classifier'], ctx.state)
    return {**params, 'classifier': head}, stats

  def init(hyper: Hyper, key, federation):
    state = server.start(parts.model, hyper, key)
    return state, optax.tree.zeros_like(state.params['classifier'])

  def apply(params: Heads, *args, **options):
    return parts.model.apply(params.generic, *args, **options)

  both = local.local_sgd(
    parts.model._replace(apply=apply),
    terms=(personal_loss(parts.model),),
    calibrate=balanced,
    tx=tx,
    start=start,
    finish=finish,
    unroll=parts.unroll,
  )

  def client(hyper: Hyper, ctx: Ctx) -> Upload:
    upload = both(hyper, ctx)
    return upload._replace(trained=_generic(upload.trained))

  return Algorithm(
    init=init,
    phases=(Phase(server.send, client, server.step),),
    sampler=parts.sampler,
    model=server.global_model,
    personal=personal,
    judges_global=True,
  )


def balanced(hyper: Hyper, labels: jax.Array, logits: jax.Array) -> jax.Array:
  """logits + gamma log n_c; -inf where n_c = 0 < gamma.

  Args:
    hyper: has `gamma`.
    labels: `[Y]` examples n_c of each class.
    logits: `[..., Y]`.
  """
  gamma = hyper.method.gamma
  margin = gamma * jnp.log(jnp.maximum(labels, 1).astype(logits.dtype))
  # A client without rows has no class, and all logits at -inf give NaN.
  # (A dead slot has the counts of the last client.)
  absent = (labels == 0) & (jnp.sum(labels) > 0)
  margin = jnp.where(absent & (gamma > 0), -jnp.inf, margin)
  return logits + margin.reshape((1,) * (logits.ndim - 1) + (-1,))


def personal_loss(model: Model) -> Term:
  """The loss of G + P_k, through P_k alone."""

  def term(hyper: Hyper, view: View) -> jax.Array:
    generic = view.params.generic['classifier']
    frozen = jax.lax.stop_gradient((generic, view.outputs.features))
    head = optax.tree.add(frozen[0], view.params.personal)
    # The logits in `view` have the margins of training.
    logits = frozen[1] @ head['kernel']
    if 'bias' in head:
      logits = logits + head['bias'].reshape((1,) * (logits.ndim - 1) + (-1,))
    outputs = view.outputs._replace(logits=logits)
    return masked_mean(model.loss(outputs, view.y), view.mask)

  return term


def _generic(trained: Trained | None) -> Trained | None:
  """What local training made of the generic model, for diagnostics."""
  if trained is None:
    return None
  (before, old), (after, new), width = trained
  return Trained((before.generic, old), (after.generic, new), width)


def _linear_classifier(model: Model) -> None:
  params, _ = jax.eval_shape(model.init, jax.random.key(0))
  head = params.get('classifier', {}) if isinstance(params, dict) else {}
  kernel = head.get('kernel')
  if kernel is None or kernel.ndim != 2 or not set(head) <= {'kernel', 'bias'}:
    raise ValueError(
      "method 'fedrod' needs a network that ends in an nn.Dense named "
      "'classifier' but this one does not; name it so or use another method"
    )


METHOD = Method(
  name='fedrod',
  settings=FedROD,
  build=fedrod,
  references=(
    'Chen, Chao. On bridging generic and personalized federated learning for '
    'image classification. ICLR 2022.',
  ),
  toy=FedROD(),
  # The personal heads never reach the generic model.
  identity=Identity(FedROD(gamma=0.0), 'fedavg', FedAvg()),
  ranges={'gamma': rules.NOT_NEGATIVE},
  check=has_calibration,
)
