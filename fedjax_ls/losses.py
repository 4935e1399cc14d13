"""What a client minimizes: the sum of its terms.

A term is `term(hyper, View) -> scalar`.  Padding never counts: terms read
`View.mask`.  The logits that they see may be calibrated, see
`fedjax_ls.calibrations`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Loss, Number
from fedjax_ls.models.base import Model, Outputs
from fedjax_ls.types import Ctx

# Added to the variance of a feature, so that a constant one stays finite.
_EPS = 1e-8

# How the decorrelation penalty is scaled.
SCALES = ('paper', 'code')


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


Term = Callable[[Any, View], jax.Array]


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


def proximal(mu: Number) -> Term:
  """mu / 2 |y - x|^2, y the local parameters and x those received.

  Args:
    mu: reads the weight, >= 0, from `Hyper`.

  References:
    Li et al. Federated optimization in heterogeneous networks. MLSys 2020.
  """

  def term(hyper, view: View) -> jax.Array:
    squares = jax.tree.map(
      lambda y, x: jnp.sum((y - x) ** 2), view.params, view.anchor
    )
    return mu(hyper) / 2 * optax.tree.sum(squares)

  return term


def decorrelation(weight: Number, scale: str) -> Term:
  """`correlation` of the batch's features, times a weight.

  Args:
    weight: reads the weight, >= 0, from `Hyper`.
    scale: `paper` or `code`.

  Raises:
    ValueError: `scale` is unknown.
  """
  require(
    scale in SCALES,
    f'the scale of decorrelation is {scale!r}; use {" or ".join(SCALES)}',
  )

  def term(hyper, view: View) -> jax.Array:
    features, mask = view.outputs.features, view.mask
    return weight(hyper) * correlation(features, mask, scale)

  return term


def correlation(
  features: jax.Array, mask: jax.Array, scale: str = 'paper'
) -> jax.Array:
  """How much the features of a batch are correlated (FedDecorr).

  With N examples that count, Z the `[N, D]` features, each less its mean and
  over its standard deviation (unbiased, 1e-8 added to the variance), and
  M = Z^T Z:

    paper   |M / N|_F^2 / D^2, the diagonal included
    code    mean of M_ij^2 over i != j, divided by N

  Without the diagonal, `code` is N D / (D - 1) times `paper`.  It is 0 for
  N <= 1, and at least float32 whatever the features are.

  Args:
    features: `[B, ...]`; what follows the first axis is flattened to D.
    mask: `[B]`, False for examples that do not count.
    scale: `paper` or `code`.

  Returns:
    A scalar.

  References:
    Shi, Liang, Zhang, Tan, Bai. Towards understanding and mitigating
    dimensional collapse in heterogeneous federated learning. ICLR 2023.

  >>> alike = jnp.outer(jnp.arange(64.0), jnp.array([1.0, -2.0, 3.0]))
  >>> everyone = jnp.ones(64, bool)
  >>> [round(float(correlation(alike, everyone, s)), 3) for s in SCALES]
  [0.969, 62.016]
  """
  z, count = _standardized(features, mask)
  size, width = z.shape
  # Z Z^T and Z^T Z have the same norm; the smaller one is made.
  z_t = jnp.transpose(z)
  pair = (z, z_t) if size < width else (z_t, z)
  products = jnp.matmul(*pair, precision=jax.lax.Precision.HIGHEST)
  total = jnp.sum(products**2)
  if scale == 'paper':
    return total / (count * width) ** 2
  diagonal = jnp.sum(jnp.sum(z**2, 0) ** 2)
  return (total - diagonal) / (count * max(width * (width - 1), 1))


def _standardized(
  features: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """`[B, D]` features of mean 0 and variance 1 over the N examples that count,
  0 for the others (and for N = 1), and N, at least 1."""
  wide = jnp.promote_types(features.dtype, jnp.float32)
  z = features.reshape(len(features), -1).astype(wide)
  mask = mask[:, None]
  count = jnp.maximum(jnp.sum(mask), 1).astype(wide)
  mean = jnp.sum(jnp.where(mask, z, 0), 0, keepdims=True) / count
  z = jnp.where(mask, z - mean, 0)
  freedom = jnp.maximum(count - 1, 1)
  variance = jnp.sum(z**2, 0, keepdims=True) / freedom
  return z / jnp.sqrt(variance + _EPS), count


# Terms that any method can have, by `loss.terms`.
TERMS: dict[str, Callable[[Loss], Term]] = {
  'proximal': lambda loss: proximal(lambda hyper: hyper.loss.mu),
  'decorrelation': lambda loss: decorrelation(
    lambda hyper: hyper.loss.decorrelation, loss.decorrelation_scale
  ),
}


def terms(loss: Loss) -> tuple[Term, ...]:
  """The terms that `loss.terms` adds to the model's loss."""
  return tuple(TERMS[name](loss) for name in loss.terms)
