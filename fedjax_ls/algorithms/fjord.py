"""FjORD: ordered dropout, a width drawn for every mini-batch."""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls import local, narrow, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.cost import Cost
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.losses import View, masked_mean
from fedjax_ls.models.base import Model, Outputs
from fedjax_ls.models.submodels import (
  Submodels,
  exact_rates,
  grow,
  with_module,
)
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Variant

Tree = Any
Array = jax.Array

# What a step's key is folded with for its width.
_WIDTH = 1


@traced
@dataclasses.dataclass
class FjORD:
  """Numbers of FjORD.

  Attributes:
    rates: the widths P, shares of the channels as decimals or fractions in
      (0, 1], 1 among them; clients of tier t use those up to the t-th.
    distillation: whether the client's widest network is trained on every
      batch, too, and teaches the drawn one.
    alpha: share of the teacher in the drawn network's loss, in [0, 1].
    temperature: T > 0 of teacher and student.
  """

  rates: tuple[str, ...] = ('1', '4/5', '3/5', '2/5', '1/5')
  distillation: bool = False
  alpha: float = 1.0
  temperature: float = 1.0


def fjord(settings: FjORD, parts: Parts) -> Algorithm:
  """Local SGD on a random width each step, averaged by holders.

  With F_p the network of the leading ceil(p n) of n channels in every hidden
  layer, and p_max the width of the client's tier, each local step draws p
  uniformly from the widths up to p_max and descends

    CE(F_p, y)

  or, with distillation, q = softmax(. / T) and no gradient through the first
  argument of KL,

    CE(F_pmax, y) + (1 - alpha) CE(F_p, y) + alpha KL(q(F_pmax) || q(F_p)).

  The server averages each element over the clients with p_max at least as
  wide, by w_k.  BatchNorm has one scale and bias for all widths, and running
  statistics for each; those of width p are averaged over the clients that may
  draw p, whether or not they did.  Each width is judged on the test examples.

  Args:
    settings: `rates` must be those of `parts.submodels`.
    parts: model, sampler and submodels.

  Returns:
    The algorithm.  Clients keep no state; the server's statistics have a
    leading axis over the widths.

  Raises:
    ValueError: there are no submodels, or those of other rates.

  References:
    Horvath, Laskaridis, Almeida, Leontiadis, Venieris, Lane. FjORD: fair and
    accurate federated learning under heterogeneous targets with ordered
    dropout. NeurIPS 2021.

  Differs from the authors' code in: the code distills with alpha = T = 1 and
  reports the cross-entropy to the teacher's outputs, which is KL plus a number
  without gradient; statistics there go by the number of channels, so that two
  widths of equally many share them.  As there, weight decay acts on all that
  the client holds in every step.
  """
  submodels = narrow.submodels_of(settings.rates, parts)
  widest = submodels.rates.index(max(submodels.rates))
  masked, branching = _masked(parts, submodels), _branching(parts, submodels)
  terms = (distillation(parts.model),) if settings.distillation else ()

  def client(run):
    apply = _sampled(submodels, run, settings.distillation)
    return local.local_sgd(
      parts.model._replace(apply=apply),
      terms=terms,
      tx=narrow.masked_optimizer,
      start=start,
      finish=finish,
      unroll=parts.unroll,
    )

  def alone(hyper: Hyper, ctx: Ctx) -> Upload:
    # Decorrelation counts the features, which a mask leaves in place.
    same = 'decorrelation' not in hyper.loss.terms
    return client(branching if same else masked)(hyper, ctx)

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    message = ctx.message
    mask = submodels.mask(ctx.tier)
    # The model is given the tier for a width, and draws a width by its key.
    return Start(message.params, message.stats, {'mask': mask}, ctx.tier)

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    weight = server.client_weight(hyper, ctx)
    usable = jnp.asarray(_usable(submodels.rates))[ctx.tier]

    def held(*masks):
      stacked = jnp.stack(masks)
      rows = usable.reshape((-1,) + (1,) * (stacked.ndim - 1))
      return weight * (stacked & rows)

    masks = [submodels.stats_mask(p) for p in range(len(usable))]
    return narrow.weighed(
      local.upload_change(hyper, ctx, begin, end),
      jax.tree.map(lambda m: weight * m, begin.extra['mask']),
      jax.tree.map(held, *masks),
    )

  def init(hyper: Hyper, key, federation):
    del federation
    state = server.start(parts.model, hyper, key)
    widths = len(submodels.rates)
    stats = jax.tree.map(
      lambda a: jnp.broadcast_to(a, (widths, *a.shape)), state.stats
    )
    return state._replace(stats=stats), ()

  def of_width(p: int) -> Variant:
    def weights(hyper, state, federation):
      stats = submodels.slim_stats(_row(state.stats, p), p)
      return submodels.slim(state.params, p), stats

    small = with_module(parts.model, submodels.module(p))
    return Variant(settings.rates[p], small, weights)

  narrower = [p for p, rate in enumerate(submodels.rates) if rate < 1]
  return Algorithm(
    init=init,
    phases=(
      Phase(
        server.send,
        client(masked),
        server.step,
        alone=None if submodels.random else alone,
      ),
    ),
    sampler=parts.sampler,
    model=lambda state: (state.params, _row(state.stats, widest)),
    variants=tuple(map(of_width, narrower)),
  )


def drawn_width(rates: Sequence[Fraction], key: Array, tier: Array) -> Array:
  """Number of the width of a step, uniform over those of a tier.

  Args:
    rates: the widths.
    key: the step's key.
    tier: whose width is the largest.
  """
  usable = _usable(rates)
  # Those that may be drawn come first.
  order = jnp.asarray(np.argsort(~usable, axis=1, kind='stable'))
  count = jnp.asarray(usable.sum(1))[tier]
  key = jax.random.fold_in(key, _WIDTH)
  return order[tier, jax.random.randint(key, (), 0, count)]


def distillation(model: Model) -> Callable[[Hyper, View], Array]:
  """What distillation adds to CE(F_p, y); the teacher is the first exit."""

  def term(hyper: Hyper, view: View) -> Array:
    outputs, (teacher,) = view.outputs, view.outputs.exits
    alpha, heat = hyper.method.alpha, hyper.method.temperature
    target = jax.lax.stop_gradient(jax.nn.log_softmax(teacher.logits / heat))
    log_p = jax.nn.log_softmax(outputs.logits / heat)
    kl = jnp.sum(jnp.exp(target) * (target - log_p), -1)
    kl = kl.reshape(len(kl), -1).mean(1)
    own = model.loss(outputs, view.y)
    taught = model.loss(teacher, view.y)
    return masked_mean(taught + alpha * (kl - own), view.mask)

  return term


def _usable(rates: Sequence[Fraction]) -> np.ndarray:
  """`[T, P]`, whether a tier may draw a width."""
  return np.array([[p <= most for p in rates] for most in rates])


def _sampled(submodels: Submodels, run, distills: bool):
  """`Model.apply` of a random width; `stats` are those of all widths."""

  def apply(params, stats, x, *, train, mask, key, width):
    del train
    tier = width

    def of(p, stats):
      outputs, new = run(params, _row(stats, p), x, mask, key, p)
      return outputs, jax.tree.map(lambda s, n: s.at[p].set(n), stats, new)

    exits: tuple[Outputs, ...] = ()
    if distills:
      teacher, stats = of(tier, stats)
      exits = (teacher,)
    outputs, stats = of(drawn_width(submodels.rates, key, tier), stats)
    return outputs._replace(exits=exits), stats

  return apply


def _masked(parts: Parts, submodels: Submodels):
  """Runs the whole network under the masks of width p."""

  def run(params, stats, x, mask, key, p):
    return parts.model.apply(
      params, stats, x, train=True, mask=mask, key=key, width=submodels.width(p)
    )

  return run


def _branching(parts: Parts, submodels: Submodels):
  """Runs the small network of width p, with results of full shape."""

  def branch(p: int):
    model = with_module(parts.model, submodels.module(p))

    def run(params, stats, x, mask, key):
      outputs, new = model.apply(
        submodels.slim(params, p),
        submodels.slim_stats(stats, p),
        x,
        train=True,
        mask=mask,
        key=key,
      )
      return outputs, grow(new, stats)

    return run

  branches = [branch(p) for p in range(len(submodels.rates))]

  def run(params, stats, x, mask, key, p):
    args = params, stats, x, mask, key
    shapes = [jax.eval_shape(one, *args)[0].features for one in branches]
    largest = max(shapes, key=lambda s: s.size)

    def whole(one):
      def run(*args) -> tuple[Outputs, Tree]:
        outputs, new = one(*args)
        features = grow(outputs.features, largest)
        return outputs._replace(features=features), new

      return run

    outputs, new = jax.lax.switch(p, list(map(whole, branches)), *args)
    held = submodels.stats_mask(p)
    return outputs, jax.tree.map(jnp.where, held, new, stats)

  return run


def _row(stats: Tree, p) -> Tree:
  return jax.tree.map(lambda s: s[p], stats)


def check(config) -> None:
  """Refuses settings that contradict each other.

  Raises:
    ValueError: one sentence.
  """
  settings = config.algorithm
  narrow.check_full_width(settings.rates)
  if not settings.distillation:
    return
  if config.model.loss != 'cross_entropy':
    raise ValueError(
      f'algorithm.distillation = True needs classes but model.loss = '
      f'{config.model.loss!r}; set it to false'
    )
  if config.loss.calibration != 'none':
    raise ValueError(
      f'loss.calibration = {config.loss.calibration!r} does not reach the '
      'teacher of algorithm.distillation = True; set one to none or false'
    )


def costs(settings: FjORD, tiers: tuple[Cost, ...]) -> tuple[Cost, ...]:
  """Multiply-accumulates of the average width, and of the teacher's.

  Args:
    settings: whether there is one.
    tiers: costs of the tiers' networks.
  """
  usable = _usable(exact_rates(settings.rates))
  macs = np.array([c.macs for c in tiers])
  spent = (usable @ macs) // usable.sum(1) + settings.distillation * macs
  pairs = zip(tiers, spent, strict=True)
  return tuple(cost._replace(macs=int(own)) for cost, own in pairs)


METHOD = Method(
  name='fjord',
  settings=FjORD,
  build=fjord,
  references=(
    'Horvath et al. FjORD: fair and accurate federated learning under '
    'heterogeneous targets with ordered dropout. NeurIPS 2021.',
  ),
  toy=FjORD(rates=('1', '5/6', '2/3')),
  identity=Identity(FjORD(rates=('1',)), 'fedavg', FedAvg()),
  needs_submodels=True,
  ranges={
    'alpha': (lambda v: 0 <= v <= 1, 'choose it in [0, 1]'),
    'temperature': rules.POSITIVE,
  },
  check=check,
  costs=costs,
)
