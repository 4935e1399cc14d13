"""Power-of-Choice: of a few candidates, those with the largest loss."""

from functools import partial

import jax
import jax.numpy as jnp

from fedjax_ls import local
from fedjax_ls.hyper import Hyper
from fedjax_ls.models.base import Model
from fedjax_ls.samplers import draws
from fedjax_ls.types import Array, Ctx, Draw, Sampler, Tree


def pow_d(cohort_size: int, candidates: int, model: Model) -> Sampler:
  """Power-of-Choice with the loss over all of a candidate's examples.

    A <- `candidates` clients drawn without replacement in proportion to n_k
    S <- the `cohort_size` of A with the largest F_k(x) n_k^e

  F_k(x) is the mean loss at the model that client k would use now, and the
  size exponent e is 0 in the paper.  The cohort is averaged uniformly there:
  set `server.weights = uniform`.

  Args:
    cohort_size: clients a round.
    candidates: clients that are asked for their loss, 0 for all.
    model: the network and its loss.

  Returns:
    The sampler.  It reads `hyper.sampler.size_exponent`.

  References:
    Cho, Wang, Joshi. Towards understanding biased client selection in
    federated learning. AISTATS 2022.

  Differs from the authors' code (a supplement to the paper) in: its first
  cohort is drawn uniformly; ties are broken at random and not by order; the
  random selection that it is compared with draws with replacement, which no
  sampler here does; adapow-d, whose number of candidates falls, is missing.
  """
  return _asking(cohort_size, candidates, partial(local.full_loss, model))


def cpow_d(cohort_size: int, candidates: int, model: Model) -> Sampler:
  """Power-of-Choice with the loss over one random batch, see `pow_d`, also for
  how it differs."""

  def batch_loss(hyper: Hyper, ctx: Ctx, params: Tree, stats: Tree) -> Array:
    return local.full_loss(
      model, hyper, local.one_batch(hyper.client, ctx), params, stats
    )

  return _asking(cohort_size, candidates, batch_loss)


def rpow_d(cohort_size: int, candidates: int) -> Sampler:
  """Power-of-Choice with the loss of the round a client last took part in.

  Nobody is asked: F_k is the mean loss over client k's local steps then, and
  infinite until it has taken part, see `pow_d`, also for how it differs.
  """

  def init(federation):
    population = len(federation.size)
    _check(cohort_size, candidates, population)
    return jnp.full(population, jnp.inf)

  def sample(hyper: Hyper, state: Array, draw: Draw):
    def known(ids):
      return jnp.take(state, ids, mode='clip')

    return _choose(hyper, draw, cohort_size, candidates, known), state

  def observe(hyper, state: Array, ids: Array, own: dict[str, Array]):
    del hyper
    loss = own['train/loss'].astype(state.dtype)
    return state.at[ids].set(loss, mode='drop')

  return Sampler(init, sample, observe)


def _asking(cohort_size: int, candidates: int, loss) -> Sampler:
  def init(federation):
    _check(cohort_size, candidates, len(federation.size))
    return ()

  def sample(hyper: Hyper, state, draw: Draw):
    asked = partial(draw.ask, loss)
    return _choose(hyper, draw, cohort_size, candidates, asked), state

  return Sampler(init, sample, asks=True)


def _choose(
  hyper: Hyper, draw: Draw, cohort_size: int, candidates: int, loss_of
) -> Array:
  """The candidates with the largest score, C where there are too few."""
  size = jnp.asarray(draw.federation.size)
  population = len(size)
  drawing, ties = jax.random.split(draw.key)
  ids = draws.in_proportion(
    drawing, size, draw.available, candidates or population
  )
  n = jnp.take(size, ids, mode='clip').astype(float)
  score = loss_of(ids) * n**hyper.sampler.size_exponent
  score = jnp.where(ids < population, score, -jnp.inf)
  return jnp.append(ids, population)[draws.top(ties, score, cohort_size)]


def _check(cohort_size: int, candidates: int, population: int) -> None:
  draws.check_cohort('cohort_size', cohort_size, population)
  if candidates:
    draws.check_cohort('candidates', candidates, population)
    if candidates < cohort_size:
      raise ValueError(
        f'sampler.candidates = {candidates} is less than sampler.cohort_size = '
        f'{cohort_size}; choose {cohort_size} or more, or 0 for all clients'
      )
