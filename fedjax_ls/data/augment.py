"""Crops, flips and normalization of images, on the device inside a step."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.data import checks

Array = jax.Array


def augment(
  crop_padding: int = 0, flip: bool = False
) -> Callable[[Array, Array], Array]:
  """Random shifts and mirror images, drawn anew for every example.

  Each image is framed with `crop_padding` zeros and cut back to its size at a
  uniformly drawn place, then mirrored left to right with probability 1/2.
  Draws depend on the key and the example's place in the batch alone.

  Args:
    crop_padding: pixels p on each side, >= 0; shifts are -p..p each way.
    flip: whether to mirror.

  Returns:
    `fn(key, x[B, H, W, C]) -> [B, H, W, C]` of x's type, which maps over a
    further axis by `vmap`.

  Raises:
    ValueError: a negative padding.

  >>> x = jnp.tile(jnp.arange(1.0, 4.0)[None, None, :, None], (1, 2, 1, 1))
  >>> augment(1, flip=True)(jax.random.key(0), x)[0, :, :, 0]
  Array([[0., 3., 2.],
         [0., 3., 2.]], dtype=float32)
  """
  checks.require(
    crop_padding >= 0,
    f'data.crop_padding = {crop_padding} is negative; choose 0 or more',
  )

  def apply(key: Array, x: Array) -> Array:
    crop_key, flip_key = jax.random.split(key)
    if crop_padding:
      x = _crop(crop_key, x, crop_padding)
    if flip:
      mirrored = jax.random.bernoulli(flip_key, shape=x.shape[:1])
      x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    return x

  return apply


def normalize(
  mean: Sequence[float], std: Sequence[float]
) -> Callable[[Array], Array]:
  """`(x - mean) / std` a channel, after uint8 became float32 in [0, 1].

  Args:
    mean: `[C]`, or one number for all channels.
    std: `[C]` > 0, likewise.

  Returns:
    `fn(x[..., C]) -> [..., C]`, float32 for uint8 and x's type else.

  Raises:
    ValueError: different lengths, or a standard deviation that is not
      positive.

  >>> normalize([0.5], [0.25])(jnp.array([[0, 255]], jnp.uint8)[..., None])
  Array([[[-2.],
          [ 2.]]], dtype=float32)
  """
  checks.require(
    len(mean) == len(std) > 0,
    f'data.mean has {len(mean)} numbers and data.std {len(std)}; give one a '
    'channel in each',
  )
  checks.require(
    min(std) > 0,
    f'data.std = {tuple(std)} is not positive; give numbers above 0',
  )

  def apply(x: Array) -> Array:
    if x.dtype == jnp.uint8:
      x = x.astype(jnp.float32) / 255
    center, scale = (np.asarray(v, x.dtype) for v in (mean, std))
    frame = (1,) * (x.ndim - 1) + (-1,)
    return (x - center.reshape(frame)) / scale.reshape(frame)

  return apply


def _crop(key: Array, x: Array, padding: int) -> Array:
  frame = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  corner = jax.random.randint(key, (len(x), 2), 0, 2 * padding + 1)

  def cut(image: Array, corner: Array) -> Array:
    begin = (corner[0], corner[1], 0)
    return jax.lax.dynamic_slice(image, begin, x.shape[1:])

  return jax.vmap(cut)(jnp.pad(x, frame), corner)
