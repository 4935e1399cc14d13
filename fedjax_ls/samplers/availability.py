"""Clients that are not there, are not asked, or drop out."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.data.checks import require
from fedjax_ls.types import Array, Draw, Sampler, Tree, passed_on

# What the key of a cohort is folded with for those it loses.
_LOST = (1 << 31) - 1


class Traced(NamedTuple):
  """State of a sampler with a table of the clients.

  Attributes:
    inner: state of the sampler itself.
    table: the trace `[T, C]`, or probabilities `[C]`.
  """

  inner: Tree
  table: Array


def when_available(sampler: Sampler, trace: np.ndarray) -> Sampler:
  """A sampler that chooses among the clients that are there.

  Args:
    sampler: who takes part, of those available; too few leave dead slots.
    trace: `[T, C]` whether client c is available in round t, over and over.

  Returns:
    The sampler.

  >>> from fedjax_ls import data, samplers
  >>> night = np.array([[True, False, True], [False, True, False]])
  >>> who = when_available(samplers.uniform(2), night)
  >>> federation = data.federate(np.ones((3, 1)), [0, 0, 0], [[0], [1], [2]])
  >>> draw = Draw(federation, jax.random.key(0), 1)
  >>> print(who.sample(None, who.init(federation), draw)[0])
  [1 3]
  """
  trace = np.asarray(trace, bool)

  def sample(hyper, state: Traced, draw: Draw):
    here = state.table[draw.round % len(state.table)]
    ids, inner = _among(here, sampler, hyper, state.inner, draw)
    return ids, state._replace(inner=inner)

  return _around(sampler, sample, 'available', trace)


def of_tiers(sampler: Sampler, tiers: Sequence[int]) -> Sampler:
  """A sampler that chooses among the clients of some tiers.

  Args:
    sampler: who takes part, of those; too few leave dead slots.
    tiers: numbers of the tiers.

  Returns:
    The sampler.

  >>> from fedjax_ls import data, samplers
  >>> federation = data.federate(
  ...   np.ones((3, 1)), [0, 0, 0], [[0], [1], [2]], tier=np.array([0, 1, 0]))
  >>> who = of_tiers(samplers.everyone(), [0])
  >>> ids, _ = who.sample(
  ...   None, who.init(federation), Draw(federation, None, 0))
  >>> print(ids)
  [0 3 2]
  """

  def sample(hyper, state, draw: Draw):
    here = jnp.isin(draw.federation.tier, jnp.array(tiers))
    if draw.available is not None:
      here = here & draw.available
    return _among(here, sampler, hyper, state, draw)

  return sampler._replace(sample=sample)


def dropping_out(
  sampler: Sampler, probability: np.ndarray | None = None
) -> Sampler:
  """A sampler whose clients drop out after they were chosen.

  Each chosen client is lost with its probability, independently, and becomes
  a dead slot; nobody takes its place and `sampler` is not told.  A simulated
  clock does not wait for it.

  Args:
    sampler: who is chosen.
    probability: `[C]` of dropping out, in [0, 1]; None for
      `hyper.sampler.dropout`, the same for all.

  Returns:
    The sampler.
  """
  if probability is None:

    def thinned(hyper, state, draw: Draw):
      ids, state = sampler.sample(hyper, state, draw)
      return _thinned(draw, ids, hyper.sampler.dropout), state

    return sampler._replace(sample=thinned)

  def sample(hyper, state: Traced, draw: Draw):
    ids, inner = sampler.sample(hyper, state.inner, draw)
    share = jnp.take(state.table, ids, mode='clip')
    return _thinned(draw, ids, share), state._replace(inner=inner)

  return _around(sampler, sample, 'dropout', np.asarray(probability, float))


def read(
  path: str | os.PathLike,
) -> tuple[np.ndarray | None, np.ndarray | None]:
  """The trace and the probabilities in a file.

  Args:
    path: an `.npz` with `available[T, C]`, `dropout[C]`, or both.

  Returns:
    `available` as bool and `dropout` as float, None for what is not there.

  Raises:
    ValueError: there is neither, or not as it should be.
  """
  try:
    with np.load(path) as file:
      found = {name: file[name] for name in file.files}
  except (OSError, ValueError) as error:
    raise ValueError(
      f'sampler.availability = {str(path)!r} cannot be read ({error}); give '
      'the path of an .npz file'
    ) from error
  trace, dropout = found.get('available'), found.get('dropout')
  require(
    trace is not None or dropout is not None,
    f'sampler.availability = {str(path)!r} holds {sorted(found)}; store '
    'available [T, C], dropout [C] or both',
  )
  if trace is not None:
    require(
      trace.ndim == 2
      and len(trace) > 0
      and trace.dtype.kind in 'biu'
      and bool(np.isin(trace, (0, 1)).all()),
      f'available has {trace.dtype}{list(trace.shape)}; give [T, C] of 0 and 1',
    )
    trace = trace.astype(bool)
  if dropout is not None:
    require(
      dropout.ndim == 1 and bool(((dropout >= 0) & (dropout <= 1)).all()),
      f'dropout has {dropout.dtype}{list(dropout.shape)}; give [C] numbers in '
      '[0, 1]',
    )
    dropout = dropout.astype(float)
  return trace, dropout


def _among(
  here: Array, sampler: Sampler, hyper, state: Tree, draw: Draw
) -> tuple[Array, Tree]:
  """Whom `sampler` chooses of the clients that are `here[C]`."""
  ids, state = sampler.sample(hyper, state, draw._replace(available=here))
  # A sampler of one's own may not have looked.
  there = jnp.take(here, ids, mode='fill', fill_value=False)
  return jnp.where(there, ids, len(here)), state


def _thinned(draw: Draw, ids: Array, share: Array) -> Array:
  """`ids[K]`, of which each is lost with probability `share`."""
  key = jax.random.fold_in(draw.key, _LOST)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
  lost = jax.vmap(jax.random.uniform)(keys) < share
  return jnp.where(lost, len(draw.federation.size), ids)


def _around(sampler: Sampler, sample, name: str, table: np.ndarray) -> Sampler:
  """The sampler that keeps a table `[..., C]` beside its state."""

  def init(federation):
    found, population = table.shape[-1], len(federation.size)
    require(
      found == population,
      f'{name} is of {found} clients but there are {population}; give one '
      'number a client',
    )
    return Traced(sampler.init(federation), jnp.asarray(table))

  return sampler._replace(
    init=init,
    sample=sample,
    observe=passed_on(sampler),
    metrics=lambda state: sampler.metrics(state.inner),
  )
