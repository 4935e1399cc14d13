"""FedRS: restricted softmax for classes that a client does not have."""

import dataclasses

from fedjax_ls import calibrations, local
from fedjax_ls.algorithms.base import Identity, Method, Parts, has_calibration
from fedjax_ls.algorithms.fedavg import FedAvg, averaging
from fedjax_ls.hyper import traced
from fedjax_ls.types import Algorithm


@traced
@dataclasses.dataclass
class FedRS:
  """Numbers of FedRS.

  Attributes:
    alpha: factor of the logits of absent classes, in [0, 1].
    graded: whether the factors of all classes follow their shares.
  """

  alpha: float = 0.5
  graded: bool = False


def fedrs(settings: FedRS, parts: Parts) -> Algorithm:
  """FedAvg with smaller logits for absent classes.

  With logits v_c and shares p_c of the classes on the client:

    s_c <- 1 if p_c > 0 else alpha                      (binary)
    s_c <- (1 - alpha) p_c / max p + alpha              (graded)
    y_k <- x, then K local steps on the cross-entropy of s_c v_c
    x   <- x + server step along the weighted mean of y_k - x

  Absent classes are pushed away alpha times as fast.

  Args:
    settings: `graded` is structure.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  References:
    Li, Zhan. FedRS: federated learning with restricted softmax for label
    distribution non-IID data. KDD 2021.

  Differs from the authors' code in: theirs is graded, on logits without bias;
  here the bias of the classifier, if it has one, is scaled, too.
  """
  client = local.local_sgd(
    parts.model,
    calibrate=calibrations.fedrs(
      lambda hyper: hyper.method.alpha, graded=settings.graded
    ),
    unroll=parts.unroll,
  )
  return averaging(parts, client)


METHOD = Method(
  name='fedrs',
  settings=FedRS,
  build=fedrs,
  references=(
    'Li, Zhan. FedRS: federated learning with restricted softmax for label '
    'distribution non-IID data. KDD 2021.',
  ),
  toy=FedRS(),
  identity=Identity(FedRS(alpha=1.0), 'fedavg', FedAvg()),
  ranges={'alpha': (lambda v: 0 <= v <= 1, 'choose it in [0, 1]')},
  check=has_calibration,
)
