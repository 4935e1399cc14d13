"""q-FFL: fairness by giving more weight to clients with a larger loss."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts, steps_unless
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, learning_rate, traced
from fedjax_ls.local import End, Start
from fedjax_ls.types import Algorithm, Cohort, Ctx, Phase, Upload, Weighted

# Added to losses, which may be zero.
_EPS = 1e-10


@traced
@dataclasses.dataclass
class QFFL:
  """Numbers of q-FFL.

  Attributes:
    q: how much a larger loss counts, >= 0; 0 is the plain mean.
    lipschitz: L, which bounds how fast the gradient changes, >= 0; 0 for the
      inverse of the client learning rate.
    option: what a client sends, the change by `local_steps` (q-FedAvg), its
      `gradient` or that of one random `batch` (q-FedSGD).
  """

  weights: ClassVar = 'uniform'
  q: float = 1.0
  lipschitz: float = 0.0
  option: str = 'local_steps'


def qffl(settings: QFFL, parts: Parts) -> Algorithm:
  """q-fair federated learning: q-FedAvg and q-FedSGD.

  Minimizes sum_k p_k F_k(x)^(q + 1) / (q + 1).  With server model x, cohort S,
  client learning rate a, and F_k(x) the mean loss over all of client k's
  examples:

    d_k <- (x - y_k) / a, y_k after local steps       (local_steps)
    d_k <- grad F_k(x)                                (gradient)
    u_k <- w_k (F_k / max_S F)^q
    x   <- x - sum_S u_k d_k / sum_S u_k (q |d_k|^2 / F_k + L)

  which is the paper's sum of F_k^q d_k over sum of
  q F_k^(q - 1) |d_k|^2 + L F_k^q, divided by max F^q above and below so that
  large q do not overflow.  `batch` takes d_k and F_k from one random batch.

  Args:
    settings: `option` is structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state; they are asked for F_k first.

  Raises:
    ValueError: `option` is unknown.

  References:
    Li, Sanjabi, Beirami, Smith. Fair resource allocation in federated
    learning. ICLR 2020.

  The paper draws clients in proportion to n_k (`sampler.name = proportional`)
  and has w_k = 1.

  Differs from the authors' code in: a batch of q-FedSGD there is all of a
  client's examples, shuffled anew each round, which is `gradient`; there is no
  `static_step_size`, by which each client adds L to the denominator in place
  of q F_k^(q - 1) |d_k|^2 + L F_k^q.
  """
  if settings.option not in ('local_steps', 'gradient', 'batch'):
    raise ValueError(
      f'algorithm.option is {settings.option!r}; use local_steps, gradient or '
      'batch.'
    )
  model = parts.model

  def loss(hyper: Hyper, ctx: Ctx) -> Upload:
    received = ctx.message.params, ctx.message.stats
    value = local.full_loss(model, hyper, ctx, *received) + _EPS
    return Upload(stacked=value, carry=value)

  def gradient(hyper: Hyper, ctx: Ctx) -> Upload:
    params, stats = ctx.message.params, ctx.message.stats
    if settings.option == 'batch':
      ctx = local.one_batch(hyper.client, ctx)
    change, value = local.full_gradient(model, hyper, ctx, params, stats)
    value = value + _EPS
    return Upload(stacked=value, carry=(value, change))

  def keep_largest(hyper, state, reduced, stacked, cohort: Cohort):
    live = cohort.ids < cohort.population
    largest = jnp.max(jnp.where(live, stacked, _EPS))
    return state._replace(extra=largest.astype(state.extra.dtype))

  def fair(hyper: Hyper, ctx: Ctx, value, change, stats, metrics) -> Upload:
    """Uploads a change -a d_k, so that L = 1 / a is 1 and q = 0 the mean."""
    rate = learning_rate(hyper.client, ctx.round)
    method = hyper.method
    weight = server.client_weight(hyper, ctx)
    weight = weight * (value / ctx.message.extra) ** method.q
    bound = jnp.where(method.lipschitz > 0, rate * method.lipschitz, 1.0)
    square = optax.tree.norm(change, squared=True)
    return Upload(
      {
        'delta': Weighted(change, weight),
        'stats': Weighted(stats, weight),
        'step': Weighted(method.q * square / (rate * value) + bound, weight),
      },
      metrics=metrics,
    )

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    change = optax.tree.sub(end.params, ctx.message.params)
    told = local.train_loss(end)
    return fair(hyper, ctx, ctx.carry, change, end.stats, told)

  def send_gradient(hyper: Hyper, ctx: Ctx) -> Upload:
    value, own = ctx.carry
    rate = learning_rate(hyper.client, ctx.round)
    change = optax.tree.scale(-rate, own)
    told = {'train/loss': Weighted(value, ctx.size.astype(float))}
    return fair(hyper, ctx, value, change, ctx.message.stats, told)

  def step(hyper: Hyper, state, reduced, stacked, cohort):
    total = reduced.total['step']
    scale = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    delta = jax.tree.map(
      lambda d: d * scale.astype(d.dtype), reduced.total['delta']
    )
    return server.move(hyper, state, reduced, delta)

  def init(hyper: Hyper, key, federation):
    return server.start(model, hyper, key, extra=jnp.asarray(_EPS, float)), ()

  trained = local.local_sgd(model, finish=finish, unroll=parts.unroll)
  steps = settings.option == 'local_steps'
  return Algorithm(
    init=init,
    phases=(
      Phase(server.send, loss if steps else gradient, keep_largest),
      Phase(server.send, trained if steps else send_gradient, step),
    ),
    sampler=parts.sampler,
    model=server.global_model,
  )


METHOD = Method(
  name='qffl',
  settings=QFFL,
  build=qffl,
  references=(
    'Li, Sanjabi, Beirami, Smith. Fair resource allocation in federated '
    'learning. ICLR 2020.',
  ),
  toy=QFFL(q=0.5, lipschitz=5.0),
  identity=Identity(
    QFFL(q=0.0), 'fedavg', FedAvg(), server={'weights': 'uniform'}
  ),
  ranges={'q': rules.NOT_NEGATIVE, 'lipschitz': rules.NOT_NEGATIVE},
  check=steps_unless('gradient', 'batch'),
)
