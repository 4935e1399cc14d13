"""A random permutation evaluated point by point.

Sorting random numbers to shuffle a client's rows costs a sort of the padded
length every epoch.  A swap-or-not network gives `permutation[position]` for
any positions at constant cost, with a traced size and no memory.

References:
  Hoang, Morris, Rogaway. An enciphering scheme based on a card shuffle.
  CRYPTO 2012.
"""

import jax
import jax.numpy as jnp

# Each round pairs every position with a partner and swaps the pair or not.
_ROUNDS = 32


def permute(
  key: jax.Array, position: jax.Array, size: int | jax.Array
) -> jax.Array:
  """Images of positions under a random permutation of `range(size)`.

  Args:
    key: random key; one key is one permutation.
    position: integers in `[0, size)`, any shape.
    size: number of elements, >= 1, may be traced.

  Returns:
    int32 integers in `[0, size)` of the shape of `position`, distinct where
    the positions are.

  >>> sorted(permute(jax.random.key(0), jnp.arange(5), 5).tolist())
  [0, 1, 2, 3, 4]
  """
  return permute_by(choices(key), position, size)


def choices(key: jax.Array) -> jax.Array:
  """All random numbers of one permutation, uint32 `[2, 32]`."""
  return jax.random.bits(key, (2, _ROUNDS), 'uint32')


@jax.jit  # Traced once a shape, however many steps call it.
def permute_by(
  chosen: jax.Array, position: jax.Array, size: int | jax.Array
) -> jax.Array:
  """`permute` for the random numbers of `choices`."""
  centers, salts = chosen
  centers = (centers % jnp.asarray(size, jnp.uint32)).astype(jnp.int32)
  size = jnp.asarray(size, jnp.int32)
  position = jnp.asarray(position, jnp.int32)
  for center, salt in zip(centers, salts, strict=True):
    partner = center - position
    partner = jnp.where(partner < 0, partner + size, partner)
    high = jnp.maximum(position, partner)
    swap = mix(high.astype(jnp.uint32) ^ salt) >> 31
    position = jnp.where(swap == 1, partner, position)
  return position


def mix(bits: jax.Array) -> jax.Array:
  """Spreads 32 bits so that each output bit depends on all input bits."""
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
  bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
  return bits ^ (bits >> 16)
