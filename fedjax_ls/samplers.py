"""Who takes part in a round."""

import jax.numpy as jnp

from fedjax_ls import shuffle
from fedjax_ls.types import Sampler


def everyone() -> Sampler:
  """All clients, every round."""

  def sample(state, federation, key, round):
    del key, round
    return jnp.arange(len(federation.size)), state

  return Sampler(lambda federation: (), sample)


def uniform(cohort_size: int) -> Sampler:
  """`cohort_size` distinct clients a round, each subset equally likely.

  Costs the same for any population.
  """

  def sample(state, federation, key, round):
    del round
    population = len(federation.size)
    ids = shuffle.permute(key, jnp.arange(cohort_size), population)
    return ids, state

  return Sampler(lambda federation: (), sample)
