"""A flax.linen module as a `Model`."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from fedjax_ls.data.checks import require, unknown
from fedjax_ls.models.base import Model, Outputs

Array = jax.Array


def flax_model(
  module: nn.Module,
  example: Any,
  *,
  loss: str | Callable[[Outputs, Array], Array] = 'cross_entropy',
  metrics: Callable[[Outputs, Array], dict[str, Array]] | None = None,
  preprocess: Callable[[Array], Array] | None = None,
  augment: Callable[[Array, Array], Array] | None = None,
) -> Model:
  """Wraps a flax.linen module.

  Args:
    module: its `__call__(x, ...)` returns `Outputs` or logits alone, which
      then are the features, too.  It is given those of `train`, `mask` and
      `width` that its signature names, and a `dropout` key.
    example: a batch `[B, ...]` as stored in the federation; only its shape and
      type are read.
    loss: 'cross_entropy' (integer labels), 'squared_error' (mean over the
      output's dimensions) or `loss(outputs, y) -> [B]`.
    metrics: `metrics(outputs, y) -> {name: [B]}`; by default the accuracy
      where `y` is integer and nothing where it is not.
    preprocess: maps a stored batch to the module's input; by default uint8
      becomes float32 in [0, 1] and other types stay.
    augment: `augment(key, x)` changes a stored batch at random before a local
      step, such as `fedjax_ls.data.augment.augment(4, True)`.

  Returns:
    The model.  Its outputs are float32 (float64 where the module computes in
    it), whatever narrower type the module computes in.

  Raises:
    ValueError: `loss` is unknown; at `init`, the module has variables other
      than `params` and `batch_stats`; at `apply`, a width for a module that
      takes none.

  Example:
    >>> model = flax_model(nn.Dense(3), jnp.zeros((1, 5), jnp.uint8))
    >>> params, stats = model.init(jax.random.key(0))
    >>> outputs, _ = model.apply(params, stats, jnp.ones((2, 5), jnp.uint8))
    >>> outputs.logits.shape, stats
    ((2, 3), {})
  """
  if isinstance(loss, str) and loss not in LOSSES:
    raise unknown('model.loss', loss, LOSSES)
  prepare = scale_images if preprocess is None else preprocess
  shape, dtype = jnp.shape(example), jnp.result_type(example)

  def init(key, module=module):
    params_key, dropout_key = jax.random.split(key)
    variables = dict(
      module.init(
        {'params': params_key, 'dropout': dropout_key},
        prepare(jnp.zeros(shape, dtype)),
      )
    )
    params = variables.pop('params', {})
    stats = variables.pop('batch_stats', {})
    require(
      not variables,
      f'the module has variables {sorted(variables)}; '
      'use params and batch_stats only',
    )
    return params, stats

  def apply(
    params, stats, x, *,
    train=False, mask=None, key=None, width=None, module=module,
  ):  # fmt: skip
    accepted = _accepted(module)
    require(
      width is None or 'width' in accepted,
      f'{type(module).__name__} takes no width; add `width=None` to its '
      '__call__ or train it at full width',
    )
    options = {'train': train, 'mask': mask, 'width': width}
    options = {k: v for k, v in options.items() if k in accepted}
    result = module.apply(
      {'params': params, 'batch_stats': stats} if stats else {'params': params},
      prepare(x),
      rngs=None if key is None else {'dropout': key},
      mutable=['batch_stats'] if train and stats else False,
      **options,
    )
    if train and stats:
      outputs, updated = result
      return _as_outputs(outputs), updated['batch_stats']
    return _as_outputs(result), stats

  return Model(
    init,
    apply,
    LOSSES[loss] if isinstance(loss, str) else loss,
    _accuracy if metrics is None else metrics,
    augment,
  )


def cross_entropy(outputs: Outputs, y: Array) -> Array:
  """Minus the log-probability of label `y[B]` under `logits[B, Y]`, `[B]`.

  For `y[B, T]` and `logits[B, T, Y]` it is averaged over T.
  """
  values = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, y)
  return values.reshape(values.shape[0], -1).mean(1)


def squared_error(outputs: Outputs, y: Array) -> Array:
  """Mean over the output's dimensions of (logits - y)^2, `[B]`."""
  error = outputs.logits - y.reshape(outputs.logits.shape)
  return (error * error).reshape(error.shape[0], -1).mean(1)


LOSSES: dict[str, Callable[[Outputs, Array], Array]] = {
  'cross_entropy': cross_entropy,
  'squared_error': squared_error,
}


def _accuracy(outputs, y):
  if not jnp.issubdtype(y.dtype, jnp.integer):
    return {}
  right = (jnp.argmax(outputs.logits, -1) == y).astype(jnp.float32)
  return {'accuracy': right.reshape(right.shape[0], -1).mean(1)}


def scale_images(x: Array) -> Array:
  """uint8 to float32 in [0, 1]; other types stay."""
  return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x


def _accepted(module):
  # By name only: a `**kwargs` may hand them on to layers that take none.
  named = inspect.signature(type(module).__call__).parameters
  return {'train', 'mask', 'width'} & set(named)


def _as_outputs(result):
  if not isinstance(result, Outputs):
    result = Outputs(result, result)

  def widen(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))

  return jax.tree.map(widen, result)
