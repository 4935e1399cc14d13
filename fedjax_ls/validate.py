"""What a configuration must satisfy, checked before anything is compiled."""

import difflib
from collections.abc import Iterable
from typing import Any

from fedjax_ls import algorithms, rules
from fedjax_ls import config as config_lib
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.consistency import check_batches, require
from fedjax_ls.data import KINDS, SOURCES
from fedjax_ls.models import MODELS, conv, nets, norms
from fedjax_ls.models.flax_model import LOSSES
from fedjax_ls.models.submodels import exact_rates

# Fields whose value is one of a few names.
NAMES: dict[str, Iterable[str]] = {
  'data.name': SOURCES,
  'partition.kind': KINDS,
  'model.name': MODELS,
  'model.norm': norms.KINDS,
  'model.norm_where': nets.PLACES,
  'model.initializer': conv.INITIALIZERS,
  'model.dtype': ('float32', 'bfloat16'),
  'model.loss': LOSSES,
  'client.schedule': ('constant', 'exponential', 'cosine', 'step'),
  'client.optimizer': ('sgd', 'momentum', 'adam'),
  'client.unit': ('steps', 'epochs'),
  'client.last_batch': ('masked', 'dropped'),
  'server.optimizer': (
    'sgd', 'momentum', 'damped_momentum', 'adagrad', 'adam', 'yogi',
  ),
  'server.weights': ('size', 'uniform'),
  'sampler.name': ('everyone', 'uniform'),
  'execution.conv': ('auto', *conv.LOWERINGS),
  'execution.data': ('device', 'host'),
  'execution.precision': ('float32', 'tensorfloat32', 'bfloat16'),
  'writers.progress': ('auto', 'bar', 'lines', 'off'),
}  # fmt: skip

# Fields whose value is a number in some range.
RANGES: dict[str, rules.Rule] = {
  'seed': rules.SEED,
  'train_seed': rules.OWN_SEED,
  'partition.seed': rules.OWN_SEED,
  'model.seed': rules.OWN_SEED,
  'rounds': rules.COUNT,
  'eval_every': rules.COUNT,
  'data.validation': rules.SHARE,
  'partition.num_clients': rules.COUNT,
  'partition.classes_per_client': rules.COUNT,
  'partition.alpha': rules.POSITIVE,
  'partition.min_size': rules.COUNT,
  'model.hidden': (
    lambda v: len(v) > 0 and min(v) >= 1,
    'give one or more sizes of at least 1',
  ),
  'model.feature': (lambda v: v in (192, 384), 'choose 192 or 384'),
  'model.norm_groups': rules.COUNT,
  'model.norm_eps': rules.POSITIVE,
  'client.learning_rate': rules.POSITIVE,
  'client.decay': (lambda v: 0 < v <= 1, 'choose it in (0, 1]'),
  'client.horizon': rules.NOT_NEGATIVE,
  'client.milestones': (
    lambda v: list(v) == sorted(set(v)) and all(m > 0 for m in v),
    'give rounds above 0 in ascending order',
  ),
  'client.momentum': rules.SHARE,
  'client.weight_decay': rules.NOT_NEGATIVE,
  'client.clip_norm': rules.POSITIVE,
  'client.batch_size': rules.COUNT,
  'client.amount': rules.COUNT,
  'server.learning_rate': rules.POSITIVE,
  'server.momentum': rules.SHARE,
  'server.b1': rules.SHARE,
  'server.b2': rules.SHARE,
  'server.tau': rules.POSITIVE,
  'server.v0': rules.NOT_NEGATIVE,
  'sampler.cohort_size': rules.COUNT,
  'execution.chunk': rules.NOT_NEGATIVE,
  'execution.devices': rules.NOT_NEGATIVE,
  'execution.unroll': rules.COUNT,
  'writers.checkpoint_every': rules.NOT_NEGATIVE,
  'writers.keep': rules.COUNT,
}


def validate(config: Config) -> Config:
  """Checks all that can be known without the data.

  Args:
    config: the configuration.

  Returns:
    A copy whose values have exactly the types of their fields.

  Raises:
    ConfigError: the first field that is wrong.
  """
  config = config_lib.normalized(config)
  values = {k: value for k, (_, value) in config_lib.leaves(config).items()}
  for name, names in NAMES.items():
    _one_of(name, values[name], names)
  method = algorithms.METHODS[config_lib.method_name(config)]
  own = {f'algorithm.{name}': rule for name, rule in method.ranges.items()}
  for name, rule in {**RANGES, **own}.items():
    check_range(name, values[name], rule)
  _check_together(config)
  return config


def check_range(name: str, value: Any, rule: rules.Rule) -> None:
  """Refuses a value out of range."""
  good, fix = rule
  require(good(value), f'{name} = {value!r} is out of range; {fix}')


def check_data(config: Config, sizes: Any, float_targets: bool) -> None:
  """Checks what depends on the clients.

  Args:
    config: a valid configuration.
    sizes: `[C]` train rows of each client.
    float_targets: whether the targets are no class numbers.

  Raises:
    ConfigError: the cohort is larger than the population, a client or all of
      them cannot fill one batch, or the loss does not fit the targets.
  """
  sampler, client = config.sampler, config.client
  if sampler.name == 'uniform' and sampler.cohort_size > len(sizes):
    raise ConfigError(
      f'sampler.cohort_size = {sampler.cohort_size} is more than the '
      f'{len(sizes)} clients; choose 1 to {len(sizes)}'
    )
  check_batches(client, sizes)
  total = int(sum(sizes))
  require(
    client.batch_size <= total,
    f'client.batch_size = {client.batch_size} is more than the {total} rows '
    f'of all clients together; choose {int(max(sizes))}, the rows of the '
    'largest client, or fewer',
  )
  fitting = 'squared_error' if float_targets else 'cross_entropy'
  if config.model.loss != fitting:
    targets = 'real numbers' if float_targets else 'class numbers'
    raise ConfigError(
      f'model.loss = {config.model.loss!r} does not fit targets that are '
      f'{targets}; use {fitting}'
    )


def _one_of(name: str, value: str, names: Iterable[str]) -> None:
  names = list(names)
  if value not in names:
    near = difflib.get_close_matches(value, names, 1, 0.0)
    raise ConfigError(
      f'{name} = {value!r} is unknown; did you mean {near[0]!r}? '
      f'({", ".join(names)})'
    )


def _check_together(config: Config) -> None:
  """Fields that must fit each other."""
  client = config.client
  require(
    client.schedule != 'cosine' or client.horizon > 0,
    "client.schedule = 'cosine' needs client.horizon, which is 0; set it to "
    'the rounds after which the learning rate is zero',
  )
  require(
    client.schedule != 'step' or len(client.milestones) > 0,
    "client.schedule = 'step' needs client.milestones, which is empty; give "
    'the rounds at which the learning rate decays',
  )
  require(
    config.model.norm_where != 'reduced' or config.model.norm == 'ln',
    f"model.norm_where = 'reduced' does not fit model.norm = "
    f'{config.model.norm!r}; use norm = ln or norm_where = layers',
  )
  require(
    config.partition.kind == 'natural'
    or config.sampler.name == 'everyone'
    or config.sampler.cohort_size <= config.partition.num_clients,
    f'sampler.cohort_size = {config.sampler.cohort_size} is more than '
    f'partition.num_clients = {config.partition.num_clients}; lower it',
  )
  require(
    config.data.name != 'npz' or bool(config.data.path),
    "data.name = 'npz' needs data.path, which is empty; give the path of an "
    '.npz file',
  )
  method = algorithms.METHODS[config_lib.method_name(config)]
  if method.needs_submodels:
    rates = getattr(config.algorithm, 'rates', ())
    require(
      len(rates) > 0,
      f'algorithm.rates = {rates!r} is empty; give one rate a tier',
    )
    try:
      exact_rates(rates, 'algorithm.rates')
    except ValueError as error:
      raise ConfigError(str(error)) from None
