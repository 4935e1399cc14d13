"""Whether data, network and method fit each other, before a run compiles."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.algorithms import Method
from fedjax_ls.config import ConfigError
from fedjax_ls.data import Federation
from fedjax_ls.hyper import Adversarial, Client
from fedjax_ls.models import Model, Submodels
from fedjax_ls.models.dual_norm import NOISE
from fedjax_ls.models.flax_model import LOSSES


def require(good: bool, sentence: str) -> None:
  """Raises ConfigError(`sentence`) unless `good`."""
  if not good:
    raise ConfigError(sentence)


def check_batches(client: Client, sizes: Any) -> None:
  """Checks the batch size against `sizes[C]`, the rows of each client.

  Raises:
    ConfigError: a client cannot fill one batch and would drop it.
  """
  smallest = int(min(sizes))
  require(
    client.last_batch != 'dropped' or client.batch_size <= smallest,
    f'client.batch_size = {client.batch_size} is more than the {smallest} '
    'rows of the smallest client, which would drop all of them; lower it or '
    'set client.last_batch = masked',
  )


def check_model(model: Model, federation: Federation) -> None:
  """Checks that the network fits the examples; traces it once.

  Raises:
    ConfigError: it has no parameters, or its outputs do not fit the targets.
  """
  params, stats = jax.eval_shape(model.init, jax.random.key(0))
  require(
    bool(jax.tree.leaves(params)),
    'the model has no parameters; give a module with at least one layer that '
    'learns',
  )
  example = jnp.asarray(federation.x[:1])
  outputs, _ = jax.eval_shape(model.apply, params, stats, example)
  logits, target = list(outputs.logits.shape[1:]), list(federation.y.shape[1:])
  if model.loss is LOSSES['squared_error']:
    require(
      math.prod(logits) == math.prod(target),
      f'the model gives {logits} outputs an example but the targets are '
      f'{target}; make them alike',
    )
  if model.loss is LOSSES['cross_entropy']:
    require(
      logits[:-1] == target,
      f'the model gives logits {logits} an example but its labels are '
      f'{target}; give labels of shape {logits[:-1]} or another model',
    )
    classes = federation.labels.shape[1]
    require(
      logits[-1] == classes,
      f'the model has {logits[-1]} outputs but the data {classes} classes; '
      f'give the model {classes} outputs or the data num_classes = '
      f'{logits[-1]}',
    )


def check_attacks(
  settings: Adversarial, model: Model, federation: Federation
) -> None:
  """Refuses attacks on a model of one half, or on what are no images.

  Raises:
    ConfigError: one sentence.
  """
  if settings.steps == 0:
    return
  _, stats = jax.eval_shape(model.init, jax.random.key(0))
  require(
    NOISE in stats,
    f'adversarial.steps = {settings.steps} needs a model with two halves of '
    'each BatchNorm; give models.dual_norm(model)',
  )
  x = federation.x
  pixels = x.dtype == np.uint8
  if np.issubdtype(x.dtype, np.floating):
    pixels = bool(np.min(x) >= 0 and np.max(x) <= 1)
  require(
    pixels,
    f'adversarial.steps = {settings.steps} attacks images in [0, 1] but x '
    f'({x.dtype}) has others; give uint8 or floats in [0, 1] and normalize '
    'them by data.mean and data.std, or set it to 0',
  )


def check_tiers(submodels: Submodels | None, tier: Any) -> None:
  """Refuses a `tier[C]` for which there is no submodel."""
  if submodels is None:
    return
  tier, rates = np.asarray(tier), submodels.rates
  bad = (tier < 0) | (tier >= len(rates))
  client = int(np.argmax(bad))
  require(
    not bad.any(),
    f'client {client} has tier {tier[client]} but the submodels have '
    f'{len(rates)} rates; keep tiers in 0..{len(rates) - 1}',
  )


def check_own_models(
  method: Method,
  personal: Any,
  tests: dict[str, Federation],
  fine_tune: int = 0,
) -> None:
  """Refuses test sets without clients where each client has its own model.

  Args:
    method: the method.
    personal: its `Algorithm.personal`.
    tests: sets to evaluate on, by name.
    fine_tune: local steps before evaluation.

  Raises:
    ConfigError: one sentence.
  """
  who = f'fine_tune = {fine_tune}' if fine_tune else f'method {method.name!r}'
  for name, test in tests.items():
    require(
      personal is None or int(np.sum(test.size)) > 0,
      f'{who} judges each client by a model of its own but '
      f'no client has {name} rows; give (x, y, rows of each client), or use a '
      'partition that deals them out',
    )
