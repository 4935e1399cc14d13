"""FedDecorr: a penalty on correlated features."""

import dataclasses

from fedjax_ls import local, losses, rules
from fedjax_ls.algorithms.base import Identity, Method, Parts, has_term
from fedjax_ls.algorithms.fedavg import FedAvg, averaging
from fedjax_ls.hyper import traced
from fedjax_ls.types import Algorithm


@traced
@dataclasses.dataclass
class FedDecorr:
  """Numbers of FedDecorr.

  Attributes:
    coefficient: weight of the penalty, >= 0.
    scale: of the penalty, `paper` or `code`.
  """

  coefficient: float = 0.1
  scale: str = 'paper'


def feddecorr(settings: FedDecorr, parts: Parts) -> Algorithm:
  """FedAvg with a local penalty against features that collapse.

  With Z the `[N, D]` features of a batch (the classifier's input), of mean 0
  and variance 1 in the batch, and K = Z^T Z / N:

    L   =  |K|_F^2 / D^2                                            (paper)
    L   =  N / (D (D - 1)) times the sum of K_ij^2 over i != j      (code)
    y_k <- x, then K_k local steps on f_k + coefficient L
    x   <- x + server step along the weighted mean of y_k - x

  A batch of one example has L = 0.

  Args:
    settings: `scale` is structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  Raises:
    ValueError: `scale` is unknown.

  References:
    Shi, Liang, Zhang, Tan, Bai. Towards understanding and mitigating
    dimensional collapse in heterogeneous federated learning. ICLR 2023.

  Differs from the authors' code in: `paper` is the default; with `code` the
  same coefficient acts N D / (D - 1) times as strongly, 64 times and more at
  batch size 64.  Both add 1e-8 to the variance, as the code does.
  """
  term = losses.decorrelation(
    lambda hyper: hyper.method.coefficient, settings.scale
  )
  client = local.local_sgd(parts.model, terms=(term,), unroll=parts.unroll)
  return averaging(parts, client)


METHOD = Method(
  name='feddecorr',
  settings=FedDecorr,
  build=feddecorr,
  references=(
    'Shi, Liang, Zhang, Tan, Bai. Towards understanding and mitigating '
    'dimensional collapse in heterogeneous federated learning. ICLR 2023.',
  ),
  toy=FedDecorr(coefficient=0.1),
  identity=Identity(FedDecorr(coefficient=0.0), 'fedavg', FedAvg()),
  ranges={
    'coefficient': rules.NOT_NEGATIVE,
    'scale': (lambda v: v in losses.SCALES, 'choose paper or code'),
  },
  check=has_term('decorrelation'),
)
