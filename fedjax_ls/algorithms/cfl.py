"""CFL: clusters split where their clients pull in different directions."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import clusters as clusters_lib
from fedjax_ls import local, mapping, rules, server
from fedjax_ls import stacked as stacked_lib
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.clusters import Clusters
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.types import Algorithm, Array, Cohort, Ctx, Phase, Tree, Upload


@traced
@dataclasses.dataclass
class CFL:
  """Numbers of CFL.

  Attributes:
    clusters: most models M, >= 1.
    eps1: a cluster is as good as converged when its mean update is shorter
      than this, > 0.
    eps2: and it is split if some client's update is longer than this, >= 0.
    gamma: and if the two sides differ more than this, in [0, 1]; 0 to leave
      the test out.
    first_split: rounds before the first split.
    min_size: fewest clients of a cluster that is split, >= 2.
  """

  weights: ClassVar = 'uniform'
  clusters: int = 8
  eps1: float = 0.4
  eps2: float = 1.6
  gamma: float = 0.5
  first_split: int = 20
  min_size: int = 3


class Split(NamedTuple):
  """Splits under way: who is where, and who stayed and left at each."""

  of: Array  # [C] clusters of all clients
  here: Array  # [K] clusters of the cohort, M for a dead slot
  num: Array
  origin: Array  # [M] the cluster whose model each one starts from
  stay: Array  # [M, K] weights of the mean direction of those who stayed
  go: Array  # [M, K] of those who left


def cfl(settings: CFL, parts: Parts) -> Algorithm:
  """Clustered federated learning by recursive bipartition.

  Each cluster c is FedAvg of its own.  With the updates d_i of its clients,
  weights w_i, and a_ij the cosine of d_i and d_j, it is split in a round in
  which all of its clients take part, if

    |sum w_i d_i / sum w_i| < eps1   and   max |d_i| > eps2
    sqrt((1 - a) / 2) > gamma

  where a is the largest a_ij between the two sides, which are chosen so that
  it is least.  The new cluster starts from the model of the old one, and both
  move by the mean update of their own clients in the same round.  At most M
  clusters; later ones are split in turn.

  Args:
    settings: the integers are structure; the other numbers come with
      `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  The server's `extra` is a `fedjax_ls.clusters.Clusters`:
    `walk` finds the cluster of a new client, `draw` draws the tree.  Clients
    keep no state; the server knows who they are.

  Raises:
    ValueError: at the start, the updates of a cohort are too large to be held
      side by side.

  References:
    Sattler, Mueller, Samek. Clustered federated learning: model-agnostic
    distributed multitask optimization under privacy constraints. IEEE TNNLS
    2020.

  Differs from the authors' code in: there the sides come from complete
  linkage, which is not the least; there is no test of gamma; a client's
  momentum and learning rate live on from round to round.  A new client is
  compared with the mean of each side, so that the server need not keep all
  updates of the past.
  """
  model, most = parts.model, settings.clusters

  def send(hyper, state, round) -> server.Message:
    return server.Message(state.params, state.stats, state.extra.of)

  def own_model(params: Tree, stats: Tree, of: Array, ctx: Ctx):
    at = of[jnp.minimum(ctx.id, len(of) - 1)]
    return jax.tree.map(lambda a: a[at], (params, stats))

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    message = ctx.message
    return Start(*own_model(message.params, message.stats, message.extra, ctx))

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    return Upload(
      stacked={
        'delta': optax.tree.sub(end.params, begin.params),
        'stats': end.stats,
        'weight': server.client_weight(hyper, ctx),
      },
      metrics=local.train_loss(end),
    )

  def step(hyper: Hyper, state, reduced, stacked, cohort: Cohort):
    live = cohort.ids < cohort.population
    stacked_lib.check_size('method cfl', stacked['delta'])
    stacked = stacked_lib.only(live, stacked)
    change, weight, tree = stacked['delta'], stacked['weight'], state.extra
    split = splits(hyper.method, tree, cohort, change, weight)
    state = inherit(hyper, state, split.origin)
    members = jnp.arange(most)[:, None] == split.here[None]
    sums = {
      name: _per_cluster(members * weight[None], stacked[name])
      for name in ('delta', 'stats')
    }
    reduced = mapping.reduce(sums)
    tree = remember(tree, split, state, change)
    state = server.move(hyper, state, reduced, reduced.mean['delta'])
    return state._replace(extra=tree)

  def splits(
    method: CFL, tree: Clusters, cohort: Cohort, change: Tree, weight: Array
  ) -> Split:
    """All splits of a round, of clusters that there were before it."""
    live = cohort.ids < cohort.population
    known = jnp.minimum(cohort.ids, cohort.population - 1)
    products = stacked_lib.gram(change)
    norm = jnp.sqrt(jnp.diagonal(products))
    unit = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
    cosine = products * unit[:, None] * unit[None]

    def consider(c, split: Split) -> Split:
      member = split.here == c
      share = jnp.where(member, weight, 0)
      share = share / jnp.maximum(jnp.sum(share), jnp.finfo(share.dtype).tiny)
      share = share.astype(products.dtype)
      mean = jnp.sqrt(jnp.maximum(share @ products @ share, 0))
      side, across = clusters_lib.bipartition(cosine, member)
      # The first client stays, whatever the order of the cohort.
      first = jnp.argmin(jnp.where(member, cohort.ids, cohort.population))
      side = member & (side != side[first])
      present = jnp.sum(member)
      do = (
        (c < tree.num)
        & (split.num < most)
        & (tree.rounds >= settings.first_split)
        & (present == jnp.sum(split.of == c))
        & (present >= settings.min_size)
        & (mean < method.eps1)
        & (jnp.max(jnp.where(member, norm, 0)) > method.eps2)
        & (jnp.sqrt(jnp.maximum(1 - across, 0) / 2) > method.gamma)
      )
      new, side = jnp.where(do, split.num, most), side & do
      gone = jnp.where(side, cohort.ids, cohort.population)
      return Split(
        of=split.of.at[gone].set(new, mode='drop'),
        here=jnp.where(side, new, split.here),
        num=split.num + do,
        origin=split.origin.at[new].set(c, mode='drop'),
        stay=split.stay.at[new].set(
          _mean_of(member & ~side, unit), mode='drop'
        ),
        go=split.go.at[new].set(_mean_of(side, unit), mode='drop'),
      )

    none = jnp.zeros((most, len(unit)), unit.dtype)
    begin = Split(
      of=tree.of,
      here=jnp.where(live, tree.of[known], most),
      num=tree.num,
      origin=jnp.arange(most),
      stay=none,
      go=none,
    )
    return jax.lax.fori_loop(0, most, consider, begin)

  def inherit(hyper: Hyper, state, origin: Array):
    """New clusters begin with the model and the optimizer of the old one."""
    take = lambda a: a[origin]  # noqa: E731
    opt = optax.tree.map_params(server.optimizer(hyper.server), take, state.opt)
    params, stats = jax.tree.map(take, (state.params, state.stats))
    return state._replace(params=params, stats=stats, opt=opt)

  def remember(tree: Clusters, split: Split, state, change: Tree) -> Clusters:
    ids = jnp.arange(most)
    new = (ids >= tree.num) & (ids < split.num)

    def kept(old: Tree, value: Tree) -> Tree:
      return jax.tree.map(
        lambda a, b: jnp.where(new.reshape((-1,) + (1,) * (a.ndim - 1)), b, a),
        old,
        value,
      )

    return Clusters(
      of=split.of,
      num=split.num,
      rounds=tree.rounds + 1,
      parent=kept(tree.parent, split.origin.astype(tree.parent.dtype)),
      born=kept(tree.born, jnp.broadcast_to(tree.rounds, new.shape)),
      node=kept(tree.node, (state.params, state.stats)),
      stay=kept(tree.stay, _combined(split.stay, change)),
      go=kept(tree.go, _combined(split.go, change)),
    )

  def init(hyper: Hyper, key, federation):
    params, stats = jax.tree.map(
      lambda a: jnp.broadcast_to(a, (most, *a.shape)), model.init(key)
    )
    opt = server.optimizer(hyper.server).init(params)
    tree = clusters_lib.one_cluster(len(federation.size), params, stats)
    return server.ServerState(params, stats, opt, tree), ()

  client = local.local_sgd(
    model, start=start, finish=finish, unroll=parts.unroll
  )
  return Algorithm(
    init=init,
    phases=(Phase(send, client, step),),
    sampler=parts.sampler,
    model=lambda state: jax.tree.map(
      lambda a: a[0], server.global_model(state)
    ),
    personal=lambda hyper, ctx: own_model(
      ctx.message.params, ctx.message.stats, ctx.message.extra.of, ctx
    ),
    cluster=lambda hyper, ctx: ctx.message.extra.of[ctx.id],
  )


def _mean_of(member: Array, unit: Array) -> Array:
  """`[K]` weights of the mean of the members' directions."""
  return jnp.where(member, unit, 0) / jnp.maximum(jnp.sum(member), 1)


def _combined(weights: Array, values: Tree) -> Tree:
  """`[M, ...]` sums of values `[K, ...]` by weights `[M, K]`."""
  return jax.tree.map(
    lambda v: jnp.tensordot(weights.astype(v.dtype), v, 1), values
  )


def _per_cluster(weights: Array, values: Tree) -> tuple[Tree, Tree]:
  """Sums of weight * value and of weights, as `mapping.reduce` takes them."""
  total = jnp.sum(weights, 1)
  return _combined(weights, values), jax.tree.map(
    lambda v: total.reshape((-1,) + (1,) * (v.ndim - 1)), values
  )


METHOD = Method(
  name='cfl',
  settings=CFL,
  build=cfl,
  references=(
    'Sattler, Mueller, Samek. Clustered federated learning: model-agnostic '
    'distributed multitask optimization under privacy constraints. IEEE TNNLS '
    '2020.',
  ),
  toy=CFL(
    clusters=3, eps1=10.0, eps2=0.0, gamma=0.0, first_split=0, min_size=2
  ),
  identity=Identity(CFL(clusters=1), 'fedavg', FedAvg()),
  ranges={
    'clusters': rules.COUNT,
    'eps1': rules.POSITIVE,
    'eps2': rules.NOT_NEGATIVE,
    'gamma': (lambda v: 0 <= v <= 1, 'choose it in [0, 1]'),
    'first_split': rules.NOT_NEGATIVE,
    'min_size': (lambda v: v >= 2, 'choose 2 or more'),
  },
)
