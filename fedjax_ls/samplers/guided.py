"""Oort: clients that are useful, and fast enough."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_ls import local
from fedjax_ls.hyper import Hyper
from fedjax_ls.models.base import Model
from fedjax_ls.samplers import draws
from fedjax_ls.types import Array, Draw, Sampler

# Utilities above this quantile count as it does.
_CLIP = 0.98
# Weight of the time since a client last took part.
_STALENESS = 0.1


class Guide(NamedTuple):
  """What Oort knows.

  Attributes:
    utility: `[C]` statistical utility when last chosen.
    last: `[C]` round, from 1, in which that was; 0 for never.
    percent: of the clients are not too slow.
    now: mean utility of those chosen for it, summed over this window of rounds.
    before: and in the window before.
  """

  utility: Array
  last: Array
  percent: Array
  now: Array
  before: Array


def oort(cohort_size: int, model: Model, *, pacer_window: int = 20) -> Sampler:
  """Guided participant selection.

  In round t, from 1, with B_k the examples of client k that local steps see:

    utility      U_k = |B_k| sqrt(mean of squared losses of client k)
    score        (U_k - min U) / (max U - min U) + sqrt(0.1 ln t / t_k),
                 t_k the round in which it was last chosen; times
                 p_k = min(1, T / s_k)^straggler_penalty, with s_k seconds
    exploration  e = max(exploration exploration_decay^(t-1), exploration_floor)
    cohort       (1 - e) K known clients, drawn in proportion to the score
                 among those of at least `cutoff` times the last one's in rank;
                 e K unknown ones, drawn in proportion to p_k n_k
    pacer        T is the `pacer_start` percentile of all s_k; if the new mean
                 utility of the known in the cohort, summed over a window of
                 rounds, is within a tenth of that of the window before, it
                 rises by `pacer_step` percent, and falls by as much if it is
                 off by five times that or more

  U_k above the 98 % quantile count as that quantile, but max U does not.  T
  does not fall below `pacer_step` percent.  Clients chosen are asked
  for their losses at the model that they receive.  Where known or unknown
  clients are too few, the others fill up.  Without a clock nobody is slow;
  stragglers by `client.partial_work` count with all of their work.

  Args:
    cohort_size: clients a round, K.
    model: the network and its loss.
    pacer_window: rounds of a window.

  Returns:
    The sampler.  It reads the numbers named above from `hyper.sampler`; its
    metric is `oort_percent`, the percentile.

  References:
    Lai, Zhu, Madhyastha, Chowdhury. Oort: efficient federated learning via
    guided participant selection. OSDI 2021.

  Differs from the authors' code in: losses are of all examples at the model
  received, there a moving average over the first local epoch; who is chosen
  counts as known even if it misses the deadline or drops out; how long a round
  takes a client is known for all; no blacklist.  Unknown clients there count
  for min U and max U with what they were registered with, only the best few of
  them are drawn from (`sample_window`), exploration decays once before the
  first round, and the cutoff is of the score next in rank.  As there, the term
  for staleness divides by the round and not by the time since.
  """
  squared = model._replace(loss=lambda o, y: model.loss(o, y) ** 2)
  question = partial(local.full_loss, squared)

  def init(federation):
    population = len(federation.size)
    draws.check_cohort('cohort_size', cohort_size, population)
    zero = jnp.zeros(())
    return Guide(
      jnp.zeros(population),
      jnp.zeros(population, jnp.int32),
      zero - 1,
      zero,
      zero,
    )

  def sample(hyper: Hyper, state: Guide, draw: Draw):
    size = jnp.asarray(draw.federation.size)
    turn = draw.round + 1
    state = _paced(hyper, state, draw.round, pacer_window)
    score = scores(hyper, state, turn, draw.seconds)
    ids, exploited = choose(hyper, state, draw, score, cohort_size)
    loss = jnp.sqrt(draw.ask(question, ids))
    seen = jnp.minimum(local.examples_seen(hyper.client, size), size)
    useful = loss * jnp.take(seen, ids, mode='clip')
    gained = jnp.sum(jnp.where(exploited, useful, 0))
    return ids, state._replace(
      utility=state.utility.at[ids].set(
        useful.astype(state.utility.dtype), mode='drop'
      ),
      last=state.last.at[ids].set(turn, mode='drop'),
      now=state.now + gained / jnp.maximum(jnp.sum(exploited), 1),
    )

  def metrics(state: Guide):
    return {'oort_percent': state.percent}

  return Sampler(init, sample, metrics=metrics, asks=True)


def scores(
  hyper: Hyper, state: Guide, turn: Array, seconds: Array | None
) -> Array:
  """How good the known clients are, `[C]`; minus infinity for the others."""
  known = state.last > 0
  number = jnp.sum(known)
  ordered = jnp.sort(jnp.where(known, state.utility, jnp.inf))
  at = jnp.clip((_CLIP * number).astype(int), 0, jnp.maximum(number - 1, 0))
  utility = jnp.minimum(state.utility, ordered[at])
  least = 0.999 * ordered[0]
  most = jnp.max(jnp.where(known, state.utility, least))
  spread = jnp.maximum(most - least, 1e-4)
  stale = _STALENESS * jnp.log(turn) / jnp.maximum(state.last, 1)
  score = (utility - least) / spread + jnp.sqrt(stale)
  score = score * penalty(hyper, state, seconds)
  return jnp.where(known, score, -jnp.inf)


def penalty(hyper: Hyper, state: Guide, seconds: Array | None) -> Array | float:
  """What slow clients' scores are multiplied by, `[C]`; 1 without a clock."""
  if seconds is None:
    return 1.0
  limit = preferred(seconds, state.percent)
  slow = (limit / jnp.maximum(seconds, limit)) ** (
    hyper.sampler.straggler_penalty
  )
  return jnp.where(seconds > limit, slow, 1.0)


def preferred(seconds: Array, percent: Array) -> Array:
  """The duration that `percent` of the clients do not exceed; none at 100."""
  number = len(seconds)
  at = jnp.minimum((number * percent / 100).astype(int), number - 1)
  return jnp.where(percent < 100, jnp.sort(seconds)[at], jnp.max(seconds))


def choose(
  hyper: Hyper, state: Guide, draw: Draw, score: Array, count: int
) -> tuple[Array, Array]:
  """The cohort `ids[K]`, and who is in it for its score `[K]`."""
  settings, population = hyper.sampler, len(score)
  score = draws.allowed(score, draw.available)
  known = score > -jnp.inf
  new = state.last == 0
  new = new if draw.available is None else new & draw.available
  share = settings.exploration * settings.exploration_decay**draw.round
  share = jnp.clip(jnp.maximum(share, settings.exploration_floor), 0, 1)
  # 10 (1 - 0.9) is less than 1 by rounding.
  wanted = (count * (1 - share) + 1e-4).astype(int)
  exploit = jnp.minimum(wanted, jnp.sum(known))
  explore = jnp.minimum(count - exploit, jnp.sum(new))
  exploit = jnp.minimum(count - explore, jnp.sum(known))
  ranked = jnp.sort(score, descending=True)
  bar = settings.cutoff * ranked[jnp.maximum(exploit - 1, 0)]
  good = known & (score >= bar)
  old_key, new_key = jax.random.split(draw.key)
  old = draws.in_proportion(old_key, jnp.where(good, score, 0), None, count)
  size = draw.federation.size * penalty(hyper, state, draw.seconds)
  size = jnp.where(new, size, 0)
  fresh = draws.in_proportion(new_key, size, None, count)
  slot = jnp.arange(count)
  ids = jnp.where(slot < exploit, old, fresh[jnp.maximum(slot - exploit, 0)])
  ids = jnp.where(slot < exploit + explore, ids, population)
  return ids, slot < exploit


def _paced(hyper: Hyper, state: Guide, round: Array, window: int) -> Guide:
  """At the end of a window the limit may rise or fall."""
  settings = hyper.sampler
  start = jnp.where(state.percent < 0, settings.pacer_start, state.percent)
  ended = (round > 0) & (round % window == 0)
  change = jnp.abs(state.now - state.before)
  flat, sharp = change <= 0.1 * state.before, change >= 5 * state.before
  step = settings.pacer_step
  raised = jnp.minimum(start + step, 100)
  lowered = jnp.minimum(jnp.maximum(start - step, step), start)
  paced = jnp.where(flat, raised, jnp.where(sharp, lowered, start))
  return state._replace(
    percent=jnp.where(ended & (round >= 2 * window), paced, start),
    before=jnp.where(ended, state.now, state.before),
    now=jnp.where(ended, 0, state.now),
  )
