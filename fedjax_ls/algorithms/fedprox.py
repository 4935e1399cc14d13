"""FedProx: a proximal term against client drift."""

import dataclasses

from fedjax_ls import local, losses, rules
from fedjax_ls.algorithms.base import Identity, Method, Parts, has_term
from fedjax_ls.algorithms.fedavg import FedAvg, averaging
from fedjax_ls.hyper import traced
from fedjax_ls.types import Algorithm


@traced
@dataclasses.dataclass
class FedProx:
  """Numbers of FedProx.

  Attributes:
    mu: weight of the proximal term, >= 0.
  """

  mu: float = 0.01


def fedprox(settings: FedProx, parts: Parts) -> Algorithm:
  """FedAvg with a local objective that holds clients near the server model.

  With server model x and cohort S:

    y_k <- x, then K local steps on f_k(y_k) + mu / 2 |y_k - x|^2
    x   <- x + server step along the weighted mean of y_k - x

  The term's gradient mu (y_k - x) is 0 at the first local step.

  Args:
    settings: none is read here; `mu` comes with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  References:
    Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith. Federated optimization in
    heterogeneous networks. MLSys 2020.

  Stragglers, who do fewer epochs, are `client.partial_work`.

  Differs from the authors' code in: there the stragglers are a fixed number of
  each cohort, here each client is one with the same probability.
  """
  del settings
  term = losses.proximal(lambda hyper: hyper.method.mu)
  client = local.local_sgd(parts.model, terms=(term,), unroll=parts.unroll)
  return averaging(parts, client)


METHOD = Method(
  name='fedprox',
  settings=FedProx,
  build=fedprox,
  references=(
    'Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith. Federated optimization in '
    'heterogeneous networks. MLSys 2020.',
  ),
  toy=FedProx(mu=0.5),
  identity=Identity(FedProx(mu=0.0), 'fedavg', FedAvg()),
  ranges={'mu': rules.NOT_NEGATIVE},
  check=has_term('proximal'),
  adversarial=True,
)
