"""The point-wise permutation."""

import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from fedjax_ls import shuffle

MANY = 4800


@jax.jit
def images(keys, position, size):
  return jax.vmap(shuffle.permute, (0, None, None))(keys, position, size)


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(st.integers(1, 300), st.integers(0, 2**31 - 1))
def test_is_a_permutation(size, seed):
  position = jnp.minimum(jnp.arange(300), size - 1)
  keys = jax.random.key(seed)[None]
  got = np.asarray(images(keys, position, size))[0, :size]
  np.testing.assert_array_equal(np.sort(got), np.arange(size))


@pytest.mark.parametrize('size', [2, 3, 4])
def test_every_order_is_equally_likely(size):
  keys = jax.random.split(jax.random.key(0), MANY)
  got = np.asarray(images(keys, jnp.arange(size), size))
  orders = list(itertools.permutations(range(size)))
  counts = [np.all(got == order, axis=1).sum() for order in orders]
  expected = MANY / len(orders)
  chi2 = sum((c - expected) ** 2 / expected for c in counts)
  # Mean len - 1, variance 2 (len - 1): five standard deviations.
  degrees = len(orders) - 1
  assert chi2 < degrees + 5 * np.sqrt(2 * degrees)


def test_pairs_of_places_are_uniform_in_a_larger_set():
  size = 100
  keys = jax.random.split(jax.random.key(1), 40 * MANY)
  got = np.asarray(images(keys, jnp.array([0, 1, 57]), size))
  cells = size * (size - 1)
  expected = len(keys) / cells
  degrees = cells - 1
  for a, b in ((0, 1), (1, 2), (0, 2)):
    counts = np.bincount(got[:, a] * size + got[:, b], minlength=size * size)
    chi2 = ((counts - expected) ** 2 / expected).sum() - size * expected
    assert abs(chi2 - degrees) < 5 * np.sqrt(2 * degrees)
