"""Reductions that some wrong updates do not spoil.

They replace the weighted mean of `delta` in the last phase of any method that
averages it, and see what arrives after the uplink.  Every live client counts
once; all else that is averaged, such as BatchNorm statistics, stays a mean.
Methods whose server makes further sums of the updates (FedDyn) are refused, as
those would let in what the rule keeps out.

With n live clients and f = floor(byzantine n):

  median            of each entry
  trimmed_mean      of each entry without its f least and f largest values
  krum              the update with the least sum of squared distances to its
                    n - f - 2 nearest (at least one)
  multi_krum        mean of the n - f updates for which that sum is least
  geometric_median  the point with the least sum of distances, by 50 steps of
                    Weiszfeld's algorithm

References:
  Yin, Chen, Ramchandran, Bartlett. Byzantine-robust distributed learning:
  towards optimal statistical rates. ICML 2018.
  Blanchard, El Mhamdi, Guerraoui, Stainer. Machine learning with adversaries:
  Byzantine tolerant gradient descent. NeurIPS 2017.
  Pillutla, Kakade, Harchaoui. Robust aggregation for federated learning. IEEE
  TSP 2022.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from fedjax_ls import stacked as stacked_lib
from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Hyper, Server
from fedjax_ls.types import Algorithm, Array, Ctx, Tree, Upload

_STEPS = 50

# `(updates [K, ...], live [K], byzantine) -> update`; 0 if nobody is live.
Rule = Callable[[Tree, Array, Array | float], Tree]


def reduced(
  algorithm: Algorithm, settings: Server, method: str = 'this method'
) -> Algorithm:
  """A method whose updates become one by `settings.reduction`.

  Args:
    algorithm: the method.
    settings: names the rule; its number comes with `hyper.server`.
    method: what an error calls the method.

  Returns:
    The method, itself for `mean`.  At the start of a run it refuses, in one
    sentence, methods that do not average whole updates, and updates too large
    to be held side by side.
  """
  if settings.reduction == 'mean':
    return algorithm
  rule = RULES[settings.reduction]
  named = f'server.reduction = {settings.reduction!r}'
  unfit = (
    f'{named} does not fit {method}, which does not average updates of the '
    'whole model; use mean or a method such as fedavg'
  )
  last = algorithm.phases[-1]
  require(last.derive is None, unfit)

  def client(train, hyper: Hyper, ctx: Ctx) -> Upload:
    upload = train(hyper, ctx)
    return upload._replace(stacked=(upload.stacked, _whole(unfit, upload)))

  def step(hyper: Hyper, server, reduced, stacked, cohort):
    own, updates = stacked
    stacked_lib.check_size(named, updates)
    live = cohort.ids < cohort.population
    updates = stacked_lib.only(live, updates)
    mean = reduced.mean | {'delta': rule(updates, live, hyper.server.byzantine)}
    total = {k: v for k, v in reduced.total.items() if k != 'delta'}
    reduced = reduced._replace(mean=mean, total=total)
    try:
      return last.server(hyper, server, reduced, own, cohort)
    except KeyError as error:
      if error.args != ('delta',):
        raise
      raise ValueError(unfit) from error

  stacking = last.around(lambda train: partial(client, train))
  phases = (*algorithm.phases[:-1], stacking._replace(server=step))
  return algorithm._replace(phases=phases)


def check(server: Server, weights: str) -> None:
  """Refuses weights that a rule would not look at.

  Args:
    server: its `reduction`.
    weights: what clients count by, `size` or `uniform`.

  Raises:
    ValueError: in one sentence.
  """
  require(
    server.reduction == 'mean' or weights == 'uniform',
    f'server.reduction = {server.reduction!r} counts every client once but '
    f'clients count by {weights}; set server.weights = uniform',
  )


def median(updates: Tree, live: Array, byzantine=0.0) -> Tree:
  """Median of each entry over live clients.

  >>> print(median(jnp.array([1., 9., 2., -5.]), jnp.array([1, 1, 1, 0]) > 0))
  2.0
  """
  num = jnp.sum(live)
  low, high = jnp.maximum(num - 1, 0) // 2, num // 2

  def middle(ordered):
    return jnp.where(num > 0, (ordered[low] + ordered[high]) / 2, 0)

  return jax.tree.map(lambda v: middle(_ordered(v, live)), updates)


def trimmed_mean(updates: Tree, live: Array, byzantine) -> Tree:
  """Mean of each entry without the ends."""
  num = jnp.sum(live)
  cut = _suspects(live, byzantine)
  rank = jnp.arange(len(live))
  inside = (rank >= cut) & (rank < num - cut)

  def mean(ordered):
    kept = jnp.where(_column(inside, ordered), ordered, 0)
    return jnp.sum(kept, 0) / jnp.maximum(num - 2 * cut, 1).astype(kept.dtype)

  return jax.tree.map(lambda v: mean(_ordered(v, live)), updates)


def krum(updates: Tree, live: Array, byzantine) -> Tree:
  """The update that is nearest to its neighbours."""
  scores = krum_scores(updates, live, byzantine)
  chosen = jnp.arange(len(live)) == jnp.argmin(scores)
  return _weighted((chosen & live).astype(scores.dtype), updates)


def multi_krum(updates: Tree, live: Array, byzantine) -> Tree:
  """Mean of the updates that are nearest to their neighbours."""
  scores = krum_scores(updates, live, byzantine)
  most = jnp.sum(live) - _suspects(live, byzantine)
  rank = jnp.argsort(jnp.argsort(scores, stable=True))
  chosen = ((rank < most) & live).astype(scores.dtype)
  return _weighted(chosen / jnp.maximum(most, 1), updates)


def krum_scores(updates: Tree, live: Array, byzantine) -> Array:
  """`[K]` sums of squared distances to the nearest, infinite if not live."""
  squares = _squared_distances(stacked_lib.gram(updates))
  itself = jnp.eye(len(live), dtype=bool)
  pair = live[:, None] & live[None] & ~itself
  ordered = jnp.sort(jnp.where(pair, squares, jnp.inf), axis=1)
  num = jnp.sum(live)
  nearest = jnp.maximum(num - _suspects(live, byzantine) - 2, 1)
  # A single client has no neighbours.
  near = (jnp.arange(len(live)) < jnp.minimum(nearest, num - 1))[None]
  scores = jnp.sum(jnp.where(near, ordered, 0), axis=1)
  return jnp.where(live, scores, jnp.inf)


def geometric_median(updates: Tree, live: Array, byzantine=0.0) -> Tree:
  """The point with the least sum of distances to the live updates."""
  products = stacked_lib.gram(updates)
  even = live / jnp.maximum(jnp.sum(live), 1).astype(products.dtype)
  # Distances far below the usual ones count as this one.
  own = jnp.diagonal(products)
  least = 1e-6 * jnp.sqrt(jnp.max(jnp.where(live, own, 0)))

  def step(i, share):
    at = products @ share
    squares = own - 2 * at + share @ at
    distance = jnp.sqrt(jnp.maximum(squares, 0))
    distance = jnp.maximum(distance, jnp.where(least > 0, least, 1))
    closeness = jnp.where(live, 1 / distance, 0)
    return closeness / jnp.maximum(jnp.sum(closeness), 1e-30)

  share = jax.lax.fori_loop(0, _STEPS, step, even.astype(products.dtype))
  return _weighted(share, updates)


RULES: dict[str, Rule] = {
  'median': median,
  'trimmed_mean': trimmed_mean,
  'krum': krum,
  'multi_krum': multi_krum,
  'geometric_median': geometric_median,
}


def _whole(unfit: str, upload: Upload) -> Tree:
  """The update in an upload, 0 where it does not count; `unfit` if none is."""
  require('delta' in upload.summed, unfit)
  change, weight = upload.summed['delta']
  require(not any(map(jnp.ndim, jax.tree.leaves(weight))), unfit)
  weight = jax.tree.broadcast(weight, change)
  return jax.tree.map(lambda w, v: jnp.where(w > 0, v, 0), weight, change)


def _suspects(live: Array, byzantine) -> Array:
  """floor(byzantine n), also where the product is a rounding below it."""
  return jnp.floor(byzantine * jnp.sum(live) + 1e-4).astype(jnp.int32)


def _ordered(v: Array, live: Array) -> Array:
  """Sorted over clients, those that are not live at the end."""
  return jnp.sort(jnp.where(_column(live, v), v, jnp.inf), axis=0)


def _column(of: Array, like: Array) -> Array:
  return of.reshape((-1,) + (1,) * (like.ndim - 1))


def _squared_distances(products: Array) -> Array:
  own = jnp.diagonal(products)
  return jnp.maximum(own[:, None] + own[None] - 2 * products, 0)


def _weighted(share: Array, updates: Tree) -> Tree:
  return jax.tree.map(
    lambda v: jnp.tensordot(share.astype(v.dtype), v, 1), updates
  )
