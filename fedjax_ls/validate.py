"""What a configuration must satisfy, checked before anything is compiled."""

from collections.abc import Collection
from typing import Any

from fedjax_ls import (
  adversarial,
  algorithms,
  attacks,
  calibrations,
  hyper,
  links,
  losses,
  mirrors,
  robust,
  rules,
  samplers,
  unread,
  uplinks,
)
from fedjax_ls import config as config_lib
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.consistency import check_batches, require
from fedjax_ls.data import KINDS, SOURCES, checks, groups, text, tiers
from fedjax_ls.models import MODELS, conv, nets, norms, options_of
from fedjax_ls.models.flax_model import LOSSES
from fedjax_ls.models.submodels import exact_rates

# Fields whose value is one of a few names.
NAMES: dict[str, Collection[str]] = {
  'data.name': SOURCES,
  'data.target': text.TARGETS,
  'partition.kind': KINDS,
  'partition.transform': groups.TRANSFORMS,
  'tiers.kind': tiers.KINDS,
  'model.norm': norms.KINDS,
  'model.norm_where': nets.PLACES,
  'model.initializer': conv.INITIALIZERS,
  'model.dtype': ('float32', 'bfloat16'),
  'model.loss': LOSSES,
  'client.schedule': ('constant', 'exponential', 'cosine', 'step'),
  'client.optimizer': ('sgd', 'momentum', 'adam'),
  'client.unit': ('steps', 'epochs'),
  'client.last_batch': ('masked', 'dropped'),
  'loss.decorrelation_scale': losses.SCALES,
  'loss.calibration': calibrations.CALIBRATIONS,
  'server.optimizer': (
    'sgd', 'momentum', 'damped_momentum', 'adagrad', 'adam', 'yogi',
  ),
  'server.weights': ('method', 'size', 'uniform'),
  'server.reduction': ('mean', *robust.RULES),
  'attack.kind': attacks.KINDS,
  'sampler.name': samplers.SAMPLERS,
  'sampler.gradients': ('full', 'head', 'sketch'),
  'sampler.refresh': ('cohort', 'everyone'),
  'execution.conv': ('auto', *conv.LOWERINGS),
  'execution.data': ('device', 'host'),
  'execution.precision': ('float32', 'tensorfloat32', 'bfloat16'),
  'writers.progress': ('auto', 'bar', 'lines', 'off'),
}  # fmt: skip

# Fields of `model` that are options of the network.
NET_FIELDS = (
  'hidden', 'channels', 'feature', 'norm', 'norm_where', 'norm_before',
  'norm_affine', 'norm_groups', 'norm_eps', 'use_bias', 'projector',
  'initializer', 'dtype',
)  # fmt: skip

# Fields whose value is a number in some range.
RANGES: dict[str, rules.Rule] = {
  'seed': rules.SEED,
  'train_seed': rules.OWN_SEED,
  'partition.seed': rules.OWN_SEED,
  'model.seed': rules.OWN_SEED,
  'rounds': rules.COUNT,
  'eval_every': rules.COUNT,
  'fine_tune': rules.NOT_NEGATIVE,
  'data.validation': rules.SHARE,
  'data.sequence_length': rules.COUNT,
  'data.alpha': rules.NOT_NEGATIVE,
  'data.beta': rules.NOT_NEGATIVE,
  'data.shrink': rules.COUNT,
  'data.crop_padding': rules.NOT_NEGATIVE,
  'partition.num_clients': rules.COUNT,
  'partition.classes_per_client': rules.COUNT,
  'partition.alpha': rules.POSITIVE,
  'partition.min_size': rules.COUNT,
  'partition.iid_share': rules.FRACTION,
  'partition.exponent': rules.POSITIVE,
  'partition.sigma': rules.NOT_NEGATIVE,
  'partition.num_groups': rules.COUNT,
  'data.std': (
    lambda v: all(scale > 0 for scale in v),
    'give one number above 0 a channel',
  ),
  'tiers.proportions': (
    lambda v: all(share > 0 for share in v),
    'give one number above 0 a tier',
  ),
  'model.hidden': (
    lambda v: all(size >= 1 for size in v),
    'give sizes of at least 1, or none for logistic regression',
  ),
  'model.channels': (
    lambda v: all(size >= 1 for size in v),
    'give sizes of at least 1, or none',
  ),
  'model.feature': (lambda v: v in (192, 384), 'choose 192 or 384'),
  'model.projector': (
    lambda v: all(size >= 1 for size in v),
    'give sizes of at least 1, or none',
  ),
  'model.norm_groups': rules.COUNT,
  'model.norm_eps': rules.POSITIVE,
  'client.learning_rate': rules.POSITIVE,
  'client.decay': rules.FACTOR,
  'client.horizon': rules.NOT_NEGATIVE,
  'client.milestones': (
    lambda v: list(v) == sorted(set(v)) and all(m > 0 for m in v),
    'give rounds above 0 in ascending order',
  ),
  'client.momentum': rules.SHARE,
  'client.weight_decay': rules.NOT_NEGATIVE,
  'client.clip_norm': rules.POSITIVE,
  'client.rho': rules.NOT_NEGATIVE,
  'client.batch_size': rules.COUNT,
  'client.amount': rules.COUNT,
  'client.stragglers': rules.FRACTION,
  'loss.terms': (
    lambda v: set(v) <= set(losses.TERMS) and len(set(v)) == len(v),
    f'choose from {", ".join(losses.TERMS)}, each once',
  ),
  'loss.mu': rules.NOT_NEGATIVE,
  'loss.decorrelation': rules.NOT_NEGATIVE,
  'loss.tau': rules.NOT_NEGATIVE,
  'loss.alpha': rules.FRACTION,
  'server.learning_rate': rules.POSITIVE,
  'server.momentum': rules.SHARE,
  'server.b1': rules.SHARE,
  'server.b2': rules.SHARE,
  'server.tau': rules.POSITIVE,
  'server.v0': rules.NOT_NEGATIVE,
  'server.byzantine': (lambda v: 0 <= v < 0.5, 'choose it in [0, 0.5)'),
  'attack.share': rules.FRACTION,
  'attack.scale': rules.POSITIVE,
  'adversarial.steps': rules.NOT_NEGATIVE,
  'adversarial.share': rules.FRACTION,
  'adversarial.eps': rules.POSITIVE,
  'adversarial.mixes': adversarial.MIXES,
  'uplink.links': links.RULE,
  'uplink.clip_norm': rules.POSITIVE,
  'uplink.noise': rules.NOT_NEGATIVE,
  'uplink.keep': rules.FACTOR,
  'uplink.levels': (
    lambda v: v >= 1 and v == int(v),
    'choose a whole number, 1 or more',
  ),
  'sampler.cohort_size': rules.COUNT,
  'sampler.candidates': rules.NOT_NEGATIVE,
  'sampler.sketch_size': rules.COUNT,
  'sampler.subset': rules.NOT_NEGATIVE,
  'sampler.exploration': rules.FRACTION,
  'sampler.exploration_decay': rules.FACTOR,
  'sampler.exploration_floor': rules.FRACTION,
  'sampler.cutoff': rules.FRACTION,
  'sampler.straggler_penalty': rules.NOT_NEGATIVE,
  'sampler.pacer_start': (lambda v: 0 <= v <= 100, 'choose it in [0, 100]'),
  'sampler.pacer_step': rules.NOT_NEGATIVE,
  'sampler.pacer_window': rules.COUNT,
  'sampler.tiers': (
    lambda v: all(tier >= 0 for tier in v) and len(set(v)) == len(v),
    'give numbers of tiers from 0, each once, or none',
  ),
  'sampler.dropout': rules.FRACTION,
  'clock.macs_per_second': rules.SPEEDS,
  'clock.down': rules.SPEEDS,
  'clock.up': rules.SPEEDS,
  'clock.deadline': rules.NOT_NEGATIVE,
  'execution.chunk': rules.NOT_NEGATIVE,
  'execution.devices': rules.NOT_NEGATIVE,
  'execution.unroll': rules.COUNT,
  'writers.checkpoint_every': rules.NOT_NEGATIVE,
  'writers.keep': rules.COUNT,
  'diagnostics.every': rules.NOT_NEGATIVE,
  'diagnostics.clients': rules.COUNT,
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
  # A source may name a variant after a colon.
  values['data.name'] = values['data.name'].partition(':')[0]
  for name, names in NAMES.items():
    if values[name] not in names:
      raise ConfigError(str(checks.unknown(name, values[name], names)))
  method = algorithms.METHODS[config_lib.method_name(config)]
  own = {f'algorithm.{name}': rule for name, rule in method.ranges.items()}
  for name, rule in {**RANGES, **own}.items():
    check_range(name, values[name], rule)
  _check_model(config.model)
  unread.check(config)
  _check_together(config)
  config_lib.as_config_error(mirrors.check, config.writers.extra)
  config_lib.as_config_error(method.check, config)
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
  if sampler.name != 'everyone' and sampler.cohort_size > len(sizes):
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


def net_fields(name: str) -> set[str]:
  """The options that a network takes from the configuration.

  Raises:
    ConfigError: there is no such network.
  """
  try:
    options = options_of(name)
  except ValueError as error:
    raise ConfigError(str(error)) from error
  # The published networks have sizes of their own.
  sized = name in MODELS and name != 'mlp'
  return options - {'hidden'} if sized else options


def _check_model(model: config_lib.Model) -> None:
  """There is such a network, and it reads what is set for it."""
  fields, default = net_fields(model.name), config_lib.Model()
  for field in NET_FIELDS:
    value = getattr(model, field)
    require(
      field in fields or value == getattr(default, field),
      f'model.{field} = {value!r} is not read by model.name = '
      f'{model.name!r}; leave it out',
    )
  require(
    model.name != 'mlp' or bool(model.hidden) or model.norm == 'none',
    f'model.norm = {model.norm!r} has no hidden layer to normalize in '
    'model.hidden = (); use none or give the sizes of hidden layers',
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
    client.amount > 1 or not client.partial_work,
    'client.partial_work = True needs client.amount above 1, of which '
    'stragglers do a part; raise it or set client.partial_work to false',
  )
  require(
    not config.clock.macs_per_second or not client.partial_work,
    'client.partial_work = True does not fit a clock, which says itself who '
    'is slow; set client.partial_work to false or leave out '
    'clock.macs_per_second',
  )
  require(
    config.model.norm_where != 'reduced' or config.model.norm == 'ln',
    f"model.norm_where = 'reduced' does not fit model.norm = "
    f'{config.model.norm!r}; use norm = ln or norm_where = layers',
  )
  require(
    config.loss.calibration == 'none' or config.model.loss == 'cross_entropy',
    f'loss.calibration = {config.loss.calibration!r} does not fit model.loss = '
    f'{config.model.loss!r}, which has no classes; use none',
  )
  require(
    config.partition.kind in ('natural', 'file')
    or config.sampler.name == 'everyone'
    or config.sampler.cohort_size <= config.partition.num_clients,
    f'sampler.cohort_size = {config.sampler.cohort_size} is more than '
    f'partition.num_clients = {config.partition.num_clients}; lower it',
  )
  weights = hyper.weights(config.server, config.algorithm)
  config_lib.as_config_error(uplinks.check, config.uplink, weights)
  config_lib.as_config_error(robust.check, config.server, weights)
  _check_samples(config)
  _check_diagnostics(config)
  _check_sampler(config.sampler)
  method = algorithms.METHODS[config_lib.method_name(config)]
  require(
    not method.shallow or bool(config.model.hidden),
    f'model.hidden = () leaves method {method.name} no stages to cut; give the '
    'sizes of hidden layers',
  )
  fitting = [name for name, m in algorithms.METHODS.items() if m.adversarial]
  config_lib.as_config_error(
    adversarial.check, config.adversarial, config.clock, method.name, fitting
  )
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
  tiers = len(rates) if method.needs_submodels else config.clock.num_tiers
  _check_clock(config, tiers)


def _check_sampler(sampler: config_lib.Sampler) -> None:
  """The sampler reads what is set for it."""
  reads = samplers.SAMPLERS[sampler.name].reads
  for name, (_, value) in config_lib.leaves(sampler).items():
    require(
      name in (*reads, 'name', 'tiers', 'dropout', 'availability')
      or value == getattr(config_lib.Sampler(), name),
      f'sampler.{name} = {value!r} is not read by sampler.name = '
      f'{sampler.name!r}; leave it out or choose another sampler',
    )


def _check_clock(config: Config, tiers: int) -> None:
  """Speeds are of all tiers, and there is something to time."""
  clock = config.clock
  for name in ('down', 'up', 'deadline'):
    value = getattr(clock, name)
    require(
      not value or len(clock.macs_per_second) > 0,
      f'clock.{name} = {value!r} needs clock.macs_per_second, which is empty; '
      'give the speed of each tier',
    )
  for name in ('macs_per_second', 'down', 'up'):
    value = getattr(clock, name)
    require(
      len(value) in (0, 1, tiers),
      f'clock.{name} = {value!r} has {len(value)} speeds for {tiers} tiers; '
      f'give {tiers}, or one for all',
    )


def _check_diagnostics(config: Config) -> None:
  """A run stops where it is to be looked at, with its data on the device."""
  every = config.diagnostics.every
  require(
    every % config.eval_every == 0,
    f'diagnostics.every = {every} is no multiple of eval_every = '
    f'{config.eval_every}; choose one, or 0 for never',
  )
  require(
    every == 0 or config.execution.data == 'device',
    f'diagnostics.every = {every} does not fit execution.data = host; use '
    'execution.data = device or diagnostics.every = 0',
  )


def _check_samples(config: Config) -> None:
  """Settings of the data and the partition that must fit each other."""
  needed = {
    'npz': 'the path of an .npz file',
    'text': 'the path of an .npz file',
    'leaf': 'a folder with train and test',
    'pfllib': 'a folder with train and test',
  }
  name = config.data.name
  require(
    name not in needed or bool(config.data.path),
    f'data.name = {name!r} needs data.path, which is empty; give '
    f'{needed.get(name)}',
  )
  require(
    config.partition.kind != 'file' or bool(config.partition.path),
    "partition.kind = 'file' needs partition.path, which is empty; give the "
    'path of a partition file',
  )
  require(
    (config.partition.transform == 'none')
    == (config.partition.num_groups == 1),
    f'partition.transform = {config.partition.transform!r} does not go with '
    f'partition.num_groups = {config.partition.num_groups}; set both or none',
  )
  require(
    len(config.data.mean) == len(config.data.std),
    f'data.mean has {len(config.data.mean)} numbers and data.std '
    f'{len(config.data.std)}; give one a channel in each',
  )
  require(
    config.partition.kind != 'file' or config.data.validation == 0,
    f"partition.kind = 'file' counts all train rows but data.validation = "
    f'{config.data.validation} takes some away; set it to 0',
  )
