"""IFCA: several global models, each client trains the one that fits it."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, learning_rate, traced
from fedjax_ls.local import End, Start
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Weighted


@traced
@dataclasses.dataclass
class Ifca:
  """Numbers of IFCA.

  Attributes:
    clusters: number M of models, >= 1.
    option: what is averaged, `models` (II) after local steps, or `gradients`
      (I), one full gradient a client.
  """

  clusters: int = 2
  option: str = 'models'


def ifca(settings: Ifca, parts: Parts) -> Algorithm:
  """Iterative federated clustering.

  With models x_1..x_M, all broadcast, and cohort S:

    j(i) <- argmin_j f_i(x_j), the mean loss over the client's training data
    models:    y_i <- local steps from x_j(i);
               x_j <- weighted mean of y_i over the members of cluster j
    gradients: x_j <- x_j - (a / |S|) sum over members of grad f_i(x_j)

  A cluster that nobody chose stays as it is.  Each model starts from its own
  key: equal models would gather all clients in one cluster.

  Args:
    settings: both fields are structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state: identities are found anew.

  Raises:
    ValueError: `option` is unknown.

  References:
    Ghosh, Chung, Yin, Ramchandran. An efficient framework for clustered
    federated learning. NeurIPS 2020.

  Differs from the authors' code in: a client is also judged by the model that
  fits its training data, where their MNIST and CIFAR code looks at its test
  labels; members count by `server.weights`, theirs uniformly there.  Option I
  divides by all participants, as there.
  """
  if settings.option not in ('models', 'gradients'):
    raise ValueError(
      f'algorithm.option is {settings.option!r}; use models or gradients.'
    )
  model = parts.model

  def chosen(hyper: Hyper, ctx: Ctx):
    """The model with the least loss on the client's data, and its number."""
    models = (ctx.message.params, ctx.message.stats)
    losses = jax.lax.map(
      lambda m: local.full_loss(model, hyper, ctx, *m), models
    )
    j = jnp.argmin(losses)
    return jax.tree.map(lambda a: a[j], models), j

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    (params, stats), j = chosen(hyper, ctx)
    return Start(params, stats, kept=j)

  def to_cluster(j, weight, value) -> Weighted:
    """`value` for model j alone."""
    onehot = jnp.arange(settings.clusters) == j

    def mask(leaf):
      shape = (settings.clusters,) + (1,) * leaf.ndim
      return weight * onehot.reshape(shape)

    return Weighted(
      jax.tree.map(lambda v: v[None], value), jax.tree.map(mask, value)
    )

  def gradients(hyper: Hyper, ctx: Ctx) -> Upload:
    (params, stats), j = chosen(hyper, ctx)
    gradient, loss = local.full_gradient(model, hyper, ctx, params, stats)
    rate = learning_rate(hyper.client, ctx.round)
    return Upload(
      {
        'delta': to_cluster(j, 1.0, optax.tree.scale(-rate, gradient)),
        'stats': to_cluster(j, 1.0, stats),
        'clients': Weighted(jnp.ones(()), 1.0),
      },
      metrics={'train/loss': Weighted(loss, ctx.size.astype(float))},
    )

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    j = begin.kept
    weight = server.client_weight(hyper, ctx)
    change = optax.tree.sub(end.params, begin.params)
    return Upload(
      {
        'delta': to_cluster(j, weight, change),
        'stats': to_cluster(j, weight, end.stats),
      },
      metrics=local.train_loss(end),
    )

  def step(hyper, state, reduced, stacked, cohort):
    if settings.option == 'models':
      return server.step(hyper, state, reduced, stacked, cohort)
    share = 1.0 / jnp.maximum(reduced.total['clients'], 1.0)
    delta = optax.tree.scale(share, reduced.total['delta'])
    return server.move(hyper, state, reduced, delta)

  def init(hyper: Hyper, key, federation):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      key, jnp.arange(settings.clusters)
    )
    # One cluster starts as FedAvg does.
    keys = keys if settings.clusters > 1 else key[None]
    params, stats = jax.vmap(model.init)(keys)
    opt = server.optimizer(hyper.server).init(params)
    return server.ServerState(params, stats, opt), ()

  models = local.local_sgd(
    model, start=start, finish=finish, unroll=parts.unroll
  )
  client = models if settings.option == 'models' else gradients
  return Algorithm(
    init=init,
    phases=(Phase(server.send, client, step),),
    sampler=parts.sampler,
    model=lambda state: jax.tree.map(
      lambda a: a[0], server.global_model(state)
    ),
    personal=lambda hyper, ctx: chosen(hyper, ctx)[0],
  )


METHOD = Method(
  name='ifca',
  settings=Ifca,
  build=ifca,
  references=(
    'Ghosh, Chung, Yin, Ramchandran. An efficient framework for clustered '
    'federated learning. NeurIPS 2020.',
  ),
  toy=Ifca(clusters=2),
  identity=Identity(Ifca(clusters=1), 'fedavg', FedAvg()),
  ranges={'clusters': rules.COUNT},
)
