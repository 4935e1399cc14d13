"""Clients that train the channels of their tier.

Two clients that do the same: one trains the whole network under masks, so
that clients of any tiers run side by side under `vmap`; the other chooses the
small network of its tier by `lax.switch`, which is cheaper where clients run
one at a time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, server, transforms
from fedjax_ls.algorithms.base import Parts
from fedjax_ls.calibrations import Calibration
from fedjax_ls.hyper import Hyper
from fedjax_ls.local import End, Start
from fedjax_ls.models.base import Width
from fedjax_ls.models.submodels import (
  Submodels,
  exact_rates,
  grow,
  with_module,
)
from fedjax_ls.types import Ctx, Phase, Upload, Weighted

Tree = Any
Client = Callable[[Hyper, Ctx], Upload]
Weigh = Callable[[Hyper, Ctx, Tree], Tree]


def submodels_of(rates: Sequence[str], parts: Parts) -> Submodels:
  """The submodels of `parts`, which must have these rates.

  Raises:
    ValueError: there are none, or they have other rates.
  """
  submodels = parts.submodels
  if submodels is None:
    raise ValueError(
      f'algorithm.rates is {rates} but the model has no submodels; '
      'use a network of fedjax_ls.models.'
    )
  if exact_rates(rates, 'algorithm.rates') != submodels.rates:
    theirs = tuple(str(rate) for rate in submodels.rates)
    raise ValueError(
      f'algorithm.rates = {rates} but the submodels have {theirs}; '
      f'use rates={theirs}'
    )
  return submodels


def check_full_width(rates: Sequence[str]) -> None:
  """Refuses rates without a 1: evaluation is of the whole network.

  Raises:
    ValueError: there is none.
  """
  if 1 not in exact_rates(rates, 'algorithm.rates'):
    raise ValueError(
      f'algorithm.rates = {rates} has no 1, so that nobody trains the whole '
      'network that is judged; use a smaller network and rates relative to it'
    )


def phase(
  parts: Parts,
  submodels: Submodels,
  *,
  scaler: bool = False,
  calibrate: Calibration | None = None,
  weigh: Weigh | None = None,
) -> Phase:
  """Local SGD on the channels of one's tier, averaged by holders.

  Args:
    parts: model and submodels.
    submodels: one a tier.
    scaler: whether hidden layers' outputs are divided by the tier's rate in
      training.
    calibrate: the method's own calibration of the logits.
    weigh: `(hyper, ctx, weights) -> weights` changes what the elements of a
      client's parameters count for; `weights` is a tree like its parameters.

  Returns:
    The only phase of a round.
  """
  weigh = weigh or (lambda hyper, ctx, weights: weights)
  train = partial(local.local_sgd, calibrate=calibrate, unroll=parts.unroll)
  module = submodels.full
  if scaler:
    module = module.clone(scaler=Width(1, 1))

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    return Start(
      ctx.message.params,
      ctx.message.stats,
      extra={'mask': submodels.mask(ctx.tier)},
      width=submodels.width(ctx.tier),
    )

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    weight = server.client_weight(hyper, ctx)

    def held(mask):
      return jax.tree.map(lambda m: weight * m, mask)

    return weighed(
      local.upload_change(hyper, ctx, begin, end),
      weigh(hyper, ctx, held(begin.extra['mask'])),
      held(submodels.stats_mask(ctx.tier)),
    )

  def finish_small(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    weight = server.client_weight(hyper, ctx)
    upload = local.upload_change(hyper, ctx, begin, end)
    own = jax.tree.map(lambda p: jnp.broadcast_to(weight, p.shape), end.params)
    return weighed(upload, weigh(hyper, ctx, own), weight)

  def small(tier: int) -> Client:
    module = submodels.module(tier)
    if scaler:
      rate = submodels.rates[tier]
      module = module.clone(scaler=Width(rate.numerator, rate.denominator))
    return train(with_module(parts.model, module), finish=finish_small)

  full = with_module(parts.model, module)
  masked = train(full, tx=masked_optimizer, start=start, finish=finish)
  branching = by_tier(submodels, small)

  def alone(hyper: Hyper, ctx: Ctx) -> Upload:
    # Decorrelation counts the features, which a mask leaves in place.
    same = 'decorrelation' not in hyper.loss.terms
    return (branching if same else masked)(hyper, ctx)

  return Phase(
    server.send,
    masked,
    server.step,
    alone=None if submodels.random else alone,
  )


def masked_optimizer(hyper: Hyper, ctx: Ctx) -> optax.GradientTransformation:
  """The client optimizer, its update cut to what the client holds."""
  # Last: weight decay and momentum move what has no gradient.
  return optax.chain(local.optimizer(hyper, ctx), transforms.masked_update())


def weighed(upload: Upload, delta: Tree, stats: Tree) -> Upload:
  """The upload with the weights of its elements."""
  values = {name: upload.summed[name].value for name in ('delta', 'stats')}
  return upload._replace(
    summed={
      'delta': Weighted(values['delta'], delta),
      'stats': Weighted(values['stats'], stats),
    }
  )


def by_tier(submodels: Submodels, client: Callable[[int], Client]) -> Client:
  """One client that branches to that of its tier.

  Args:
    submodels: one a tier.
    client: `client(tier)` trains small arrays, and uploads such: the
      statistics, and changes and states like the parameters.

  Returns:
    A client that receives and uploads whole ones.
  """

  def branch(tier: int) -> Client:
    one = client(tier)

    def run(hyper: Hyper, ctx: Ctx) -> Upload:
      message = ctx.message._replace(
        params=submodels.slim(ctx.message.params, tier),
        stats=submodels.slim_stats(ctx.message.stats, tier),
      )
      state = ctx.state
      if jax.tree.leaves(state):
        state = submodels.slim(state, tier)
      upload = one(hyper, ctx._replace(message=message, state=state))
      params, stats = submodels.shapes
      summed = {
        name: _grown(value, stats if name == 'stats' else params)
        for name, value in upload.summed.items()
      }
      state = upload.state
      if state is not None:
        state = grow(state, params)
      # What was trained differs in shape; a round does not read it.
      return upload._replace(summed=summed, state=state, trained=None)

    return run

  branches = [branch(tier) for tier in range(len(submodels.rates))]
  return lambda hyper, ctx: jax.lax.switch(ctx.tier, branches, hyper, ctx)


def _grown(weighted: Weighted, shapes: Tree) -> Weighted:
  value, weight = weighted
  whole = jax.tree.map(
    lambda w, v: jnp.broadcast_to(w, v.shape),
    jax.tree.broadcast(weight, value),
    value,
  )
  return Weighted(grow(value, shapes), grow(whole, shapes))
