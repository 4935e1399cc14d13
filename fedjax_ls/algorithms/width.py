"""Width-masked FedAvg: each client trains the channels its tier affords."""

import dataclasses

from fedjax_ls import narrow, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.hyper import traced
from fedjax_ls.types import Algorithm


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
  submodels = narrow.submodels_of(settings.rates, parts)
  return Algorithm(
    init=server.init(parts.model),
    phases=(narrow.phase(parts, submodels),),
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
