"""Who takes part in a round."""

import jax
import jax.numpy as jnp

from fedjax_ls.types import Sampler


def everyone() -> Sampler:
  """All clients, every round."""

  def sample(state, federation, key, round):
    del key, round
    return jnp.arange(len(federation.size)), state

  return Sampler(lambda federation: (), sample)


def uniform(cohort_size: int) -> Sampler:
  """`cohort_size` distinct clients a round, each subset equally likely."""

  def sample(state, federation, key, round):
    del round
    population = len(federation.size)
    shape = (cohort_size,)
    ids = jax.random.choice(key, population, shape, replace=False)
    return ids, state

  return Sampler(lambda federation: (), sample)
