"""DepthFL: clients train the depth they can afford, classifiers distil."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, narrow, rules, server, transforms
from fedjax_ls.algorithms import feddyn
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.losses import Term, View, masked_mean
from fedjax_ls.models.base import Model, Outputs
from fedjax_ls.models.ensembles import mean_of, of_parts
from fedjax_ls.models.submodels import Submodels, with_module
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload

Array = jax.Array


@traced
@dataclasses.dataclass
class DepthFL:
  """Settings of DepthFL.

  Attributes:
    rates: share of the stages of each tier, as decimals or fractions in
      (0, 1], 1 among them; tier 0 has the first.
    distillation: whether a client's classifiers teach each other.
    ramp: rounds until that has its full weight, > 0.
    feddyn: whether clients and server keep FedDyn's histories.
    alpha: strength of FedDyn's regularizer, >= 0.
  """

  weights: ClassVar = 'uniform'
  rates: tuple[str, ...] = ('1', '3/4', '1/2', '1/4')
  distillation: bool = True
  ramp: float = 300.0
  feddyn: bool = True
  alpha: float = 0.1


def depthfl(settings: DepthFL, parts: Parts) -> Algorithm:
  """Local SGD on the first stages, averaged by who holds a stage.

  The network has a classifier after every stage.  A client of depth d trains
  the first d stages and their classifiers, with p_i = softmax(z_i) of the i-th
  one, in round t on

    sum_i CE(z_i, y) + w(t) / (d - 1) sum_i sum_{j != i} KL(p_j || p_i)
    w(t) = exp(-5 (1 - min(t, R) / R)^2)

  where p_j is a target that no gradient flows through, and R is `ramp`.  With
  m_k = 1 on what client k holds, of N clients in all, and histories h_k that
  are zero at first:

    y_k <- x, then local steps on the above + (alpha / 2) |y - (x - h_k)|^2
    h_k <- h_k + m_k (y_k - x)
    h   <- h + (1 / N) sum_S m_k (y_k - x)
    x   <- x + server step along sum w_k m_k (y_k - x) / sum w_k m_k + h

  the last line where anybody holds an element; elsewhere x, h and the server
  optimizer's state stay.  Without `feddyn` all h are zero and alpha is 0.  The
  global model is judged by the mean of all logits z_i; `accuracy@1/2` is of the
  mean of those that a tier of rate 1/2 has, `accuracy@exit1` and so on are of
  single classifiers.

  Args:
    settings: `rates` must be those of `parts.submodels`.
    parts: model, sampler and submodels of several depths.

  Returns:
    The algorithm.  With `feddyn` each client keeps h_k, the size of the model.

  Raises:
    ValueError: there are no submodels, those of other rates, or of widths.

  References:
    Kim, Yu, Kim, Moon. DepthFL: depthwise federated learning for heterogeneous
    clients. ICLR 2023.
    Acar et al. Federated learning based on dynamic regularization. ICLR 2021.

  Differs from the authors' code in: there 1e-7 is added to the targets p_j;
  its `extended=false`, by which a client trains the last of its classifiers
  alone (their rows "InclusiveFL"), is missing.
  """
  submodels = narrow.submodels_of(settings.rates, parts)
  require(
    bool(submodels.depths),
    'method depthfl needs networks of several depths but the submodels have '
    'several widths; use depth_submodels(with_exits(module), x[:1], rates)',
  )
  model = parts.model
  whole = _client(settings, parts, model, submodels)

  def small(tier: int):
    module = submodels.module(tier)
    return _client(settings, parts, with_module(model, module))

  names = dict(zip(submodels.depths, settings.rates, strict=True))
  return Algorithm(
    init=feddyn.init(model) if settings.feddyn else server.init(model),
    phases=(
      Phase(
        _send,
        whole,
        feddyn.step if settings.feddyn else server.step,
        alone=None if submodels.random else narrow.by_tier(submodels, small),
        derive=feddyn.history if settings.feddyn else None,
      ),
    ),
    sampler=parts.sampler,
    model=server.global_model,
    network=ensemble(model, names),
  )


def exits_loss(
  model: Model, distil: bool, depth: Callable[[Ctx], Array] | None = None
) -> Term:
  """What the classifiers before a client's last one add to its loss.

  Args:
    model: has the loss of one classifier.
    distil: whether they teach each other, by `hyper.method.ramp`.
    depth: `depth(ctx)`, how many classifiers the client has; all of the
      network's by default.

  Returns:
    A term; it reads `outputs.exits`.
  """

  def term(hyper: Hyper, view: View) -> Array:
    exits = view.outputs.exits
    d = len(exits) if depth is None else depth(view.ctx)
    total = jnp.zeros((), exits[0].logits.dtype)
    for i, own in enumerate(exits[:-1]):
      value = masked_mean(model.loss(own, view.y), view.mask)
      total = total + jnp.where(i < d - 1, value, 0)
    if not distil or len(exits) == 1:
      return total
    held = jnp.arange(len(exits)) < d
    pairs = held[:, None] & held[None]
    mutual = jnp.sum(jnp.where(pairs, divergences(exits, view.mask), 0))
    weight = ramp(hyper.method.ramp, view.ctx.round)
    return total + weight * mutual / jnp.maximum(d - 1, 1)

  return term


def divergences(exits: tuple[Outputs, ...], mask: Array) -> Array:
  """KL(p_j || p_i) of D classifiers, `[D, D]` by i and j.

  Gradients flow into p_i alone.

  Args:
    exits: the classifiers' outputs, logits `[B, ..., Y]`.
    mask: `[B]`, False for examples that do not count.

  >>> z = jnp.log(jnp.array([[[0.5, 0.5]], [[0.9, 0.1]]]))
  >>> got = divergences([Outputs(a, a) for a in z], jnp.ones(1, bool))
  >>> [[f'{v:.3f}' for v in row] for row in got]
  [['0.000', '0.368'], ['0.511', '0.000']]
  """
  log_p = jax.nn.log_softmax(jnp.stack([e.logits for e in exits]))
  targets = jax.lax.stop_gradient(log_p)[None]
  p = jnp.exp(targets)
  values = jnp.sum(jnp.where(p > 0, p * (targets - log_p[:, None]), 0), -1)
  values = values.reshape(*values.shape[:2], len(mask), -1).mean(-1)
  return jax.vmap(jax.vmap(masked_mean, (0, None)), (0, None))(values, mask)


def ramp(rounds: Array, round: Array) -> Array:
  """exp(-5 (1 - min(t, R) / R)^2) of round t, from 0.

  >>> [round(float(ramp(300.0, t)), 4) for t in (0, 150, 300, 999)]
  [0.0067, 0.2865, 1.0, 1.0]
  """
  share = jnp.minimum(round / rounds, 1)
  return jnp.exp(-5 * (1 - share) ** 2)


def at_depth(outputs: Outputs, depth: Array) -> Outputs:
  """Outputs of which logits and features are those of exit `depth`."""
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *outputs.exits)
  own: Outputs = jax.tree.map(lambda a: a[depth - 1], stacked)
  return own._replace(exits=outputs.exits)


def ensemble(model: Model, names: Mapping[int, str]) -> Model:
  """The model judged by the mean of its exits' logits.

  Args:
    model: gives the exits.
    names: `{depth: name}` of shallower networks to judge.

  Returns:
    A model whose metrics are of that mean, of each exit (`metric@exit1`,
    shallow to deep), and of the mean of the first ones (`metric@name`).
  """

  def apply(*args, **options):
    outputs, stats = model.apply(*args, **options)
    return mean_of(outputs.exits), stats

  def parts(exits: tuple[Outputs, ...]) -> dict[str, Outputs]:
    single = {f'exit{i}': e for i, e in enumerate(exits, 1)}
    shallow = {d: name for d, name in names.items() if d < len(exits)}
    return single | {n: mean_of(exits[:d]) for d, n in shallow.items()}

  return model._replace(apply=apply, metrics=of_parts(model, parts))


def _send(hyper: Hyper, state: server.ServerState, round) -> server.Message:
  return server.Message(state.params, state.stats)


def _client(
  settings: DepthFL,
  parts: Parts,
  model: Model,
  submodels: Submodels | None = None,
) -> Callable[[Hyper, Ctx], Upload]:
  """Trains the part of a network with `submodels` that its tier holds, or all
  of a network without."""
  dynamic = settings.feddyn

  def depth(ctx: Ctx) -> Array:
    return jnp.array(submodels.depths if submodels else ())[ctx.tier]

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    params, stats, _ = ctx.message
    extra = {'mask': submodels.mask(ctx.tier)} if submodels else {}
    if dynamic:
      extra['anchor'] = optax.tree.sub(params, ctx.state)
    return Start(params, stats, extra=extra)

  def tx(hyper: Hyper, ctx: Ctx) -> optax.GradientTransformation:
    links = [transforms.proximal(hyper.method.alpha)] if dynamic else []
    links.append(local.optimizer(hyper, ctx))
    # Last: weight decay, momentum and the pull move what has no gradient.
    links += [transforms.masked_update()] if submodels else []
    return optax.chain(*links)

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    upload = local.upload_change(hyper, ctx, begin, end)
    if submodels:
      weight = server.client_weight(hyper, ctx)
      masks = begin.extra['mask'], submodels.stats_mask(ctx.tier)
      held = jax.tree.map(lambda mask: weight * mask, masks)
      upload = narrow.weighed(upload, *held)
    return feddyn.remembered(ctx, upload) if dynamic else upload

  return local.local_sgd(
    model,
    terms=(
      exits_loss(model, settings.distillation, depth if submodels else None),
    ),
    read=(lambda ctx, outputs: at_depth(outputs, depth(ctx)))
    if submodels
    else None,
    tx=tx,
    start=start,
    finish=finish,
    unroll=parts.unroll,
  )


def check(config) -> None:
  """Refuses settings that contradict each other.

  Raises:
    ValueError: one sentence.
  """
  settings, loss = config.algorithm, config.model.loss
  narrow.check_full_width(settings.rates)
  require(
    loss == 'cross_entropy' or not settings.distillation,
    f'algorithm.distillation = True needs classes but model.loss = {loss!r}; '
    'set it to false',
  )


METHOD = Method(
  name='depthfl',
  settings=DepthFL,
  build=depthfl,
  references=(
    'Kim, Yu, Kim, Moon. DepthFL: depthwise federated learning for '
    'heterogeneous clients. ICLR 2023.',
    'Acar, Zhao, Matas, Mattina, Whatmough, Saligrama. Federated learning '
    'based on dynamic regularization. ICLR 2021.',
  ),
  toy=DepthFL(rates=('1/3', '2/3', '1'), ramp=100.0, alpha=0.5),
  # One stage has one exit, which has nobody to learn from.
  identity=Identity(
    DepthFL(rates=('1',), distillation=False, feddyn=False),
    'fedavg',
    FedAvg(),
    server={'weights': 'uniform'},
  ),
  needs_submodels=True,
  shallow=True,
  needs_exits=True,
  ranges={'ramp': rules.POSITIVE, 'alpha': rules.NOT_NEGATIVE},
  check=check,
)
