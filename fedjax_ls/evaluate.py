"""How good a model is: on a central test set, and client by client."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_ls.data.federation import Federation
from fedjax_ls.models.base import Model
from fedjax_ls.types import Algorithm, State, context_of

Array = jax.Array
Tree = Any


def evaluate(
  algorithm: Algorithm,
  model: Model,
  hyper,
  state: State,
  federation: Federation,
  test: Federation,
  *,
  batch_size: int = 1024,
) -> dict[str, Array]:
  """Judges the current model; pure, meant to be jitted.

  A method with one global model is judged on all test examples.  A method
  whose clients use models of their own is judged on each client's part of the
  test examples with that client's model, chosen from its training data; the
  global model, where it is judged as well, and variants of it on all of them.

  Args:
    algorithm: the method.
    model: the network, its loss and metrics.
    hyper: the method's numbers.
    state: the run.
    federation: the training data.
    test: the test data and each client's part of them; clients may be empty.
    batch_size: examples evaluated at a time.

  Returns:
    `{name: scalar}`: `loss` and each of the model's metrics, the mean over
    the test examples (with models of their own: over the clients' parts);
    and, over the clients that have test examples, the metric's
    `client_mean`, `client_std`, `client_variance`, `client_worst10` and
    `client_best10` (means of the worst and the best tenth, rounded up) with
    the metric's name in front (but for metrics of parts, which have an @), and
    `clients_left_out`, the number of clients without any.  Means of a global
    model beside personal ones have `global_` in front, a variant's metrics are
    `metric@name`; with `algorithm.answer`, `local/metric` is the mean over the
    clients' parts under it.
  """
  means: dict[str, Array] = {}
  model = algorithm.network or model
  params, stats = global_model(algorithm, hyper, state, federation)
  if algorithm.personal is None or algorithm.judges_global:
    values = per_example(model, params, stats, test.x, test.y, batch_size)
    means = {k: jnp.mean(v) for k, v in values.items()}
  if algorithm.personal is None:
    own = {k: _client_means(v, test) for k, v in values.items()}
  else:
    means = {f'global_{k}': v for k, v in means.items()}
    own = _by_client(
      model, algorithm.personal, None, hyper, state, federation, test,
      batch_size,
    )  # fmt: skip
    means |= _over_clients(own, test)
  for name in own:
    if name != 'loss' and '@' not in name:
      spread = spread_over_clients(own[name], test.size > 0)
      means |= {f'{name}/{key}': value for key, value in spread.items()}
  means['clients_left_out'] = jnp.sum(test.size == 0)
  for variant in algorithm.variants:
    weights = variant.weights(hyper, state.server, federation)
    attack = variant.attack and partial(variant.attack, hyper)
    values = per_example(
      variant.model, *weights, test.x, test.y, batch_size, attack
    )
    means |= {f'{k}@{variant.name}': jnp.mean(v) for k, v in values.items()}
  if algorithm.answer is not None and test.index.shape[1]:
    local = _by_client(
      model, lambda hyper, ctx: (params, stats), algorithm.answer, hyper,
      state, federation, test, batch_size,
    )  # fmt: skip
    means |= {f'local/{k}': v for k, v in _over_clients(local, test).items()}
  return means


def client_values(
  algorithm: Algorithm,
  model: Model,
  hyper,
  state: State,
  federation: Federation,
  test: Federation,
  *,
  batch_size: int = 1024,
) -> dict[str, Array]:
  """Loss and metrics of each client, `{name: [C]}`; arguments as `evaluate`.

  A client without test examples has 0.
  """
  model = algorithm.network or model
  if algorithm.personal is not None:
    return _by_client(
      model, algorithm.personal, None, hyper, state, federation, test,
      batch_size,
    )  # fmt: skip
  params, stats = global_model(algorithm, hyper, state, federation)
  values = per_example(model, params, stats, test.x, test.y, batch_size)
  return {k: _client_means(v, test) for k, v in values.items()}


def global_model(
  algorithm: Algorithm, hyper, state: State, federation: Federation
) -> tuple[Tree, Tree]:
  """The global model as it is judged.

  Args:
    algorithm: the method.
    hyper: its numbers.
    state: the run.
    federation: the training data, for statistics that need it.

  Returns:
    `(params, stats)`.
  """
  if algorithm.ready is None:
    return algorithm.model(state.server)
  return algorithm.ready(hyper, state.server, federation)


def per_example(
  model: Model,
  params: Tree,
  stats: Tree,
  x: Array,
  y: Array,
  batch_size: int,
  attack: Callable[..., Array] | None = None,
) -> dict[str, Array]:
  """Loss and metrics of every example, `{name: [N]}`, in evaluation mode.

  Args:
    model: the network, its loss and metrics.
    params: its parameters.
    stats: its statistics.
    x: `[N, ...]` examples.
    y: `[N, ...]` their labels or targets.
    batch_size: examples at a time.
    attack: `(params, stats, x, y, key) -> x` changes a batch before, None for
      nothing.
  """
  batch_size = min(batch_size, len(x))
  batches = math.ceil(len(x) / batch_size)
  rows = jnp.arange(batches * batch_size).reshape(batches, batch_size)

  def one(rows):
    rows = jnp.minimum(rows, len(x) - 1)
    seen, labels = x[rows], y[rows]
    if attack is not None:
      key = jax.random.fold_in(jax.random.key(0), rows[0])
      seen = attack(params, stats, seen, labels, key)
    return _metrics(model, params, stats, seen, labels)

  values = jax.lax.map(one, rows)
  return {k: v.reshape(-1)[: len(x)] for k, v in values.items()}


def spread_over_clients(values: Array, present: Array) -> dict[str, Array]:
  """How a metric spreads over clients.

  Args:
    values: `[C]`.
    present: `[C]`, False for clients that do not count.

  Returns:
    `client_mean`, `client_std` and `client_variance` (of the population),
    `client_worst10` and `client_best10`; NaN when no client counts.

  >>> spread = spread_over_clients(
  ...   jnp.array([0.2, 0.8, 0.0]), jnp.array([True, True, False]))
  >>> {k: round(float(v), 3) for k, v in spread.items()}
  ... # doctest: +NORMALIZE_WHITESPACE
  {'client_mean': 0.5, 'client_std': 0.3, 'client_variance': 0.09,
   'client_worst10': 0.2, 'client_best10': 0.8}
  """
  count = jnp.sum(present)
  mean = jnp.sum(jnp.where(present, values, 0)) / count
  variance = jnp.sum(jnp.where(present, (values - mean) ** 2, 0)) / count
  tenth = -(-count // 10)
  rank = jnp.arange(len(values))

  def lowest(values):
    ordered = jnp.sort(jnp.where(present, values, jnp.inf))
    return jnp.sum(jnp.where(rank < tenth, ordered, 0)) / tenth

  return {
    'client_mean': mean,
    'client_std': jnp.sqrt(variance),
    'client_variance': variance,
    'client_worst10': lowest(values),
    'client_best10': -lowest(-values),
  }


def _metrics(
  model, params, stats, x, y, answer=lambda outputs: outputs
) -> dict[str, Array]:
  outputs, _ = model.apply(params, stats, x)
  outputs = answer(outputs)
  return {'loss': model.loss(outputs, y), **model.metrics(outputs, y)}


def _client_means(values: Array, test: Federation) -> Array:
  """Mean of `values[N]` over each client's rows, `[C]`; 0 without rows."""
  own = jnp.arange(test.index.shape[1])[None] < test.size[:, None]
  total = jnp.sum(jnp.where(own, values[test.index], 0), axis=1)
  return total / jnp.maximum(test.size, 1)


def _over_clients(values: dict[str, Array], test: Federation):
  """Means over the clients' parts from `{name: [C]}`, their own means."""
  share = test.size / jnp.maximum(jnp.sum(test.size), 1)
  return {k: jnp.sum(share * v) for k, v in values.items()}


def _by_client(
  model, personal, answer, hyper, state, federation, test, batch_size
):
  """Each client's means on its own part, `{name: [C]}`."""
  batch_size = min(batch_size, test.index.shape[1])

  def client(args):
    number, own, rows, size = args
    ctx = context_of(federation, number, state.server, own, state.round)
    params, stats = personal(hyper, ctx)

    def metrics(rows):
      change = (
        (lambda outputs: answer(hyper, ctx.labels, outputs))
        if answer
        else (lambda outputs: outputs)
      )
      return _metrics(model, params, stats, test.x[rows], test.y[rows], change)

    def step(i, total):
      at = i * batch_size + jnp.arange(batch_size)
      mine = rows[jnp.minimum(at, len(rows) - 1)]
      values = metrics(mine)
      return {
        k: total[k] + jnp.sum(jnp.where(at < size, v, 0))
        for k, v in values.items()
      }

    shapes = jax.eval_shape(metrics, rows[:1])
    zeros = {k: jnp.zeros((), v.dtype) for k, v in shapes.items()}
    batches = -(-size // batch_size)
    total = jax.lax.fori_loop(0, batches, step, zeros)
    return {k: v / jnp.maximum(size, 1) for k, v in total.items()}

  ids = jnp.arange(len(federation.size))
  return jax.lax.map(client, (ids, state.clients, test.index, test.size))
