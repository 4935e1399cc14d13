"""Agnostic federated learning: the worst mixture of clients is minimized."""

import dataclasses

import jax.numpy as jnp
import optax

from fedjax_ls import local, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.types import Algorithm, Cohort, Ctx, Phase, Upload, Weighted


@traced
@dataclasses.dataclass
class Agnostic:
  """Numbers of agnostic federated learning.

  Attributes:
    ascent: step size of the clients' weights, >= 0; 0 keeps them equal.
  """

  ascent: float = 0.01


def agnostic(settings: Agnostic, parts: Parts) -> Algorithm:
  """Agnostic federated learning (AFL): min over x, max over mixtures.

  Minimizes the largest sum_k l_k F_k(x) over all l >= 0 of sum 1.  With server
  model x, cohort S, and F_k(x) the mean loss over all of client k's examples:

    y_k <- x, then local steps
    x   <- x + server step along sum_S l_k (y_k - x) / sum_S l_k
    l_S <- nearest point to l_S + ascent F_S(x) with l_k >= 0 and the same sum

  All l_k are 1 / C at first.  With everybody taking part and one local step
  this is projected gradient descent and ascent; in a cohort the weights only
  move among its members.

  Args:
    settings: none is read here; `ascent` comes with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Each client keeps l_k.

  References:
    Mohri, Sivek, Suresh. Agnostic federated learning. ICML 2019.
    Duchi, Shalev-Shwartz, Singer, Chandra. Efficient projections onto the
    l1-ball for learning in high dimensions. ICML 2008 (the projection).

  Differs from the authors' code in: there the mean of all rounds' models is
  judged, here the last one.  And from the paper in: clients, not domains, are
  mixed; they take local steps; `server.weights` is not read.
  """
  del settings
  model = parts.model

  def loss(hyper: Hyper, ctx: Ctx) -> Upload:
    received = ctx.message.params, ctx.message.stats
    value = local.full_loss(model, hyper, ctx, *received)
    raised = ctx.state + hyper.method.ascent * value
    return Upload(stacked=(ctx.state, raised), carry=raised)

  def project(hyper, state, reduced, stacked, cohort: Cohort):
    live = cohort.ids < cohort.population
    mass = jnp.sum(jnp.where(live, stacked[0], 0))
    return state._replace(extra=threshold(stacked[1], live, mass))

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    change = optax.tree.sub(end.params, ctx.message.params)
    return Upload(
      {
        'delta': Weighted(change, ctx.state),
        'stats': Weighted(end.stats, ctx.state),
      },
      state=jnp.maximum(ctx.carry - ctx.message.extra, 0),
      metrics=local.train_loss(end),
    )

  def init(hyper: Hyper, key, federation):
    share = jnp.asarray(1 / len(federation.size), float)
    return server.start(model, hyper, key, extra=jnp.zeros(())), share

  client = local.local_sgd(model, finish=finish, unroll=parts.unroll)
  return Algorithm(
    init=init,
    phases=(
      Phase(server.send, loss, project),
      Phase(server.send, client, server.step),
    ),
    sampler=parts.sampler,
    model=server.global_model,
  )


def threshold(values, live, mass):
  """What to take from `values[K]` so that what stays above 0 sums to `mass`.

  Args:
    values: `[K]`.
    live: `[K]`, False for what does not count.
    mass: the sum to reach, >= 0.

  Returns:
    The scalar; 0 if nothing is live.

  >>> float(threshold(jnp.array([0.5, 0.25, 0.75]), jnp.ones(3, bool), 1.0))
  0.1666666716337204
  >>> float(threshold(jnp.array([0.0, 2.0]), jnp.ones(2, bool), 0.0))
  2.0
  """
  ordered = jnp.sort(jnp.where(live, values, -jnp.inf), descending=True)
  rank = jnp.arange(1, len(values) + 1)
  inside = ordered > -jnp.inf
  level = (jnp.cumsum(jnp.where(inside, ordered, 0)) - mass) / rank
  count = jnp.sum(inside & (ordered > level))
  # Without mass, or one lost in rounding, nothing is above its own level.
  most = jnp.where(inside[0], ordered[0], 0)
  return jnp.where(count > 0, level[jnp.maximum(count - 1, 0)], most)


METHOD = Method(
  name='agnostic',
  settings=Agnostic,
  build=agnostic,
  references=('Mohri, Sivek, Suresh. Agnostic federated learning. ICML 2019.',),
  toy=Agnostic(ascent=0.2),
  identity=Identity(
    Agnostic(ascent=0.0), 'fedavg', FedAvg(), server={'weights': 'uniform'}
  ),
  ranges={'ascent': rules.NOT_NEGATIVE},
)
