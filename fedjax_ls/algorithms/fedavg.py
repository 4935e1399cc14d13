"""FedAvg: local SGD and a weighted average."""

import dataclasses
from collections.abc import Callable

from fedjax_ls import server
from fedjax_ls.algorithms.base import Method, Parts
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.local import local_sgd
from fedjax_ls.types import Algorithm, Ctx, Phase, Upload


@traced
@dataclasses.dataclass
class FedAvg:
  """FedAvg has no numbers of its own."""


def fedavg(settings: FedAvg, parts: Parts) -> Algorithm:
  """Federated averaging, with any server optimizer.

  With server model x, cohort S and weights w_k (n_k or 1):

    y_k <- x, then K local steps y_k <- y_k - a grad f_k(y_k)
    x   <- x + server step along sum_S w_k (y_k - x) / sum_S w_k

  Server `sgd` at learning rate 1 is the plain average; `momentum` is FedAvgM,
  `adagrad`, `adam` and `yogi` are FedAdagrad, FedAdam and FedYogi.

  Args:
    settings: none.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  References:
    McMahan et al. Communication-efficient learning of deep networks from
    decentralized data. AISTATS 2017.
    Hsu et al. Measuring the effects of non-identical data distribution for
    federated visual classification. 2019 (FedAvgM).
    Reddi et al. Adaptive federated optimization. ICLR 2021.

  Differs from the authors' code in: statistics of BatchNorm are averaged with
  the same weights and never pass through the server optimizer.
  """
  del settings
  return averaging(parts, local_sgd(parts.model, unroll=parts.unroll))


def averaging(
  parts: Parts, client: Callable[[Hyper, Ctx], Upload]
) -> Algorithm:
  """FedAvg with a client of one's own, such as `local_sgd(terms=...)`."""
  return Algorithm(
    init=server.init(parts.model),
    phases=(Phase(server.send, client, server.step),),
    sampler=parts.sampler,
    model=server.global_model,
  )


METHOD = Method(
  name='fedavg',
  settings=FedAvg,
  build=fedavg,
  references=(
    'McMahan et al. Communication-efficient learning of deep networks from '
    'decentralized data. AISTATS 2017.',
  ),
  toy=FedAvg(),
  identity=None,
  adversarial=True,
)
