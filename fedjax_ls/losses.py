"""Terms of a client's loss.

A term is `term(hyper, View) -> scalar`; a client minimizes the sum of its
terms.  Padding never counts: terms read `View.mask`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_ls.models.base import Model, Outputs
from fedjax_ls.types import Ctx


class View(NamedTuple):
  """What a loss term sees of one batch.

  Attributes:
    outputs: the network's outputs for the batch.
    y: `[B, ...]` labels or targets.
    mask: `[B]`, False for padding.
    params: current local parameters.
    ctx: the client's `Ctx`.
  """

  outputs: Outputs
  y: jax.Array
  mask: jax.Array
  params: Any
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
