"""Calibrations of logits by the classes that a client has.

A calibration is `calibrate(hyper, labels, logits) -> logits`.  It changes the
logits `[..., Y]` that the terms of a training step see by the client's
numbers of examples of each class, `labels[Y]`; a model is judged by its own
logits.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_ls import label_masks
from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Loss, Number

Array = jax.Array
Calibration = Callable[[Any, Array, Array], Array]


def fedlc(tau: Number) -> Calibration:
  """Subtracts the margin tau n_c^(-1/4) from the logits of class c.

  A class that the client does not have has an infinite margin: its logit is
  -inf, it drops out of the softmax and gets no gradient.  A client of one
  class then has loss 0 and gradient 0.

  Args:
    tau: reads the margin's size, >= 0, from `Hyper`.

  References:
    Zhang et al. Federated learning with label distribution skew via logits
    calibration. ICML 2022.

  >>> calibrate = fedlc(lambda hyper: 2.0)
  >>> print(calibrate(None, jnp.array([16, 1, 0]), jnp.zeros((1, 3))))
  [[ -1.  -2. -inf]]
  """

  def calibrate(hyper, labels: Array, logits: Array) -> Array:
    labels = _beside(logits, labels)
    # A client without rows has no class, and all logits at -inf give NaN.
    # (A dead slot has the counts of the last client.)
    present = (labels > 0) | (jnp.sum(labels) == 0)
    count = jnp.maximum(labels, 1).astype(logits.dtype)
    margin = tau(hyper) * count**-0.25
    return jnp.where(present, logits - margin, -jnp.inf)

  return calibrate


def fedrs(alpha: Number, *, graded: bool = False) -> Calibration:
  """Scales the logits of class c by 1 if the client has it, else by alpha.

  Graded, the scale is (1 - alpha) n_c / max n + alpha.  Either way negative
  logits of absent classes move up.

  Args:
    alpha: reads the scale of absent classes, in [0, 1], from `Hyper`.
    graded: whether the scale follows the classes' shares.

  References:
    Li, Zhan. FedRS: federated learning with restricted softmax for label
    distribution non-IID data. KDD 2021.

  >>> labels, ones = jnp.array([8, 2, 0]), jnp.ones((1, 3))
  >>> print(fedrs(lambda hyper: 0.5)(None, labels, ones))
  [[1.  1.  0.5]]
  >>> print(fedrs(lambda hyper: 0.5, graded=True)(None, labels, ones))
  [[1.    0.625 0.5  ]]
  """

  def calibrate(hyper, labels: Array, logits: Array) -> Array:
    labels = _beside(logits, labels)
    share = labels / jnp.maximum(jnp.max(labels), 1) if graded else labels > 0
    scale = (1 - alpha(hyper)) * share.astype(logits.dtype) + alpha(hyper)
    return logits * scale

  return calibrate


# Calibrations that any method can have, by `loss.calibration`.
CALIBRATIONS: dict[str, Calibration] = {
  'none': lambda hyper, labels, logits: logits,
  **label_masks.MASKS,
  'fedlc': fedlc(lambda hyper: hyper.loss.tau),
  'fedrs': fedrs(lambda hyper: hyper.loss.alpha),
  'fedrs_graded': fedrs(lambda hyper: hyper.loss.alpha, graded=True),
}


def calibration(loss: Loss) -> Calibration:
  """How `loss.calibration` changes the logits."""
  return CALIBRATIONS[loss.calibration]


def _beside(logits: Array, labels: Array) -> Array:
  """`labels[Y]`, shaped to act on the last axis of `logits[..., Y]`.

  Raises:
    ValueError: the targets are no class numbers, or of other classes.
  """
  require(
    labels.shape == logits.shape[-1:],
    f'logits are calibrated by class but the model gives {logits.shape[-1]} '
    f'logits and the data have {len(labels)} classes; make them alike, or '
    'leave the calibration out',
  )
  return labels.reshape((1,) * (logits.ndim - 1) + labels.shape)
