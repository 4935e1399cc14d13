"""Smaller images, made when the data are read."""

import numpy as np

from fedjax_ls.data import checks
from fedjax_ls.data.dataset import Dataset


def shrink(dataset: Dataset, factor: int) -> Dataset:
  """Replaces each square of pixels by its mean.

  Args:
    dataset: of images `[N, H, W, C]`.
    factor: side of the squares, which divides H and W; the field `data.shrink`.

  Returns:
    The data set with images `[N, H / factor, W / factor, C]` of the same type;
    means of integers are rounded.

  Raises:
    ValueError: the inputs are no images, or of another size.
  """
  if factor == 1:
    return dataset
  shape = dataset.x_train.shape[1:]
  checks.require(
    len(shape) == 3,
    f'data.shrink = {factor} needs images [H, W, C] but samples have shape '
    f'{list(shape)}; set it to 1',
  )
  height, width, _ = shape
  checks.require(
    height % factor == 0 and width % factor == 0,
    f'data.shrink = {factor} does not divide images of {height} x {width}; '
    'choose a divisor of both, or 1',
  )
  return dataset._replace(
    x_train=_pooled(dataset.x_train, factor),
    x_test=_pooled(dataset.x_test, factor),
  )


def _pooled(x: np.ndarray, factor: int) -> np.ndarray:
  count, height, width, channels = x.shape
  squares = x.reshape(
    count, height // factor, factor, width // factor, factor, channels
  )
  mean = squares.mean((2, 4), dtype=np.promote_types(x.dtype, np.float32))
  return (np.rint(mean) if x.dtype.kind in 'iu' else mean).astype(x.dtype)
