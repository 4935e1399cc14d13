"""Width-masked FedAvg: each client trains the channels its tier affords."""

import dataclasses

import jax
import optax

from fedjax_ls import local, server, transforms
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import End, Start
from fedjax_ls.models.submodels import exact_rates
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload, Weighted


@traced
@dataclasses.dataclass
class Width:
  """Numbers of width-masked FedAvg.

  Attributes:
    rates: share of the channels of each tier, as decimals or fractions in
      (0, 1]; tier 0 has the first.
  """

  rates: tuple[str, ...] = ('1', '1/2', '1/4')


def width(settings: Width, parts: Parts) -> Algorithm:
  """FedAvg over submodels of several widths, averaged by holders.

  A client of rate r trains the leading ceil(r n) of the n channels of every
  hidden layer: m_k is 1 on the weights between them and 0 elsewhere.

    y_k <- x, then K local steps of y_k <- y_k - m_k * (optimizer's update)
    x   <- x + server step along sum w_k m_k (y_k - x) / sum w_k m_k

  element by element; an element that nobody in the cohort holds stays, and so
  does its server optimizer's state.

  Args:
    settings: `rates` must be those of `parts.submodels`.
    parts: model, sampler and submodels.

  Returns:
    The algorithm.  Clients keep no state.

  Raises:
    ValueError: there are no submodels, or those of other rates.

  References:
    Diao, Ding, Tarokh. HeteroFL: computation and communication efficient
    federated learning for heterogeneous clients. ICLR 2021 (its aggregation,
    without Scaler, masked loss and clipping).

  Differs from the authors' code in: clients count by `server.weights`,
  `uniform` being theirs; classifier rows are averaged over all clients.
  """
  submodels = parts.submodels
  if submodels is None:
    raise ValueError(
      f'algorithm.rates is {settings.rates} but the model has no submodels; '
      'use a network with a method slim, as all image networks have.'
    )
  if exact_rates(settings.rates, 'algorithm.rates') != submodels.rates:
    theirs = tuple(str(rate) for rate in submodels.rates)
    raise ValueError(
      f'algorithm.rates = {settings.rates} but the submodels have {theirs}; '
      f'use method = Width(rates={theirs})'
    )

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    return Start(
      ctx.message.params,
      ctx.message.stats,
      extra={'mask': submodels.mask(ctx.tier)},
      width=submodels.width(ctx.tier),
    )

  def tx(hyper: Hyper, ctx: Ctx):
    chain = local.optimizer(hyper, ctx)
    return optax.chain(chain, transforms.masked_update())

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    weight = server.client_weight(hyper, ctx)

    def held(mask):
      return jax.tree.map(lambda m: weight * m, mask)

    upload = local.upload_change(hyper, ctx, begin, end)
    change, stats = upload.summed['delta'], upload.summed['stats']
    return upload._replace(
      summed={
        'delta': Weighted(change.value, held(begin.extra['mask'])),
        'stats': Weighted(stats.value, held(submodels.stats_mask(ctx.tier))),
      }
    )

  client = local.local_sgd(
    parts.model, tx=tx, start=start, finish=finish, unroll=parts.unroll
  )
  return Algorithm(
    init=server.init(parts.model),
    phases=(Phase(server.send, client, server.step),),
    sampler=parts.sampler,
    model=server.global_model,
  )


METHOD = Method(
  name='width',
  settings=Width,
  build=width,
  references=(
    'Diao, Ding, Tarokh. HeteroFL: computation and communication efficient '
    'federated learning for heterogeneous clients. ICLR 2021.',
  ),
  toy=Width(),
  identity=Identity(Width(rates=('1',)), 'fedavg', FedAvg()),
  needs_submodels=True,
)
