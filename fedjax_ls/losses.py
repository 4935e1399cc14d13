"""What a client minimizes: terms, and calibrations of its logits.

A term is `term(hyper, View) -> scalar`; a client minimizes the sum of its
terms.  Padding never counts: terms read `View.mask`.  A calibration is
`calibrate(hyper, labels, logits) -> logits`: it changes the logits that the
terms of a training step see by the numbers of examples of each class that the
client has.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_ls import label_masks
from fedjax_ls.hyper import Loss
from fedjax_ls.models.base import Model, Outputs
from fedjax_ls.types import Ctx


class View(NamedTuple):
  """What a loss term sees of one batch.

  Attributes:
    outputs: the network's outputs for the batch.
    x: `[B, ...]` the examples, augmented.
    y: `[B, ...]` labels or targets.
    mask: `[B]`, False for padding.
    params: current local parameters.
    anchor: parameters of the model that the client received.
    ctx: the client's `Ctx`.
  """

  outputs: Outputs
  x: jax.Array
  y: jax.Array
  mask: jax.Array
  params: Any
  anchor: Any
  ctx: Ctx


Number = Callable[[Any], jax.Array]
Term = Callable[[Any, View], jax.Array]
Calibration = Callable[[Any, jax.Array, jax.Array], jax.Array]


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of `values[B]` where `mask[B]` holds, 0 if it holds nowhere.

  >>> float(masked_mean(jnp.array([1., 3., 9.]), jnp.array([1, 1, 0])))
  2.0
  """
  total = jnp.sum(jnp.where(mask, values, 0))
  return total / jnp.maximum(jnp.sum(mask), 1).astype(total.dtype)


def model_loss(model: Model) -> Term:
  """The model's own loss, averaged over the batch."""

  def term(hyper, view: View) -> jax.Array:
    del hyper
    return masked_mean(model.loss(view.outputs, view.y), view.mask)

  return term


# Terms that any method can have, by `loss.terms`.
TERMS: dict[str, Callable[[Loss], Term]] = {}

# Calibrations that any method can have, by `loss.calibration`.
CALIBRATIONS: dict[str, Calibration] = {
  'none': lambda hyper, labels, logits: logits,
  **label_masks.MASKS,
}


def terms(loss: Loss) -> tuple[Term, ...]:
  """The terms that `loss.terms` adds to the model's loss."""
  return tuple(TERMS[name](loss) for name in loss.terms)


def calibration(loss: Loss) -> Calibration:
  """How `loss.calibration` changes the logits."""
  return CALIBRATIONS[loss.calibration]
