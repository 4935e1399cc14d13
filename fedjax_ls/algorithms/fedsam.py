"""FedSAM: local steps that look for flat minima."""

import dataclasses

import optax

from fedjax_ls import local, rules, transforms
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg, averaging
from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.types import Algorithm, Ctx


@traced
@dataclasses.dataclass
class FedSAM:
  """Numbers of FedSAM.

  Attributes:
    rho: distance at which the gradient is taken, >= 0.
  """

  rho: float = 0.05


def fedsam(settings: FedSAM, parts: Parts) -> Algorithm:
  """FedAvg with sharpness-aware local steps.

  With server model x and cohort S:

    g   <- grad f_k(y_k)
    y_k <- y_k - a grad f_k(y_k + rho g / |g|)       K times from y_k = x
    x   <- x + server step along the weighted mean of y_k - x

  Both gradients are of the same batch; each step costs two.

  Args:
    settings: none is read here; `rho` comes with `hyper.method`.
    parts: model and sampler.

  Returns:
    The algorithm.  Clients keep no state.

  References:
    Qu, Li, Duan, Liu, Tang, Lu. Generalized federated learning via sharpness
    aware minimization. ICML 2022.
    Foret, Kleiner, Mobahi, Neyshabur. Sharpness-aware minimization for
    efficiently improving generalization. ICLR 2021.

  Differs from the usual code in: |g| has no 1e-12 added; where g = 0 the
  gradient is taken at y_k.  BatchNorm's running statistics follow the first
  gradient's pass alone.
  """
  del settings

  def tx(hyper: Hyper, ctx: Ctx):
    ascent = transforms.sharpness_aware(hyper.method.rho)
    return optax.chain(ascent, local.optimizer(hyper, ctx))

  client = local.local_sgd(parts.model, tx=tx, unroll=parts.unroll)
  return averaging(parts, client)


def _check(config) -> None:
  require(
    not config.client.sam,
    'client.sam = True repeats what method fedsam does; set it to false, or '
    'use fedavg',
  )


METHOD = Method(
  name='fedsam',
  settings=FedSAM,
  build=fedsam,
  references=(
    'Qu, Li, Duan, Liu, Tang, Lu. Generalized federated learning via '
    'sharpness aware minimization. ICML 2022.',
    'Foret, Kleiner, Mobahi, Neyshabur. Sharpness-aware minimization for '
    'efficiently improving generalization. ICLR 2021.',
  ),
  toy=FedSAM(rho=0.1),
  identity=Identity(FedSAM(rho=0.0), 'fedavg', FedAvg()),
  ranges={'rho': rules.NOT_NEGATIVE},
  check=_check,
)
