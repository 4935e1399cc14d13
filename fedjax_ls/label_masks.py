"""Calibrations that hide the classes a client has no examples of."""

import jax
import jax.numpy as jnp

Array = jax.Array


def zero(hyper, labels: Array, logits: Array) -> Array:
  """Logits of absent classes are 0, as HeteroFL's code has it.

  Their gradient is 0, but each still adds exp(0) to the partition function.

  Args:
    hyper: not read.
    labels: `[Y]` the client's examples of each class.
    logits: `[..., Y]`.

  >>> print(zero(None, jnp.array([2, 0]), jnp.array([[3., 5.]])))
  [[3. 0.]]
  """
  del hyper
  return _filled(labels, logits, 0.0)


def exclude(hyper, labels: Array, logits: Array) -> Array:
  """Logits of absent classes are -inf: they have no probability at all.

  Arguments as of `zero`.
  """
  del hyper
  return _filled(labels, logits, -jnp.inf)


def _filled(labels, logits, value):
  # A client without rows has no class, and all logits at -inf give NaN.
  # (A dead slot has the counts of the last client.)
  present = (labels > 0) | (jnp.sum(labels) == 0)
  present = present.reshape((1,) * (logits.ndim - 1) + (-1,))
  return jnp.where(present, logits, value)


MASKS = {'zero': zero, 'exclude': exclude}
