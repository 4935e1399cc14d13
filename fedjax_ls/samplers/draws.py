"""How samplers choose: by rank with random ties, and without replacement."""

import jax
import jax.numpy as jnp

from fedjax_ls.types import Array


def check_cohort(name: str, count: int, population: int) -> None:
  """Refuses a number of clients that does not fit the population.

  Raises:
    ValueError: naming the field of the sampler.
  """
  if not 1 <= count <= population:
    raise ValueError(
      f'sampler.{name} = {count} does not fit {population} clients; choose 1 '
      f'to {population}'
    )


def top(key: Array, score: Array, count: int) -> Array:
  """Positions of the largest scores, ties broken at random.

  Args:
    key: random key.
    score: `[N]`; minus infinity for what must not be chosen.
    count: how many to choose, at most N.

  Returns:
    `[count]` positions, the largest score first; N where nothing is left.

  >>> print(top(jax.random.key(0), jnp.array([1., 3., -jnp.inf, 2.]), 4))
  [1 3 0 4]
  """
  luck = jax.random.bits(key, score.shape)
  position = jnp.arange(len(score))
  _, _, order = jax.lax.sort((-score, luck, position), num_keys=2)
  order = order[:count]
  return jnp.where(score[order] > -jnp.inf, order, len(score))


def allowed(score: Array, available: Array | None) -> Array:
  """`score[C]`, minus infinity for clients that are not available."""
  if available is None:
    return score
  return jnp.where(available, score, -jnp.inf)


def in_proportion(
  key: Array, weight: Array, available: Array | None, count: int
) -> Array:
  """Clients drawn one after another without replacement.

  Each draw takes one of the clients left with a probability in proportion to
  its weight: the largest of log weight + Gumbel noise.

  Args:
    key: random key.
    weight: `[C]`, >= 0.
    available: `[C]`, None for everyone.
    count: how many to draw.

  Returns:
    `[count]` distinct clients in the order drawn; C where nobody is left.

  References:
    Kool, van Hoof, Welling. Stochastic beams and where to find them. ICML 2019.
  """
  noise, ties = jax.random.split(key)
  weight = jnp.asarray(weight, float)
  score = jnp.log(weight) + jax.random.gumbel(noise, weight.shape)
  return top(ties, allowed(score, available), count)
