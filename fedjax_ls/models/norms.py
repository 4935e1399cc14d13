"""Feature normalizations over the channels in use, as one small module.

Every kind but `bn` is a function of one example: no batch statistics, the
same in training and evaluation.  On maps `[B, H, W, C]` the statistics run
over (H, W, C).

References:
  Zhang et al. Understanding the role of layer normalization in label-skewed
  federated learning. TMLR 2024 (arXiv:2308.09565).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_ls.data.checks import require, unknown

Array = jax.Array

KINDS = ('none', 'fn', 'ln', 'gn', 'in', 'bn', 'shift')


class Norm(nn.Module):
  """Normalizes the active channels of `x` and sets the others to 0.

  With v the d active elements of one example, mu its mean and s2 its biased
  variance:

    none   v
    fn     sqrt(d) v / max(eps, |v|), 0 with gradient 0 at v = 0
    shift  v - mu
    ln     (v - mu) / sqrt(s2 + eps)
    gn     ln within each of `groups` groups of neighbouring channels; channel
           c of the first `active` belongs to group floor(c groups / active)
    in     ln within each channel, over the positions of a map
    bn     per channel over examples and positions, running statistics
           (collection `batch_stats`, biased variance) in evaluation

  Attributes:
    kind: one of `KINDS`.
    groups: number of groups of `gn`.
    affine: whether `ln`, `gn`, `in` and `bn` learn a scale and a bias per
      channel, both `[C]`.
    eps: positive number of the formulas above.
    momentum: share of the old running statistics that a `bn` step keeps.

  Differs from the authors' code in: their FN has eps 1e-12, as PyTorch has; the
  paper has 1e-5 for all norms, which is the default here.  Their reduced LN,
  `sv`, is `shift` and then `fn`, without eps in the variance.

  Example:
    >>> v = jnp.array([[3., 4., 0., 0.]])
    >>> print(Norm('fn').apply({}, v))
    [[1.2 1.6 0.  0. ]]
    >>> print(Norm('shift').apply({}, v, active=2))
    [[-0.5  0.5  0.   0. ]]
  """

  kind: str
  groups: int = 2
  affine: bool = False
  eps: float = 1e-5
  momentum: float = 0.9

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool = False,
    mask: Array | None = None,
    active: Any = None,
  ) -> Array:
    """Normalizes one batch.

    Args:
      x: `[B, C]` or `[B, ..., C]`.
      train: whether `bn` uses and records the statistics of this batch.
      mask: `[B]`, False for padded examples, which `bn` leaves out.
      active: number of leading channels in use, an int or a traced scalar;
        None for all.

    Returns:
      An array like `x`, exactly 0 on inactive channels.

    Raises:
      ValueError: `kind` is none of `KINDS`, or `in` without positions.
    """
    if self.kind not in KINDS:
      raise unknown('model.norm', self.kind, KINDS)
    keep = None if active is None else jnp.arange(x.shape[-1]) < active
    y = x
    if self.kind != 'none':
      v = x.astype(jnp.promote_types(x.dtype, jnp.float32))
      v = self._normalized(_cut(v, keep), train, mask, keep, active)
      y = v.astype(x.dtype)
    return _cut(y, keep)

  def _normalized(self, v, train, mask, keep, active):
    match self.kind:
      case 'fn':
        return _scaled(v, keep, self.eps)
      case 'shift':
        return _centered(v, _groups(v, 1, active))[0]
      case 'bn':
        return self._affine(self._batch_norm(v, train, mask, keep))
      case 'in':
        return self._affine(_within_channels(v, self.eps))
    groups = _groups(v, self.groups if self.kind == 'gn' else 1, active)
    centered, variance = _centered(v, groups)
    return self._affine(centered * jax.lax.rsqrt(variance + self.eps))

  def _affine(self, v):
    if not self.affine:
      return v
    shape = v.shape[-1:]
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    return v * _as_row(scale, v) + _as_row(bias, v)

  def _batch_norm(self, v, train, mask, keep):
    shape = v.shape[-1:]
    mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, v.dtype)
    var = self.variable('batch_stats', 'var', jnp.ones, shape, v.dtype)
    if not train:
      return _standardized(v, mean.value, var.value, self.eps)
    weight = jnp.ones(v.shape[:1], bool) if mask is None else mask
    now, count = moments(v, weight)
    if not self.is_initializing():
      seen = count > 0 if keep is None else (count > 0) & keep
      for running, new in zip((mean, var), now, strict=True):
        mixed = self.momentum * running.value + (1 - self.momentum) * new
        running.value = jnp.where(seen, mixed, running.value)
    return _standardized(v, now[0], now[1], self.eps)


def _cut(x, keep):
  """`x` with 0 on the channels outside `keep[C]`."""
  return x if keep is None else jnp.where(_as_row(keep, x), x, 0)


def _as_row(channel, x):
  """`channel[C]` as `[1, ..., C]`, of the rank of `x`."""
  return channel.reshape((1,) * (x.ndim - 1) + (-1,))


def _groups(v, groups, active):
  """Which channel is in which group, `[C, G]`; inactive ones are in none."""
  channels = v.shape[-1]
  active = channels if active is None else active
  group = jnp.arange(channels) * groups // active
  return (group[:, None] == jnp.arange(groups)[None, :]).astype(v.dtype)


def _centered(v, groups):
  """`v` minus its group's mean, and its group's biased variance."""
  inner = tuple(range(1, v.ndim - 1))
  positions = v.size // (v.shape[0] * v.shape[-1])
  count = jnp.maximum(groups.sum(0), 1) * positions

  def mean(u):
    sums = u.sum(inner, keepdims=True) @ groups / _as_row(count, u)
    return sums @ groups.T

  member = _as_row(groups.sum(1), v)
  centered = (v - mean(v)) * member
  return centered, mean(centered * centered)


def _within_channels(v, eps):
  require(
    v.ndim > 2,
    f"model.norm = 'in' has no positions to normalize over in x of shape "
    f'{v.shape}; use it in convolutional networks without hidden linear '
    "layers, or norm = 'ln'",
  )
  positions = tuple(range(1, v.ndim - 1))
  centered = v - v.mean(positions, keepdims=True)
  variance = (centered * centered).mean(positions, keepdims=True)
  return centered * jax.lax.rsqrt(variance + eps)


def _scaled(v, keep, eps):
  axes = tuple(range(1, v.ndim))
  channels = v.shape[-1] if keep is None else keep.sum()
  d = v.size // (v.shape[0] * v.shape[-1]) * channels
  square = jnp.sum(v * v, axes, keepdims=True)
  # The gradient of sqrt is infinite at 0, and inf * 0 is NaN: a bias-free ReLU
  # network does give all-zero features.
  norm = jnp.sqrt(jnp.where(square > 0, square, 1))
  inverse = jnp.where(square > 0, 1 / jnp.maximum(norm, eps), 0)
  return v * (jnp.sqrt(jnp.asarray(d, v.dtype)) * inverse)


def moments(v, weight):
  """Mean and biased variance `[C]` over the examples in `weight[B]`."""
  axes = tuple(range(v.ndim - 1))
  real = weight.astype(bool).reshape((-1,) + (1,) * (v.ndim - 1))
  positions = v.size // (v.shape[0] * v.shape[-1])
  count = jnp.sum(real, dtype=v.dtype) * positions
  safe = jnp.maximum(count, 1)
  mean = jnp.sum(jnp.where(real, v, 0), axes) / safe
  centered = jnp.where(real, v - _as_row(mean, v), 0)
  var = jnp.sum(centered * centered, axes) / safe
  return (mean, var), count


def _standardized(v, mean, var, eps):
  return (v - _as_row(mean, v)) * jax.lax.rsqrt(_as_row(var, v) + eps)
