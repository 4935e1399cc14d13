"""FedBN: FedAvg in which every client keeps its own BatchNorm."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_ls import local, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.cost import Traffic, one_model
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.models.batch_stats import batch_norm_params
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Weighted

Tree = Any


@traced
@dataclasses.dataclass
class FedBN:
  """FedBN has no numbers of its own."""


class Own(NamedTuple):
  """What a client keeps.

  Attributes:
    params: scale and bias of the BatchNorm layers; None in place of all other
      parameters.
    stats: running statistics.
  """

  params: Tree
  stats: Tree


def fedbn(settings: FedBN, parts: Parts) -> Algorithm:
  """Federated averaging of everything but BatchNorm.

  With b_k the scale, bias and running statistics of client k's BatchNorm
  layers and x all other parameters:

    (y_k, b_k) <- (x, b_k), then K local steps
    x          <- x + server step along sum_S w_k (y_k - x) / sum_S w_k

  Nothing of b_k is ever averaged; all clients start with the same.  A client
  is judged by (x, b_k), its own model; the server's copy of the BatchNorm
  layers stays as it was initialized.

  Args:
    settings: none.
    parts: model and sampler.

  Returns:
    The algorithm.  Each client keeps b_k.

  References:
    Li, Jiang, Zhang, Kamp, Dou. FedBN: federated learning on non-IID features
    via local batch normalization. ICLR 2021.

  Differs from the authors' code in: clients count by `server.weights`,
  `uniform` being theirs.
  """
  del settings

  def joined(ctx: Ctx) -> tuple[Tree, Tree]:
    """The server's parameters with the client's BatchNorm layers."""
    params = jax.tree.map(
      lambda shared, own: shared if own is None else own,
      ctx.message.params,
      ctx.state.params,
      is_leaf=lambda leaf: leaf is None,
    )
    return params, ctx.state.stats

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    return Start(*joined(ctx))

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    upload = local.upload_change(hyper, ctx, begin, end)
    change, stats = upload.summed['delta'], upload.summed['stats']
    local_part = batch_norm_params(end.params, end.stats)
    shared = jax.tree.map(
      lambda own: jnp.where(own, 0.0, change.weight), local_part
    )
    return upload._replace(
      summed={
        'delta': Weighted(change.value, shared),
        'stats': Weighted(stats.value, 0.0),
      },
      state=kept(end.params, end.stats),
    )

  def init(hyper: Hyper, key, federation):
    state = server.start(parts.model, hyper, key)
    return state, kept(state.params, state.stats)

  client = local.local_sgd(
    parts.model, start=start, finish=finish, unroll=parts.unroll
  )
  return Algorithm(
    init=init,
    phases=(Phase(server.send, client, server.step),),
    sampler=parts.sampler,
    model=server.global_model,
    personal=lambda hyper, ctx: joined(ctx),
  )


def kept(params: Tree, stats: Tree) -> Own:
  """The part of a model that stays with the client."""
  local_part = batch_norm_params(params, stats)
  return Own(
    jax.tree.map(lambda own, p: p if own else None, local_part, params), stats
  )


def traffic(settings: FedBN, tier: int, params: Tree, stats: Tree) -> Traffic:
  """All but BatchNorm."""
  local_part = batch_norm_params(params, stats)
  pairs = zip(*map(jax.tree.leaves, (local_part, params)), strict=True)
  shared = [leaf for own, leaf in pairs if not own]
  return one_model(settings, tier, shared, ())


METHOD = Method(
  name='fedbn',
  settings=FedBN,
  build=fedbn,
  references=(
    'Li, Jiang, Zhang, Kamp, Dou. FedBN: federated learning on non-IID '
    'features via local batch normalization. ICLR 2021.',
  ),
  toy=FedBN(),
  # Without BatchNorm nothing is local.
  identity=Identity(FedBN(), 'fedavg', FedAvg()),
  traffic=traffic,
)
