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

  Costs the same for any population; refuses, at the start of a run, one that
  is smaller than the cohort.
  """

  def init(federation):
    population = len(federation.size)
    if not 1 <= cohort_size <= population:
      raise ValueError(
        f'sampler.cohort_size = {cohort_size} does not fit {population} '
        f'clients; choose 1 to {population}'
      )
    return ()

  def sample(state, federation, key, round):
    del round
    population = len(federation.size)
    ids = shuffle.permute(key, jnp.arange(cohort_size), population)
    return ids, state

  return Sampler(init, sample)
