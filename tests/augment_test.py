"""Crops, flips and normalization, against NumPy example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls.data import augment


def _images(batch=64, size=5, dtype=np.uint8):
  # No pixel is zero, so that the frame shows.
  return np.random.RandomState(0).randint(1, 255, (batch, size, size, 2), dtype)


def _candidates(image, padding, flip):
  """Every image that one may become: `{bytes: (dy, dx, flipped)}`."""
  framed = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
  size = len(image)
  found = {}
  for dy in range(2 * padding + 1):
    for dx in range(2 * padding + 1):
      cut = framed[dy : dy + size, dx : dx + size]
      found[cut.tobytes()] = dy, dx, False
      if flip:
        found[np.ascontiguousarray(cut[:, ::-1]).tobytes()] = dy, dx, True
  return found


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize(
  ('padding', 'flip'), [(2, True), (1, False), (0, True)]
)
def test_every_example_is_a_crop_of_itself(padding, flip, dtype):
  x = _images().astype(dtype)
  out = augment.augment(padding, flip)(jax.random.key(3), jnp.asarray(x))
  assert out.dtype == dtype
  draws = [
    _candidates(image, padding, flip)[np.asarray(result).tobytes()]
    for image, result in zip(x, out, strict=True)
  ]
  # 64 draws differ from each other.
  assert len(set(draws)) > min(2, (2 * padding + 1) ** 2)


def test_draws_are_uniform():
  x = jnp.asarray(_images(batch=1))
  fn = jax.jit(jax.vmap(augment.augment(1, True), (0, None)))
  out = np.asarray(fn(jax.random.split(jax.random.key(0), 3600), x))
  table = _candidates(np.asarray(x[0]), 1, True)
  draws = [table[image.tobytes()] for image in out[:, 0]]
  _, counts = np.unique(draws, axis=0, return_counts=True)
  assert len(counts) == 18
  assert abs(counts - 200).max() < 5 * np.sqrt(200)


def test_clients_draw_by_their_own_keys():
  x = jnp.asarray(np.stack([_images(), _images()]))
  keys = jax.random.split(jax.random.key(0), 2)
  fn = augment.augment(2, True)
  together = jax.vmap(fn)(keys, x)
  for i in range(2):
    np.testing.assert_array_equal(together[i], fn(keys[i], x[i]))
  assert (together[0] != together[1]).any()
  np.testing.assert_array_equal(fn(keys[0], x[0]), together[0])


def test_nothing_to_do_changes_nothing():
  x = jnp.asarray(_images())
  out = augment.augment()(jax.random.key(0), x)
  np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_normalize(dtype):
  x = _images().astype(dtype)
  mean, std = [0.4914, 0.48], [0.2023, 0.2]
  scaled = x / np.float32(255) if dtype == np.uint8 else x
  out = augment.normalize(mean, std)(jnp.asarray(x))
  assert out.dtype == jnp.float32
  np.testing.assert_allclose(
    out, (scaled - np.float32(mean)) / np.float32(std), rtol=1e-5, atol=1e-6
  )
  np.testing.assert_allclose(
    augment.normalize([0.5], [2.0])(jnp.asarray(x)),
    (scaled - 0.5) / 2,
    rtol=1e-5,
    atol=1e-6,
  )


def test_settings_are_checked():
  with pytest.raises(ValueError, match=r'data\.crop_padding = -1 is negative'):
    augment.augment(-1)
  with pytest.raises(
    ValueError, match=r'data\.mean has 1 numbers and data\.std'
  ):
    augment.normalize([0.5], [1.0, 1.0])
  with pytest.raises(
    ValueError, match=r'data\.std = \(0\.0,\) is not positive'
  ):
    augment.normalize([0.5], [0.0])
