"""FedLC: logits calibrated by the client's label counts."""

import dataclasses

from fedjax_ls import calibrations, local, rules
from fedjax_ls.algorithms.base import Identity, Method, Parts, has_calibration
from fedjax_ls.algorithms.fedavg import FedAvg, averaging
from fedjax_ls.hyper import traced
from fedjax_ls.types import Algorithm


@traced
@dataclasses.dataclass
class FedLC:
  """Numbers of FedLC.

  Attributes:
    tau: size of the margin, >= 0.
  """

  tau: float = 1.0


def fedlc(settings: FedLC, parts: Parts) -> Algorithm:
  """FedAvg with a margin for the classes that a client has few of.

  With logits v_c and n_c examples of class c on the client:

    y_k <- x, then K local steps on the cross-entropy of v_c - tau n_c^(-1/4)
    x   <- x + server step along the weighted mean of y_k - x

  The margin of an absent class is infinite: it drops out of the softmax, and
  nothing moves its logit.  A client of one class has loss 0 and does not
  learn at all; one that has every class does, at tau = 0, what FedAvg does.

  Args:
    settings: none is read here; `tau` comes with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  References:
    Zhang et al. Federated learning with label distribution skew via logits
    calibration. ICML 2022.

  Differs from other implementations in: some give absent classes a finite
  margin or count the classes of all clients.  The softmax sums over the true
  class, too, as theirs do.
  """
  del settings
  client = local.local_sgd(
    parts.model,
    calibrate=calibrations.fedlc(lambda hyper: hyper.method.tau),
    unroll=parts.unroll,
  )
  return averaging(parts, client)


METHOD = Method(
  name='fedlc',
  settings=FedLC,
  build=fedlc,
  references=(
    'Zhang et al. Federated learning with label distribution skew via logits '
    'calibration. ICML 2022.',
  ),
  toy=FedLC(tau=0.5),
  # Without a margin, only absent classes tell it from FedAvg.
  identity=Identity(FedLC(tau=0.0), 'fedavg', FedAvg(), every_class=True),
  ranges={'tau': rules.NOT_NEGATIVE},
  check=has_calibration,
)
