"""Samplers that look at nothing but the clients' sizes."""

import jax.numpy as jnp

from fedjax_ls import shuffle
from fedjax_ls.samplers import draws
from fedjax_ls.types import Draw, Sampler


def everyone() -> Sampler:
  """All clients, every round."""

  def sample(hyper, state, draw: Draw):
    del hyper
    population = len(draw.federation.size)
    ids = jnp.arange(population)
    if draw.available is not None:
      ids = jnp.where(draw.available, ids, population)
    return ids, state

  return Sampler(lambda federation: (), sample)


def uniform(cohort_size: int) -> Sampler:
  """`cohort_size` distinct clients a round, each subset equally likely.

  Costs the same for any population where all are available; refuses, at the
  start of a run, one that is smaller than the cohort.
  """

  def sample(hyper, state, draw: Draw):
    del hyper
    population = len(draw.federation.size)
    if draw.available is None:
      positions = jnp.arange(cohort_size)
      return shuffle.permute(draw.key, positions, population), state
    score = draws.allowed(jnp.zeros(population), draw.available)
    return draws.top(draw.key, score, cohort_size), state

  return Sampler(_fits(cohort_size), sample)


def proportional(cohort_size: int) -> Sampler:
  """`cohort_size` distinct clients a round, drawn in proportion to n_k.

  One after another and without replacement: a client takes part at most once
  in a round.  With it `server.weights = uniform` is what makes sense.
  """

  def sample(hyper, state, draw: Draw):
    del hyper
    size = draw.federation.size
    ids = draws.in_proportion(draw.key, size, draw.available, cohort_size)
    return ids, state

  return Sampler(_fits(cohort_size), sample)


def _fits(cohort_size: int):
  """`Sampler.init` without a state."""

  def init(federation):
    population = len(federation.size)
    draws.check_cohort('cohort_size', cohort_size, population)
    return ()

  return init
