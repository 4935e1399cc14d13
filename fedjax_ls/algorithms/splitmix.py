"""Split-Mix: small base networks trained by budget, mixed on demand."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, narrow, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.cost import Cost, Traffic, one_model
from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.models.base import Model, Outputs, Width
from fedjax_ls.models.ensembles import mean_of, of_parts
from fedjax_ls.models.submodels import exact_rates, with_module
from fedjax_ls.types import (
  Algorithm,
  Cohort,
  Ctx,
  Phase,
  Reduced,
  Upload,
  Weighted,
)

Array = jax.Array
Tree = Any

# What a client's key is folded with for its bases; local training takes 0 to 2
# and 4.
_BASES = 3


class Queue(NamedTuple):
  """Whose turn it is: the queue's seed, and how often a client took from it."""

  seed: Array
  taken: Array


@traced
@dataclasses.dataclass
class SplitMix:
  """Settings of Split-Mix; all of them are structure.

  Attributes:
    rates: budget of each tier, the share of all base networks that it trains,
      as decimals or fractions in (0, 1]; tier 0 has the first.
    base: share of the channels that a base network has; there are 1 / base.
    rescale: whether base networks start with weights as small as the whole
      network's, whose layers have more inputs.
    scaler: whether hidden layers' outputs are divided by `base` in training;
      not where BatchNorm keeps statistics.
    batch_statistics: whether BatchNorm normalizes test examples by their own
      batch, as the authors do, which makes results depend on their order; not
      with attacks.
  """

  rates: tuple[str, ...] = ('1', '1/2', '1/4', '1/8')
  base: str = '1/8'
  rescale: bool = False
  scaler: bool = False
  batch_statistics: bool = False


def splitmix(settings: SplitMix, parts: Parts) -> Algorithm:
  """FedAvg over independent narrow networks, of which a client trains some.

  There are B = 1 / base networks x_j of width `base`.  Client k with a budget
  of n_k networks takes the next one in a queue that all clients share, which
  is shuffled anew whenever each had its turn, and draws n_k - 1 of the others.
  With S_j the clients that took network j,

    y_kj <- x_j, then K local steps y_kj <- y_kj - a grad f_k(y_kj)
    x_j  <- x_j + server step along sum_{S_j} w_k (y_kj - x_j) / sum_{S_j} w_k

  and a network that nobody took stays.  The mixture of width R is the mean of
  the logits of the first R / base networks: `accuracy` is of all of them,
  `accuracy@1/4` of the first quarter.  `Result.params` has a leading axis B;
  `mixture(...)` takes any leading part of it.

  With `adversarial.steps` each network has two halves of BatchNorm and is
  attacked by itself in training; at test time any mix of the halves can be
  chosen beside any number of networks, see `fedjax_ls.adversarial`.

  Args:
    settings: as above.
    parts: model, sampler and submodels, all of width `base`.

  Returns:
    The algorithm.  Clients keep no state.

  Raises:
    ValueError: 1 / base is no whole number, or a budget no multiple of it.

  References:
    Hong, Wang, Wang, Zhou. Efficient split-mix federated learning for
    on-demand and in-situ customization. ICLR 2022.

  Differs from the authors' code in: a network keeps ceil(base C) of C
  channels, theirs the integer part; `rescale` and `scaler` are off, as theirs
  where BatchNorm is tracked; the loss is not masked by the classes in a batch;
  networks are not sorted by validation accuracy (`sort_bases`), nor statistics
  taken anew from a client's examples ("post average"); with attacks BatchNorm
  is averaged, which theirs can leave with the clients.  The queue follows
  `model.seed` and goes by the clients' numbers.
  """
  count = _number_of_bases(settings)
  submodels = narrow.submodels_of(_widths(settings), parts)
  module = submodels.module(0)
  model = with_module(parts.model, module)
  scaled = module.clone(scaler=Width(1, count)) if settings.scaler else module
  rates = exact_rates(settings.rates)
  budgets = jnp.array([int(rate * count) for rate in rates])
  one = local.local_sgd(with_module(model, scaled), unroll=parts.unroll)

  def train(hyper: Hyper, ctx: Ctx, j: Array) -> tuple[Tree, Tree, Array]:
    """Change and statistics of network j, and its loss with its weight."""
    message = jax.tree.map(lambda a: a[j], ctx.message[:2])
    upload = one(hyper, ctx._replace(message=server.Message(*message)))
    loss = jnp.stack(upload.metrics['train/loss'])
    return upload.summed['delta'].value, upload.summed['stats'].value, loss

  def upload(hyper: Hyper, ctx: Ctx, chosen: Array, trained) -> Upload:
    """Of the networks that are `chosen[B]`."""
    change, stats, loss = trained
    weight = server.client_weight(hyper, ctx) * chosen

    def weighted(tree: Tree) -> Weighted:
      axes = lambda a: weight.reshape((-1,) + (1,) * (a.ndim - 1))  # noqa: E731
      return Weighted(tree, jax.tree.map(axes, tree))

    examples = jnp.sum(loss[:, 1])
    mean = jnp.sum(loss[:, 0] * loss[:, 1]) / jnp.maximum(examples, 1)
    return Upload(
      {'delta': weighted(change), 'stats': weighted(stats)},
      metrics={'train/loss': Weighted(mean, examples)},
    )

  def at_once(hyper: Hyper, ctx: Ctx) -> Upload:
    order = draw(ctx.message.extra, ctx, count)
    chosen = jnp.argsort(order) < budgets[ctx.tier]
    change, stats, loss = jax.vmap(train, (None, None, 0))(
      hyper, ctx, jnp.arange(count)
    )
    loss = loss * jnp.stack([jnp.ones(count), chosen], 1)
    return upload(hyper, ctx, chosen, (change, stats, loss))

  def one_by_one(hyper: Hyper, ctx: Ctx) -> Upload:
    order = draw(ctx.message.extra, ctx, count)

    def step(i, kept):
      new = train(hyper, ctx, order[i])
      return jax.tree.map(lambda a, v: a.at[order[i]].set(v), kept, new)

    params, stats = ctx.message[:2]
    leaf = jax.tree.leaves(params)[0]
    nothing = optax.tree.zeros_like((params, stats))
    losses = jnp.zeros_like(leaf, shape=(count, 2))
    number = budgets[ctx.tier]
    kept = jax.lax.fori_loop(0, number, step, (*nothing, losses))
    return upload(hyper, ctx, jnp.argsort(order) < number, kept)

  def step(hyper: Hyper, state, reduced: Reduced, stacked, cohort: Cohort):
    state = server.step(hyper, state, reduced, stacked, cohort)
    live = jnp.sum(cohort.ids < cohort.population)
    taken = state.extra.taken + live.astype(jnp.uint32)
    return state._replace(extra=state.extra._replace(taken=taken))

  def start(key) -> tuple[Tree, Tree]:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    # One network starts as FedAvg's does.
    params, stats = jax.vmap(model.init)(keys if count > 1 else key[None])
    if settings.rescale:
      whole, _ = jax.eval_shape(parts.model.init, key)
      params = rescaled(params, whole, 1 / count)
    return params, stats

  def init(hyper: Hyper, key, federation):
    params, stats = start(key)
    opt = server.optimizer(hyper.server).init(params)
    seed = jax.random.bits(jax.random.fold_in(key, count), (), jnp.uint32)
    queue = Queue(seed, jnp.zeros((), jnp.uint32))
    return server.ServerState(params, stats, opt, queue), ()

  sizes = {str(rate): int(rate * count) for rate in rates if rate < 1}
  mixed = mixture(model, sizes, settings.batch_statistics)
  return Algorithm(
    init=init,
    phases=(Phase(server.send, at_once, step, alone=one_by_one),),
    sampler=parts.sampler,
    model=server.global_model,
    network=mixed._replace(init=start),
  )


def draw(queue: Queue, ctx: Ctx, count: int) -> Array:
  """The base networks in the order in which a client takes them, `[B]`.

  The first is the one whose turn it is: the queue is a permutation of all,
  and a new one each time that it is through.  The others stand at random.

  Args:
    queue: shared by all clients.
    ctx: the client.
    count: number B of networks.
  """
  turn = queue.taken + jnp.asarray(ctx.rank).astype(jnp.uint32)
  # Other kinds of keys draw other numbers under vmap than in a loop.
  key = jax.random.key(queue.seed, impl='threefry2x32')
  key = jax.random.fold_in(key, turn // count)
  first = jax.random.permutation(key, count)[turn % count]
  chance = jax.random.uniform(jax.random.fold_in(ctx.key, _BASES), (count,))
  return jnp.argsort(chance.at[first].set(-1))


def rescaled(params: Tree, full: Tree, share: float) -> Tree:
  """Kernels times sqrt(share) where they have fewer inputs than in `full`.

  An initializer with variance 1 / inputs then gives them the variance that it
  gives the whole network's.

  Args:
    params: `[B, ...]` of the base networks.
    full: shapes of the whole network's parameters.
    share: of the channels.

  >>> kernel, whole = jnp.ones((1, 2, 3)), jnp.ones((8, 12))
  >>> print(rescaled(kernel, whole, 0.25)[0, 0])
  [0.5 0.5 0.5]
  """

  def scale(leaf, whole):
    narrowed = whole.ndim > 1 and leaf.shape[-2] < whole.shape[-2]
    return leaf * share**0.5 if narrowed else leaf

  return jax.tree.map(scale, params, full)


def mixture(
  model: Model,
  sizes: dict[str, int] | None = None,
  batch_statistics: bool = False,
) -> Model:
  """The mean of the logits of several networks.

  Args:
    model: one network.
    sizes: `{name: n}`: metrics `metric@name` are of the first n networks.
    batch_statistics: whether BatchNorm takes the statistics of the batch.

  Returns:
    A model whose parameters and statistics have a leading axis of any length:
    `jax.tree.map(lambda a: a[:n], params)` mixes the first n networks.

  >>> from fedjax_ls.models import MLP, flax_model
  >>> one = flax_model(MLP(2, hidden=(3,)), jnp.ones((1, 4)))
  >>> keys = jax.random.split(jax.random.key(0), 5)
  >>> params, stats = jax.vmap(one.init)(keys)
  >>> few = jax.tree.map(lambda a: a[:2], params)
  >>> outputs, _ = mixture(one).apply(few, stats, jnp.ones((1, 4)))
  >>> outputs.logits.shape, len(outputs.exits)
  ((1, 2), 2)
  """

  def apply(params, stats, x, *, train=False, **options):
    def one(params, stats):
      batch = train or batch_statistics
      return model.apply(params, stats, x, train=batch, **options)

    every, moved = jax.vmap(one)(params, stats)
    count = len(jax.tree.leaves(params)[0])
    exits = [jax.tree.map(lambda a, j=j: a[j], every) for j in range(count)]
    return mean_of(exits), moved if train else stats

  def some(exits: Sequence[Outputs]) -> dict[str, Outputs]:
    return {name: mean_of(exits[:n]) for name, n in (sizes or {}).items()}

  return model._replace(apply=apply, metrics=of_parts(model, some))


def _widths(settings: SplitMix) -> tuple[str, ...]:
  """Each tier's networks have the same width."""
  return (settings.base,) * len(settings.rates)


def _costs(settings: SplitMix, costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
  """A tier pays for all of its networks."""
  share = Fraction(settings.base)
  return tuple(
    Cost(*(int(rate / share) * value for value in cost))
    for rate, cost in zip(exact_rates(settings.rates), costs, strict=True)
  )


def _traffic(
  settings: SplitMix, tier: int, params: Tree, stats: Tree
) -> Traffic:
  """All of a tier's networks, each way."""
  rate = exact_rates(settings.rates)[tier]
  number = int(rate / Fraction(settings.base))
  received, update, further = one_model(settings, tier, params, stats)
  update = tuple(number * size for size in update)
  return Traffic(number * received, update, number * further)


def _number_of_bases(settings: SplitMix) -> int:
  """1 / base.

  Raises:
    ValueError: it is no whole number, or a budget is no multiple of `base`.
  """
  (base,) = exact_rates((settings.base,), 'algorithm.base')
  require(
    base.numerator == 1,
    f'algorithm.base = {settings.base!r} does not divide 1; choose 1/n',
  )
  for rate in exact_rates(settings.rates, 'algorithm.rates'):
    require(
      (rate / base).denominator == 1,
      f'algorithm.rates = {settings.rates} has {rate}, which is no multiple of '
      f'algorithm.base = {settings.base!r}; choose multiples',
    )
  return base.denominator


def check(config) -> None:
  """Refuses budgets that are no whole numbers of networks, and statistics of
  BatchNorm that are not those of what it normalizes.

  Raises:
    ValueError: one sentence.
  """
  settings, steps = config.algorithm, config.adversarial.steps
  _number_of_bases(settings)
  require(
    settings.batch_statistics
    or not (settings.scaler and config.model.norm == 'bn'),
    "algorithm.scaler = True scales what model.norm = 'bn' keeps statistics of "
    'but not what it normalizes by them; set algorithm.scaler = false or '
    'algorithm.batch_statistics = true',
  )
  require(
    steps == 0 or not settings.batch_statistics,
    f'adversarial.steps = {steps} mixes the running statistics of BatchNorm '
    'but algorithm.batch_statistics = True ignores them; set one to 0 or false',
  )


METHOD = Method(
  name='splitmix',
  settings=SplitMix,
  build=splitmix,
  references=(
    'Hong, Wang, Wang, Zhou. Efficient split-mix federated learning for '
    'on-demand and in-situ customization. ICLR 2022.',
  ),
  toy=SplitMix(rates=('1', '1/2', '1/2'), base='1/2'),
  identity=Identity(SplitMix(rates=('1',), base='1'), 'fedavg', FedAvg()),
  needs_submodels=True,
  slim_rates=_widths,
  costs=_costs,
  traffic=_traffic,
  check=check,
  adversarial=True,
)
