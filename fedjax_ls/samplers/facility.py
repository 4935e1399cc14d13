"""DivFL: a cohort whose gradients stand for those of all clients."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fedjax_ls import local, shuffle
from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Hyper
from fedjax_ls.models.base import Model
from fedjax_ls.samplers import draws
from fedjax_ls.types import Array, Ctx, Draw, Sampler, Tree

# What gradients and distances may take in bytes.
MOST_BYTES = 4 * 2**30
# The parameters of a network's last layer.
HEAD = 'classifier'


class Known(NamedTuple):
  """What is known of the clients' gradients.

  Attributes:
    gradients: `[C, G]`, each of the round that it was last asked for.
    distances: `[C, C]` between them.
    salts: uint32 `[2]`, which sketch it is.
  """

  gradients: Array
  distances: Array
  salts: Array


def divfl(
  cohort_size: int,
  model: Model,
  *,
  gradients: str = 'full',
  sketch_size: int = 64,
  refresh: str = 'cohort',
  subset: int = 0,
) -> Sampler:
  """Diverse client selection by facility location on gradients.

  With g_k the gradient over all of client k's examples, the cohort S is built
  greedily, one client at a time, to make small

    sum_k min_{i in S} |g_k - g_i|          (Euclidean, not squared)

  All clients are asked in round 0.  Later `cohort` asks those chosen, whose
  gradients at the model they receive serve the rounds after; `everyone` asks
  all in every round, before choosing.  A client that is not available cannot
  be chosen but is represented.

  Args:
    cohort_size: clients a round.
    model: the network and its loss.
    gradients: what is compared, `full` gradients, those of the `head`, or a
      random `sketch` of the full ones, whose distances are right on average.
    sketch_size: numbers in a sketch.
    refresh: `cohort` or `everyone`.
    subset: clients among which each step of the greedy search chooses, at
      random (stochastic greedy); 0 for all.

  Returns:
    The sampler.

  Raises:
    ValueError: at the start of a run, gradients and distances take too much
      memory, or there is no head.

  References:
    Balakrishnan, Li, Zhou, Himayat, Smith, Bilmes. Diverse client selection
    for federated learning via submodular maximization. ICLR 2022.
    Charikar, Chen, Farach-Colton. Finding frequent items in data streams.
    ICALP 2002 (the sketch).

  Differs from the authors' code in: `everyone` does what its name says, where
  there it takes effect for cohorts of one client only; the greedy search is
  plain, theirs lazy; `subset` is any number, theirs max(K, C / 10).  They count
  the cohort by n_k, as `server.weights = size` does; where sizes are far apart
  one client then decides, and `uniform` does better (`configs/divfl.py`).
  Gradients are of the whole network for every tier: parameters that narrow
  clients do not train are compared as well.
  """

  sketch = gradients == 'sketch'

  def question(salts: Array):
    def gradient(hyper: Hyper, ctx: Ctx, params: Tree, stats: Tree) -> Array:
      own, _ = local.full_gradient(model, hyper, ctx, params, stats)
      flat, _ = ravel_pytree(own[HEAD] if gradients == 'head' else own)
      return sketched(flat, salts, sketch_size) if sketch else flat

    return gradient

  def init(federation):
    population = len(federation.size)
    draws.check_cohort('cohort_size', cohort_size, population)
    if subset:
      draws.check_cohort('subset', subset, population)
    length, dtype = _compared(model, gradients, sketch_size)
    _check_bytes(population, length, dtype.itemsize, gradients)
    if refresh == 'everyone':
      return ()
    return Known(
      jnp.zeros((population, length), dtype),
      jnp.zeros((population, population), dtype),
      jnp.zeros(2, jnp.uint32),
    )

  def ask_all(draw: Draw) -> Known:
    salts = jax.random.bits(jax.random.fold_in(draw.key, 0), (2,), 'uint32')
    everyone = jnp.arange(len(draw.federation.size))
    own = draw.ask(question(salts), everyone)
    return Known(own, distances(own, own, everyone), salts)

  def choose(draw: Draw, known: Known) -> Array:
    left = jnp.ones(len(known.distances), bool)
    left = left if draw.available is None else draw.available
    key = jax.random.fold_in(draw.key, 1)
    return representatives(known.distances, cohort_size, left, key, subset)

  def sample(hyper, state, draw: Draw):
    del hyper
    if refresh == 'everyone':
      return choose(draw, ask_all(draw)), state
    known = jax.lax.cond(draw.round == 0, lambda: ask_all(draw), lambda: state)
    ids = choose(draw, known)
    new = draw.ask(question(known.salts), ids)
    own = known.gradients.at[ids].set(new, mode='drop')
    rows = distances(new, own, ids)
    between = known.distances.at[ids].set(rows, mode='drop')
    between = between.at[:, ids].set(rows.T, mode='drop')
    return ids, known._replace(gradients=own, distances=between)

  return Sampler(init, sample, asks=True)


def representatives(
  distance: Array, count: int, left: Array, key: Array, subset: int = 0
) -> Array:
  """Greedy facility location.

  Args:
    distance: `[C, C]`, from each client to each that may stand for it.
    count: how many to choose.
    left: `[C]` who may be chosen.
    key: random key, for `subset`.
    subset: size of the random subset that each step chooses from, 0 for all.

  Returns:
    `[count]` clients in the order chosen; C where nobody is left.

  >>> x = jnp.array([0.0, 1.0, 2.0, 9.0, 10.0])
  >>> far = jnp.abs(x[:, None] - x[None])
  >>> print(representatives(far, 2, jnp.ones(5, bool), jax.random.key(0)))
  [2 3]
  """
  population = len(distance)

  def step(i, carry):
    chosen, nearest, left = carry
    cost = jnp.sum(jnp.minimum(nearest[:, None], distance), 0)
    candidates = left
    if subset:
      score = jnp.where(left, 0.0, -jnp.inf)
      some = draws.top(jax.random.fold_in(key, i), score, subset)
      candidates = jnp.zeros(population, bool).at[some].set(True, mode='drop')
    best = jnp.argmin(jnp.where(candidates, cost, jnp.inf))
    found = candidates[best]
    nearer = jnp.minimum(nearest, distance[:, best])
    return (
      chosen.at[i].set(jnp.where(found, best, population)),
      jnp.where(found, nearer, nearest),
      left.at[best].set(False),
    )

  start = (
    jnp.full(count, population, jnp.arange(1).dtype),
    jnp.full(population, jnp.inf, distance.dtype),
    left,
  )
  return jax.lax.fori_loop(0, count, step, start)[0]


def distances(a: Array, b: Array, ids: Array) -> Array:
  """Euclidean distances `[A, B]` of rows, exactly 0 where row i is `ids[i]`.

  Squares may come out below zero by rounding and are clamped.
  """
  with jax.default_matmul_precision('highest'):
    product = a @ b.T
  square = jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None] - 2 * product
  own = ids[:, None] == jnp.arange(len(b))[None]
  return jnp.where(own, 0, jnp.sqrt(jnp.maximum(square, 0)))


def sketched(flat: Array, salts: Array, size: int) -> Array:
  """Count sketch: each number, with a random sign, is added to one of `size`.

  Squared distances between sketches are those between the vectors on average,
  with a variance of about 2 / size of their square.
  """
  position = jnp.arange(len(flat), dtype=jnp.uint32)
  bucket, sign = (shuffle.mix(shuffle.mix(position) ^ salt) for salt in salts)
  signed = jnp.where(sign >> 31 == 1, flat, -flat)
  bucket = (bucket % jnp.uint32(size)).astype(jnp.int32)
  return jax.ops.segment_sum(signed, bucket, size)


def _compared(model: Model, gradients: str, sketch_size: int):
  """Length and type of what is compared."""
  params, _ = jax.eval_shape(model.init, jax.random.key(0))
  if gradients == 'head':
    require(
      isinstance(params, dict) and HEAD in params,
      f"sampler.gradients = 'head' needs parameters called {HEAD!r}, which the "
      'model has not; use full or sketch',
    )
    params = params[HEAD]
  leaves = jax.tree.leaves(params)
  dtype = jnp.result_type(*leaves)
  if gradients == 'sketch':
    return sketch_size, dtype
  return sum(math.prod(leaf.shape) for leaf in leaves), dtype


def _check_bytes(population, length, itemsize, gradients) -> None:
  needed = population * (length + population) * itemsize
  require(
    needed <= MOST_BYTES,
    f'sampler.gradients = {gradients!r} keeps {length} numbers and '
    f'{population} distances of each of {population} clients, {needed} bytes, '
    f'more than {MOST_BYTES}; use '
    + ('another sampler' if gradients == 'sketch' else 'head or sketch'),
  )
