"""FedNova: averages changes per unit of local progress."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import local, rules, server, transforms
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Client, Hyper, learning_rate, traced
from fedjax_ls.local import End, Start
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Weighted


@traced
@dataclasses.dataclass
class FedNova:
  """Numbers of FedNova.

  Attributes:
    mu: of the clients' proximal term, >= 0; 0 for none.
  """

  mu: float = 0.0


def fednova(settings: FedNova, parts: Parts) -> Algorithm:
  """Federated averaging with normalized changes.

  With server model x, weights w_k that sum to 1 over the cohort, tau_k local
  steps of client k and learning rate a:

    y_k <- x, then tau_k local steps on f_k(y) + mu/2 |y - x|^2
    d_k <- (x - y_k) / a_k
    x   <- x - tau_eff sum_S w_k d_k

  a_k says how many gradients, each with its weight in x - y_k, the client has
  gathered; see `progress`.  It is tau_k under SGD and more under momentum.
  tau_eff is sum_S w_k a_k, and sum_S w_k tau_k for mu > 0.  Any server
  optimizer takes the step in place of the plain one.

  Args:
    settings: none is read here; `mu` comes with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  References:
    Wang, Liu, Liang, Joshi, Poor. Tackling the objective inconsistency problem
    in heterogeneous federated optimization. NeurIPS 2020.

  Differs from the authors' code in: with both momentum and mu, a_k is that of
  the steps taken, where theirs adds up the two cases.  As there, weight decay
  and clipping do not enter a_k.
  """
  del settings

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    params, stats, _ = ctx.message
    return Start(params, stats, extra={'anchor': params})

  def tx(hyper: Hyper, ctx: Ctx):
    link = transforms.proximal(hyper.method.mu)
    return optax.chain(link, local.optimizer(hyper, ctx))

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    rate, mu = learning_rate(hyper.client, ctx.round), hyper.method.mu
    own = progress(hyper.client, rate, mu, end.steps)
    effective = jnp.where(mu > 0, end.steps, own)
    upload = local.upload_change(hyper, ctx, begin, end)
    change, weight = upload.summed['delta']
    change = optax.tree.scale(1 / jnp.where(own > 0, own, 1), change)
    return upload._replace(
      summed=upload.summed
      | {
        'delta': Weighted(change, weight),
        'effective': Weighted(effective, weight),
      }
    )

  def step(hyper: Hyper, state, reduced, stacked, cohort):
    delta = optax.tree.scale(reduced.mean['effective'], reduced.mean['delta'])
    return server.move(hyper, state, reduced, delta)

  client = local.local_sgd(
    parts.model, tx=tx, start=start, finish=finish, unroll=parts.unroll
  )
  return Algorithm(
    init=server.init(parts.model),
    phases=(Phase(server.send, client, step),),
    sampler=parts.sampler,
    model=server.global_model,
  )


def progress(client: Client, rate, mu, steps: jax.Array) -> jax.Array:
  """a_k: the sum of the weights that gradients have in a client's change.

  It is how far, in learning rates, the client's optimizer moves when every
  gradient of f_k is 1:

    v <- r v + 1 - mu a A;   A <- A + v     after every step, from v = A = 0

  with momentum r (0 under SGD).  For mu = 0 this is
  (tau - r (1 - r^tau) / (1 - r)) / (1 - r), for r = 0 it is
  A <- (1 - a mu) A + 1.

  Args:
    client: says the optimizer, `sgd` or `momentum`.
    rate: the learning rate a.
    mu: of the proximal term.
    steps: tau_k.

  Returns:
    Scalar a_k.

  >>> print(progress(Client(optimizer='sgd'), 0.1, 0.0, 3))
  3.0
  >>> print(progress(Client(optimizer='momentum', momentum=0.5), 0.1, 0.0, 3))
  4.25
  """
  has_momentum = client.optimizer == 'momentum'
  decay = client.momentum if has_momentum else 0.0

  def gather(_, carry):
    v, total = carry
    v = decay * v + 1 - mu * rate * total
    return v, total + v

  zero = jnp.zeros_like(jnp.asarray(rate, float) * mu * steps)
  return jax.lax.fori_loop(0, jnp.asarray(steps, int), gather, (zero, zero))[1]


def _check(config) -> None:
  optimizer = config.client.optimizer
  if optimizer == 'adam':
    raise ValueError(
      f'client.optimizer = {optimizer!r} does not fit method fednova, which '
      'counts the gradients in a change; use sgd or momentum'
    )
  if 'proximal' in config.loss.terms:
    raise ValueError(
      f'loss.terms = {config.loss.terms!r} does not fit method fednova, which '
      'counts its own proximal term; leave proximal out and set algorithm.mu'
    )


METHOD = Method(
  name='fednova',
  settings=FedNova,
  build=fednova,
  references=(
    'Wang, Liu, Liang, Joshi, Poor. Tackling the objective inconsistency '
    'problem in heterogeneous federated optimization. NeurIPS 2020.',
  ),
  toy=FedNova(),
  # Who has taken equal steps has the same a_k.
  identity=Identity(
    FedNova(), 'fedavg', FedAvg(), client={'unit': 'steps', 'amount': 3}
  ),
  ranges={'mu': rules.NOT_NEGATIVE},
  check=_check,
)
