"""From a configuration to a run that is ready to start."""

import bisect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls import (
  algorithms,
  consistency,
  data,
  hosted,
  hyper,
  loop,
  models,
  samplers,
)
from fedjax_ls import config as config_lib
from fedjax_ls import round as round_lib
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.data import Dataset, Partition
from fedjax_ls.placement import place
from fedjax_ls.types import Execution, Sampler, State
from fedjax_ls.validate import check_data

# Share of a device's free memory that a block of rounds may take.
MEMORY_SHARE = 0.6


class Experiment(NamedTuple):
  """What a configuration stands for.

  Attributes:
    job: the run.
    state: its state before the first round.
    resolved: `{field: value}` of what was left to choose automatically.
    shrinks: whether the chunk may become smaller to fit the memory.
    partition: rows of every client, train and test.
    fingerprint: hash of the data set, see `data.fingerprint`.
  """

  job: loop.Job
  state: State
  resolved: dict[str, Any]
  shrinks: bool
  partition: Partition
  fingerprint: str


class _Nets(NamedTuple):
  """The network of a configuration, and its slim versions or None."""

  model: models.Model
  submodels: models.Submodels | None


def prepare(config: Config, stored: dict[str, Any] | None = None) -> Experiment:
  """Reads the data, makes the clients, the model and the first state.

  Args:
    config: a configuration from `validate`.
    stored: what an earlier start of this run resolved to; used again where
      the configuration still leaves the choice.

  Returns:
    The experiment, not compiled yet.

  Raises:
    ConfigError: the configuration does not fit the data or the machine.
    fedjax_ls.loop.OutOfMemory: the data do not fit the device.
  """
  dataset, partition, held_out, fingerprint = _sentence(_read, config)
  check_data(config, list(map(len, partition.train)), dataset.num_classes == 0)
  execution, resolved, shrinks = _execution(
    config, stored or {}, len(partition.train)
  )
  nets = _sentence(_nets, config, dataset, resolved['execution.conv'])
  algorithm = _sentence(_algorithm, config, nets)
  federation = _federation(config, dataset, partition, nets)
  _sentence(consistency.check_model, nets.model, federation)
  tests = {
    name: loop.evaluation_set(held.x_test, held.y_test, federation, rows)
    for name, (held, rows) in held_out.items()
  }
  method = algorithms.METHODS[config_lib.method_name(config)]
  consistency.check_own_models(method, algorithm.personal, tests)
  host = None
  if config.execution.data == 'host':
    if algorithm.personal is not None:
      raise ConfigError(
        f'execution.data = host does not fit method '
        f'{method.name}, which judges clients by their '
        'training data; use execution.data = device'
      )
    host = hosted.on_host(federation)
    federation = hosted.outline(host)
  with loop.memory_named(None):
    placed, federation, tests = place(
      (numbers(config), federation, tests), execution
    )
  job = loop.Job(
    algorithm,
    nets.model,
    placed,
    federation,
    tests,
    execution,
    config.execution.precision,
    host,
  )
  seeds = config_lib.seeds(config)
  state = _sentence(loop.initial_state, job, seeds['model'], seeds['train'])
  return Experiment(job, state, resolved, shrinks, partition, fingerprint)


def numbers(config: Config) -> hyper.Hyper:
  """All numbers of a configuration, as arrays."""
  settings = hyper.Hyper(config.client, config.server, config.algorithm)
  return loop.numbers(settings)


def compiled(experiment: Experiment) -> tuple[Experiment, loop.Programs]:
  """Compiles, and where it is free to, makes the chunk as large as fits.

  Returns:
    The experiment with the chunk in use, and its programs.
  """
  most = experiment.job.execution.chunk
  made: dict[int, tuple[Experiment, loop.Programs]] = {}

  def make(chunk: int) -> tuple[Experiment, loop.Programs]:
    if chunk not in made:
      job = experiment.job
      job = job._replace(execution=job.execution._replace(chunk=chunk))
      resolved = {**experiment.resolved, 'execution.chunk': chunk}
      programs = loop.compile_job(job, experiment.state)
      made[chunk] = experiment._replace(job=job, resolved=resolved), programs
    return made[chunk]

  if not experiment.shrinks:
    return make(most)

  def needed(chunk: int) -> float:
    try:
      return make(chunk)[1].memory
    except loop.OutOfMemory:
      return math.inf

  return make(largest_chunk(most, needed, MEMORY_SHARE * _free_bytes()))


def sampler(settings: config_lib.Sampler) -> Sampler:
  """The sampler that `settings` name."""
  if settings.name == 'everyone':
    return samplers.everyone()
  return samplers.uniform(settings.cohort_size)


def tiers_of(num_clients: int, num_tiers: int, seed: int) -> np.ndarray:
  """`[C]` tiers, equally many clients in each, drawn at random.

  >>> tiers_of(5, 2, seed=0)
  array([0, 0, 1, 1, 0])
  """
  tiers = np.arange(num_clients) % num_tiers
  return np.random.RandomState(seed).permutation(tiers)


def largest_chunk(
  per_device: int, needed: Callable[[int], float], budget: float
) -> int:
  """The largest divisor of the cohort per device that fits the memory.

  Args:
    per_device: clients of a cohort on one device.
    needed: bytes that a chunk size takes.
    budget: bytes that it may take.

  Returns:
    The chunk size; 1 if none fits.

  >>> largest_chunk(12, lambda chunk: 10 * chunk, 45)
  4
  """
  divisors = [n for n in range(1, per_device + 1) if per_device % n == 0]
  if needed(per_device) <= budget:
    return per_device
  fitting = bisect.bisect_right(divisors[:-1], budget, key=needed)
  return divisors[max(fitting - 1, 0)]


def _read(config: Config):
  """The train data, their partition, and what to evaluate on.

  Returns:
    The data set, the partition, `{name: (data set, test rows)}`, and the
    fingerprint of the whole data set.
  """
  settings = config.partition
  dataset = data.load(config.data.name, config.data.path)
  fingerprint = data.fingerprint(dataset)
  seed = config_lib.seeds(config)['partition']

  def cut(dataset: Dataset) -> Partition:
    return data.make_partition(
      settings.kind,
      dataset,
      num_clients=settings.num_clients,
      classes_per_client=settings.classes_per_client,
      alpha=settings.alpha,
      min_size=settings.min_size,
      balance=settings.balance,
      seed=seed,
    )

  if config.data.validation == 0:
    partition = cut(dataset)
    held = {'test': (dataset, partition.test)}
    return dataset, partition, held, fingerprint
  numbered = dataset._replace(x_train=np.arange(len(dataset.y_train)))
  _, rows, y = data.split_validation(numbered, config.data.validation, seed)
  rest, x, _ = data.split_validation(dataset, config.data.validation, seed)
  owners = dataset.client_train
  held_out = rest._replace(
    x_test=x, y_test=y, client_test=owners[rows] if len(owners) else owners
  )
  partition = cut(rest)
  return (
    rest,
    partition,
    {
      'test': (rest, partition.test),
      'validation': (held_out, cut(held_out).test),
    },
    fingerprint,
  )


def _nets(config: Config, dataset: Dataset, lowering: str) -> _Nets:
  settings = config.model
  sizes: dict[str, Any] = {'hidden': settings.hidden}
  if settings.name == 'cnn':
    sizes = {'feature': settings.feature}
  net = models.make_net(
    settings.name,
    num_classes=dataset.num_classes or math.prod(dataset.y_train.shape[1:]),
    norm=settings.norm,
    norm_where=settings.norm_where,
    norm_before=settings.norm_before,
    norm_affine=settings.norm_affine,
    norm_groups=settings.norm_groups,
    norm_eps=settings.norm_eps,
    use_bias=settings.use_bias,
    initializer=settings.initializer,
    lowering=lowering,
    dtype=jnp.bfloat16 if settings.dtype == 'bfloat16' else None,
    **sizes,
  )
  example = dataset.x_train[:1]
  model = models.flax_model(net, example, loss=settings.loss)
  method = algorithms.METHODS[config_lib.method_name(config)]
  if not method.needs_submodels:
    return _Nets(model, None)
  rates = config.algorithm.rates
  return _Nets(model, models.width_submodels(net, example, rates))


def _algorithm(config: Config, nets: _Nets) -> round_lib.Algorithm:
  method = algorithms.METHODS[config_lib.method_name(config)]
  who = sampler(config.sampler)
  unroll = config.execution.unroll
  parts = algorithms.Parts(nets.model, who, unroll, nets.submodels)
  return method.build(config.algorithm, parts)


def _federation(
  config: Config, dataset: Dataset, partition: Partition, nets: _Nets
) -> data.Federation:
  tiers = len(nets.submodels.rates) if nets.submodels else 1
  seed = config_lib.seeds(config)['partition']
  return data.federate(
    dataset.x_train,
    dataset.y_train,
    partition.train,
    num_classes=dataset.num_classes or None,
    tier=tiers_of(len(partition.train), tiers, seed),
  )


def _execution(
  config: Config, stored: dict[str, Any], population: int
) -> tuple[Execution, dict[str, Any], bool]:
  """The execution, what was resolved, and whether the chunk may shrink."""
  wanted = config.execution
  devices = wanted.devices or jax.device_count()
  if devices > jax.device_count():
    raise ConfigError(
      f'execution.devices = {devices} is more than the {jax.device_count()} '
      'devices of this machine; choose fewer, or 0 for all'
    )
  backend = jax.default_backend()
  resolved = {'backend': backend, 'execution.devices': devices}
  if any(stored.get(name) != value for name, value in resolved.items()):
    stored = {}
  conv = wanted.conv
  if conv == 'auto':
    conv = stored.get('execution.conv', conv)
  everyone = config.sampler.name == 'everyone'
  cohort = population if everyone else config.sampler.cohort_size
  most = math.ceil(cohort / devices)
  chunk = wanted.chunk or stored.get('execution.chunk', 0)
  automatic = not chunk and wanted.data == 'device'
  shrinks = automatic and backend != 'cpu' and not wanted.debug
  # On CPU one client at a time is fastest.
  chunk = chunk or (most if shrinks else 1)
  resolved['execution.conv'] = models.resolve_conv(conv, backend)
  resolved['execution.chunk'] = min(chunk, most)
  execution = Execution(
    min(chunk, most),
    round_lib.clients_mesh(devices) if devices > 1 else None,
    wanted.debug,
    wanted.data == 'host',
  )
  return execution, resolved, shrinks


def _free_bytes() -> float:
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' not in stats:
    return math.inf
  return stats['bytes_limit'] - stats.get('bytes_in_use', 0)


def _sentence(function: Callable, *args):
  """Calls a function whose `ValueError` is about the configuration."""
  try:
    return function(*args)
  except ValueError as error:
    raise ConfigError(str(error)) from error
