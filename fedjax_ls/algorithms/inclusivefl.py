"""InclusiveFL: models of several depths share layers, larger ones teach."""

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, narrow, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.models.base import Model
from fedjax_ls.models.submodels import Submodels, with_module
from fedjax_ls.types import (
  Algorithm,
  Cohort,
  Ctx,
  Phase,
  Reduced,
  Upload,
  Variant,
  Weighted,
)

Tree = Any

_STAGE = re.compile(r'(dense|conv|norm|stage|block)(\d+)(?=_|$)')
_ENTRY = re.compile(r'(stem|embedding|position)(_|$)')


class Types(NamedTuple):
  """The models of several depths, shallow to deep.

  Attributes:
    depths: number of stages of each, ascending.
    models: the networks.
    names: the rate of the first tier of each.
    of_tier: `[T]` which of them each tier has.
  """

  depths: tuple[int, ...]
  models: tuple[Model, ...]
  names: tuple[str, ...]
  of_tier: tuple[int, ...]


@traced
@dataclasses.dataclass
class InclusiveFL:
  """Settings of InclusiveFL.

  Attributes:
    rates: share of the stages of each tier, as decimals or fractions in
      (0, 1], 1 among them; tier 0 has the first.
    beta: share of the larger model's change in that of a last stage, in
      [0, 1].
  """

  rates: tuple[str, ...] = ('1', '2/3', '1/3')
  beta: float = 0.2


def inclusivefl(settings: InclusiveFL, parts: Parts) -> Algorithm:
  """Models of several depths that share all but their last stage and head.

  Model i has the first L_i stages, L_1 < ... < L_M, and a head of its own
  (pooling, classifier).  A client trains the model of its tier; with g_il the
  mean change of stage l by the clients of model i,

    stage l   moves along the mean over all clients that have it and whose
              last stage is another, the input layers along that of all
    stage L_i of model i, its own copy, along
              beta mean_{l = L_i .. L_{i+1}} g_{i+1,l} + (1 - beta) g_{i,L_i}
    head of i along the mean change of its clients

  each by one server step; means are weighted.  The largest model has no
  teacher, nor has one whose next larger model nobody trained in this round.
  Stages of other shapes are left out of the mean over l.  `accuracy` is of the
  largest model, `accuracy@1/3` of a smaller one.

  Args:
    settings: `rates` must be those of `parts.submodels`.
    parts: model, sampler and submodels of several depths, each with one
      classifier.

  Returns:
    The algorithm.  Clients keep no state.

  Raises:
    ValueError: there are no submodels, those of other rates, or of widths.

  References:
    Liu, Wu, Wu, Wang, Zhao, Chen, Xie. No one left behind: inclusive federated
    learning over heterogeneous devices. KDD 2022.

  Differs from the authors' code in: there the teacher's change never reaches
  the smaller model but for a factor 1 - beta in the first round, and a round
  is one gradient over the pooled clients of a type, here local steps; one step
  at learning rate 1 with a server optimizer comes to the same.  There flags
  (`local_one`, `local_pooler`, `local_cls`) say whether last stage, pooler and
  classifier are a type's own, here all are.
  """
  submodels = narrow.submodels_of(settings.rates, parts)
  require(
    bool(submodels.depths),
    'method inclusivefl needs networks of several depths but the submodels '
    'have several widths; use depth_submodels(module, x[:1], rates)',
  )
  types = _types(settings, parts.model, submodels)
  shapes = [jax.eval_shape(m.init, jax.random.key(0)) for m in types.models]
  clients = [_client(types, i, shapes, parts.unroll)
             for i in range(len(types.models))]  # fmt: skip

  def client(hyper: Hyper, ctx: Ctx) -> Upload:
    mine = jnp.array(types.of_tier)[ctx.tier]
    return jax.lax.switch(mine, clients, hyper, ctx)

  def init(hyper: Hyper, key, federation):
    started = [model.init(key) for model in types.models]
    params, stats = (
      _joined(types, [tree[n] for tree in started]) for n in range(2)
    )
    opt = server.optimizer(hyper.server).init(params)
    return server.ServerState(params, stats, opt), ()

  def weights_of(i: int):
    def weights(hyper: Hyper, state, federation):
      return tuple(
        assembled(tree, _names(types, i, shapes[i][n]), i)
        for n, tree in enumerate((state.params, state.stats))
      )

    return weights

  last = len(types.models) - 1
  return Algorithm(
    init=init,
    phases=(
      Phase(server.send, client, _step, derive=_teachers(types, shapes)),
    ),
    sampler=parts.sampler,
    model=lambda state: weights_of(last)(None, state, None),
    variants=tuple(
      Variant(types.names[i], types.models[i], weights_of(i))
      for i in range(last)
    ),
    network=types.models[last],
  )


def stage_of(name: str) -> int | None:
  """Which stage a layer is of, -1 for the input's, None for the head.

  >>> [stage_of(n) for n in ('block1_q', 'stage0_block1_conv0', 'conv2')]
  [1, 0, 2]
  >>> [stage_of(n) for n in ('embedding_norm', 'stem', 'norm', 'classifier')]
  [-1, -1, None, None]
  """
  found = _STAGE.match(name)
  if found:
    return int(found[2])
  return -1 if _ENTRY.match(name) else None


def teaching(change: Tree, depth: int, larger: int) -> Tree:
  """The mean change of stages `depth` to `larger`, named as the first of them.

  Args:
    change: by layer, of a model of `larger` stages.
    depth: number of the first of these stages, from 1.
    larger: number of the last.

  Returns:
    Tree of the layers of stage `depth`; later stages count where they have
    the layer in the same shape.

  >>> change = {f'dense{i}': jnp.array([i, 4.0 * i]) for i in range(4)}
  >>> print(teaching(change, 2, 4)['dense1'])
  [2. 8.]
  """

  def mean(name: str) -> Tree:
    own, trees = change[name], []
    for stage in range(depth - 1, larger):
      same = _STAGE.sub(rf'\g<1>{stage}', name, count=1)
      trees.append(change.get(same))
    like = jax.tree.map(jnp.shape, own)
    fitting = [t for t in trees if jax.tree.map(jnp.shape, t) == like]
    return jax.tree.map(lambda *a: sum(a) / len(a), *fitting)

  return {name: mean(name) for name in change if stage_of(name) == depth - 1}


def assembled(tree: Tree, names: tuple[set, set], i: int) -> Tree:
  """The layers of model i from those that it shares and its own."""
  shared, own = names
  return {
    **{name: tree['shared'][name] for name in shared},
    **{name: tree['own'][i][name] for name in own},
  }


def _types(settings: InclusiveFL, model: Model, submodels: Submodels) -> Types:
  depths = tuple(sorted(set(submodels.depths)))
  first = [submodels.depths.index(depth) for depth in depths]
  return Types(
    depths,
    tuple(with_module(model, submodels.module(tier)) for tier in first),
    tuple(settings.rates[tier] for tier in first),
    tuple(depths.index(depth) for depth in submodels.depths),
  )


def _names(types: Types, i: int, tree: Tree) -> tuple[set, set]:
  """Names of the layers that model i shares, and of its own."""
  last, shared = types.depths[i] - 1, set()
  for name in tree:
    stage = stage_of(name)
    if stage is not None and stage < last:
      shared.add(name)
  return shared, set(tree) - shared


def _joined(types: Types, trees: list[Tree]) -> Tree:
  """Layers of all models as `{shared: ..., own: one a model}`."""
  names = [_names(types, i, tree) for i, tree in enumerate(trees)]
  return {
    'shared': {name: trees[-1][name] for name in names[-1][0]},
    'own': tuple(
      {name: tree[name] for name in own}
      for tree, (_, own) in zip(trees, names, strict=True)
    ),
  }


def _client(types: Types, i: int, shapes: list, unroll: int):
  """The client that trains model i."""
  one = local.local_sgd(types.models[i], unroll=unroll)
  params, stats = ([pair[n] for pair in shapes] for n in range(2))

  def among_all(tree: Tree, like: list[Tree], fill) -> Tree:
    """The layers of model i among those of all, which are `fill(leaf)`."""
    trees = [jax.tree.map(fill, other) for other in like]
    trees[i] = tree
    joined = _joined(types, trees)
    shared, _ = _names(types, i, tree)
    return {
      **joined,
      'shared': joined['shared'] | {name: tree[name] for name in shared},
    }

  def spread(tree: Tree, like: list[Tree], weight, zeros) -> Weighted:
    weights = jax.tree.map(lambda _: weight, tree)
    nothing = jnp.zeros_like(weight)
    return Weighted(
      among_all(tree, like, zeros), among_all(weights, like, lambda _: nothing)
    )

  def client(hyper: Hyper, ctx: Ctx) -> Upload:
    message = ctx.message._replace(
      params=assembled(ctx.message.params, _names(types, i, params[i]), i),
      stats=assembled(ctx.message.stats, _names(types, i, stats[i]), i),
    )
    upload = one(hyper, ctx._replace(message=message))
    weight = server.client_weight(hyper, ctx)
    change = upload.summed['delta'].value

    def zeros(like) -> jax.Array:
      # Varying over the mesh as the others do.
      leaf = jax.tree.leaves(change)[0]
      return jnp.zeros_like(leaf, shape=like.shape, dtype=like.dtype)

    return Upload(
      {
        'delta': spread(change, params, weight, zeros),
        'stats': spread(upload.summed['stats'].value, stats, weight, zeros),
      },
      metrics=upload.metrics,
    )

  return client


def _teachers(types: Types, shapes: list):
  """`Phase.derive`: changes for the next smaller models' last stages."""

  def derive(hyper: Hyper, ctx: Ctx, upload: Upload) -> dict[str, Weighted]:
    change = upload.summed['delta'].value
    weight = server.client_weight(hyper, ctx)
    mine = jnp.array(types.of_tier)[ctx.tier]
    value, weights = [], []
    for i in range(1, len(types.depths)):
      own = assembled(change, _names(types, i, shapes[i][0]), i)
      value.append(teaching(own, *types.depths[i - 1 : i + 1]))
      weights.append(jnp.where(mine == i, weight, 0))
    return {'teacher': Weighted(tuple(value), tuple(weights))}

  return derive


def _step(
  hyper: Hyper, state, reduced: Reduced, stacked: Tree, cohort: Cohort
) -> server.ServerState:
  """`Phase.server`: last stages learn from the next larger model."""
  delta = reduced.mean['delta']
  own = list(delta['own'])
  pairs = zip(reduced.mean['teacher'], reduced.held['teacher'], strict=True)
  for i, (teacher, there) in enumerate(pairs):
    student = {name: own[i][name] for name in teacher}
    mixed = optax.tree.add_scale(
      student, hyper.method.beta, optax.tree.sub(teacher, student)
    )
    own[i] = own[i] | server.where(there, mixed, student)
  delta = {'shared': delta['shared'], 'own': tuple(own)}
  return server.move(hyper, state, reduced, delta)


def check(config) -> None:
  """Refuses rates without a 1, as the largest model is judged.

  Raises:
    ValueError: one sentence.
  """
  narrow.check_full_width(config.algorithm.rates)


METHOD = Method(
  name='inclusivefl',
  settings=InclusiveFL,
  build=inclusivefl,
  references=(
    'Liu, Wu, Wu, Wang, Zhao, Chen, Xie. No one left behind: inclusive '
    'federated learning over heterogeneous devices. KDD 2022.',
  ),
  toy=InclusiveFL(rates=('1/3', '2/3', '1')),
  identity=Identity(InclusiveFL(rates=('1',)), 'fedavg', FedAvg()),
  needs_submodels=True,
  shallow=True,
  ranges={'beta': (lambda v: 0 <= v <= 1, 'choose it in [0, 1]')},
  check=check,
)
