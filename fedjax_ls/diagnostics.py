"""What local training does to a model: features, gradients, drift.

Pure functions, meant to be jitted; `diagnose` puts them together for the
clients of a run.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from fedjax_ls import local, server
from fedjax_ls import round as round_lib
from fedjax_ls.data.federation import Federation
from fedjax_ls.models.base import Model, Outputs
from fedjax_ls.types import Algorithm, Ctx, Execution, State, Trained, Upload

Array = jax.Array
Tree = Any


def diagnose(
  algorithm: Algorithm,
  model: Model,
  hyper,
  federation: Federation,
  state: State,
  test: Federation,
  ids: Array,
  execution: Execution = Execution(),  # noqa: B008
) -> dict[str, Array]:
  """Looks at the global model and at what clients would make of it.

  Trains the clients `ids` as the next round would if they were its cohort,
  one at a time on each device, and measures each model on the examples of
  `test`.  The state stays as it is.  Of a client are kept its update and its
  gradient, two vectors as long as the model; everything else is small.

  Args:
    algorithm: the method.
    model: the network, its loss and metrics.
    hyper: the method's numbers.
    federation: the training data.
    state: the run.
    test: examples to measure models on.
    ids: `[K]` distinct clients.
    execution: how the map over clients runs.

  Returns:
    `ids[K]`; what `measure` says of the global model under `global/...` and of
    the clients' models after local training under `client/...`, `[K, ...]`;

      client/accuracy_before [K, Y]  of each class, before local training
      client/drift [K]               |y_i - x|
      update/cosine [K, K]           of the updates y_i - x
      gradient/cosine [K, K]         of the gradients g_i at x
      gradient/norm []               |g|, g the mean of g_i by `server.weights`
      gradient/distance [K]          |g - g_i|
      gradient/ratio [K]             |g - g_i| / |g|, 0 where g = g_i

    x is the model that a client received, y_i what it made of it, g_i the
    gradient over all of its examples of the model's loss and what
    `hyper.loss` adds.

  Raises:
    ValueError: the method's last phase trains no model like the global one.
  """
  training = algorithm.phases[-1]
  like = algorithm.model(state.server)

  def client(hyper, ctx: Ctx) -> Upload:
    trained = _trained(training.client(hyper, ctx), like[0])
    return Upload(stacked=_client(model, hyper, ctx, trained, test))

  phase = training._replace(
    client=client,
    server=lambda hyper, server, reduced, stacked, _: stacked,
    alone=None,
    derive=None,
  )
  looking = algorithm._replace(phases=(*algorithm.phases[:-1], phase))
  execution = execution._replace(chunk=1, debug=False)
  slots = round_lib.lay_out(federation, state.clients, ids, execution)
  population = len(federation.size)
  of_clients = round_lib.exchange(
    looking, hyper, state, slots, population, execution
  )[0]
  updates, gradients, weight = map(
    of_clients.pop, ('update', 'gradient', 'weight')
  )
  return {
    'ids': ids,
    **{f'global/{k}': v for k, v in measure(model, *like, test).items()},
    **{f'client/{k}': v for k, v in of_clients.items()},
    'client/drift': _norms(updates),
    'update/cosine': cosines(updates),
    'gradient/cosine': cosines(gradients),
    **{f'gradient/{k}': v for k, v in dissimilarity(gradients, weight).items()},
  }


def measure(
  model: Model, params: Tree, stats: Tree, test: Federation, width=None
) -> dict[str, Array]:
  """What one model makes of the examples of `test`, in evaluation mode.

  Args:
    model: the network.
    params: its parameters.
    stats: its statistics.
    test: the examples, N of them.
    width: share of the channels in use, None for all.

  Returns:
    `spectrum[D]`, see `spectrum`, and its `effective_rank`;
    `singular[min(N, D)]`, singular values of the features themselves,
    `[N, D]` and not centred, falling; `feature_norm` and
    `feature_norm_std`, mean and standard deviation over the examples;
    `dead`, see `dead_features`; `classifier[min(D, Y)]`, singular values of
    the classifier's weights, if it is a kernel `[D, Y]`; `accuracy[Y]` of
    each class, if labels are class numbers.

  References:
    Zhang et al. Understanding the role of layer normalization in label-skewed
    federated learning. TMLR 2024.  Its Fig. 3 shows `singular` of 20 examples
    of different classes.
  """
  outputs = _outputs(model, params, stats, test.x, width)
  features = outputs.features.reshape(-1, outputs.features.shape[-1])
  values = spectrum(features)
  norms = _norms(features)
  measured = {
    'spectrum': values,
    'effective_rank': effective_rank(values),
    # Of R, which is small: Q R are the features.
    'singular': jnp.linalg.svd(
      jnp.linalg.qr(features, mode='r'), compute_uv=False
    ),
    'feature_norm': jnp.mean(norms),
    'feature_norm_std': jnp.std(norms),
    'dead': dead_features(features),
  }
  num_classes = outputs.logits.shape[-1]
  kernel = classifier_kernel(params, (features.shape[-1], num_classes))
  if kernel is not None:
    measured['classifier'] = jnp.linalg.svd(kernel, compute_uv=False)
  if jnp.issubdtype(test.y.dtype, jnp.integer):
    measured['accuracy'] = class_accuracy(outputs.logits, test.y)
  return measured


def spectrum(features: Array) -> Array:
  """Singular values of the covariance of `features[N, D]`, `[D]`, falling.

  >>> line = jnp.outer(jnp.arange(3.), jnp.array([3., 4.]))
  >>> [round(float(v), 4) for v in spectrum(line)]
  [16.6667, 0.0]
  """
  centered = features - jnp.mean(features, 0, keepdims=True)
  covariance = centered.T @ centered / len(features)
  return jnp.maximum(jnp.linalg.eigvalsh(covariance)[::-1], 0)


def effective_rank(values: Array) -> Array:
  """exp of the entropy of singular values `[D]` that are made to sum to 1.

  Between 1, all in one direction, and D, all alike; 0 if all are zero.

  References:
    Roy, Vetterli. The effective rank: a measure of effective dimensionality.
    EUSIPCO 2007.

  >>> [round(float(effective_rank(jnp.array(v))), 4)
  ...  for v in ([2., 2., 2.], [5., 0., 0.], [0., 0., 0.])]
  [3.0, 1.0, 0.0]
  """
  total = jnp.sum(values)
  share = values / jnp.where(total > 0, total, 1)
  entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1)))
  return jnp.where(total > 0, jnp.exp(entropy), 0)


def dead_features(features: Array) -> Array:
  """Share of the columns of `features[N, D]` that are the same in all rows.

  A ReLU that no example activates gives 0 throughout, also after FN; after a
  norm that subtracts a mean it does not, and is not counted.

  >>> float(dead_features(jnp.array([[0., 1.], [0., 2.]])))
  0.5
  """
  same = jnp.max(features, 0) == jnp.min(features, 0)
  return jnp.mean(same, dtype=features.dtype)


def class_accuracy(logits: Array, y: Array) -> Array:
  """Accuracy on each class, `[Y]`, NaN where `y` has none of it.

  >>> logits = jnp.array([[2., 1., 0.], [2., 1., 0.], [0., 1., 0.]])
  >>> print(class_accuracy(logits, jnp.array([0, 1, 1])))
  [1.  0.5 nan]
  """
  classes = jnp.arange(logits.shape[-1])
  member = y.reshape(-1, 1) == classes[None]
  right = jnp.argmax(logits, -1).reshape(-1, 1) == y.reshape(-1, 1)
  return jnp.sum(member & right, 0) / jnp.sum(member, 0)


def classifier_kernel(params: Tree, shape: tuple[int, int]) -> Array | None:
  """The kernel `[D, Y]` of the classifier, None if there is none.

  It is the one whose path has `classifier` in it, else the last of that shape.
  """
  leaves = jax.tree_util.tree_flatten_with_path(params)[0]
  fitting = [(path, leaf) for path, leaf in leaves if leaf.shape == shape]
  named = [p for p in fitting if 'classifier' in jax.tree_util.keystr(p[0])]
  return (named or fitting)[-1][1] if fitting else None


def cosines(vectors: Array) -> Array:
  """Cosines of the angles between the rows of `vectors[K, P]`, `[K, K]`.

  Those with a row of zeros are 0.
  """
  norms = _norms(vectors)[:, None]
  unit = vectors / jnp.where(norms > 0, norms, 1)
  return unit @ unit.T


def dissimilarity(gradients: Array, weight: Array) -> dict[str, Array]:
  """How far clients' gradients are from their mean.

  Args:
    gradients: `[K, P]`.
    weight: `[K]`, what each counts for in the mean g.

  Returns:
    `norm`, |g|; `distance[K]`, |g - g_i|; `ratio[K]`, distance over norm, 0
    where the distance is 0 and infinite where only the norm is.
  """
  mean = weight / jnp.sum(weight) @ gradients
  norm = jnp.linalg.norm(mean)
  distance = _norms(gradients - mean[None])
  apart = distance > 0
  ratio = jnp.where(apart, distance / jnp.where(apart, norm, 1), 0)
  return {'norm': norm, 'distance': distance, 'ratio': ratio}


def _client(
  model: Model, hyper, ctx: Ctx, trained: Trained, test: Federation
) -> dict[str, Array]:
  """What `diagnose` wants to know of one client."""
  before, after, width = trained
  gradient, _ = local.full_gradient(model, hyper, ctx, *before)
  measured = measure(model, *after, test, width)
  if 'accuracy' in measured:
    logits = _outputs(model, *before, test.x, width).logits
    measured['accuracy_before'] = class_accuracy(logits, test.y)
  return measured | {
    'update': ravel_pytree(optax.tree.sub(after[0], before[0]))[0],
    'gradient': ravel_pytree(gradient)[0],
    'weight': server.client_weight(hyper, ctx),
  }


def _trained(upload: Upload, params: Tree) -> Trained:
  """What local training made, if it is a model like the global one."""
  made = upload.trained
  like = jax.tree.map(jnp.shape, params)
  if made is None or jax.tree.map(jnp.shape, made.after[0]) != like:
    raise ValueError(
      'the last phase of the method trains no model like the global one, so '
      'there is nothing to diagnose; set diagnostics.every = 0'
    )
  return made


def _outputs(
  model: Model, params: Tree, stats: Tree, x: Array, width, batch_size=512
) -> Outputs:
  """Logits and features of `x[N, ...]`, a batch at a time."""
  batch_size = min(batch_size, len(x))
  batches = math.ceil(len(x) / batch_size)
  rows = jnp.arange(batches * batch_size).reshape(batches, batch_size)

  def one(rows):
    at = jnp.minimum(rows, len(x) - 1)
    outputs, _ = model.apply(params, stats, x[at], width=width)
    return outputs._replace(exits=())

  outputs = jax.lax.map(one, rows)
  return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(x)], outputs)


def _norms(vectors: Array) -> Array:
  return jnp.linalg.norm(vectors, axis=1)
