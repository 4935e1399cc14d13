"""From a configuration to a run that is ready to start."""

import bisect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_ls import (
  accounting,
  adversarial,
  algorithms,
  attacks,
  consistency,
  data,
  finetune,
  hosted,
  hyper,
  local,
  loop,
  models,
  robust,
  samplers,
  uplinks,
)
from fedjax_ls import clock as clock_lib
from fedjax_ls import config as config_lib
from fedjax_ls import round as round_lib
from fedjax_ls.config import Config, ConfigError, as_config_error
from fedjax_ls.cost import Cost, Traffic, costs, shapes_of
from fedjax_ls.data import Partition
from fedjax_ls.networks import Networks, networks
from fedjax_ls.placement import place
from fedjax_ls.samples import Samples, read
from fedjax_ls.types import Algorithm, Execution, Sampler, State
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
    samples: the data, the partition and the groups of the clients.
    fingerprint: hash of the data set, see `data.fingerprint`.
    costs: of the networks, one a tier or one for all; () without a clock.
  """

  job: loop.Job
  state: State
  resolved: dict[str, Any]
  shrinks: bool
  samples: Samples
  fingerprint: str
  costs: tuple[Cost, ...] = ()

  @property
  def partition(self) -> Partition:
    """Rows of every client, train and test."""
    return self.samples.partition


class Plan(NamedTuple):
  """An `Experiment` whose arrays are on the host, without a state."""

  job: loop.Job
  resolved: dict[str, Any]
  shrinks: bool
  samples: Samples
  fingerprint: str
  costs: tuple[Cost, ...] = ()

  @property
  def partition(self) -> Partition:
    """Rows of every client, train and test."""
    return self.samples.partition


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
  made = plan(config, stored)
  job = made.job
  with loop.memory_named(None):
    placed, federation, tests = place(
      (job.hyper, job.federation, job.tests), job.execution
    )
  job = job._replace(hyper=placed, federation=federation, tests=tests)
  seeds = config_lib.seeds(config)
  state = as_config_error(
    loop.initial_state, job, seeds['model'], seeds['train']
  )
  return Experiment(job, state, *made[1:])


def plan(config: Config, stored: dict[str, Any] | None = None) -> Plan:
  """`prepare` without using a device: no state yet, and arrays of NumPy.

  Raises:
    ConfigError: the configuration does not fit the data or the machine.
  """
  samples = read(config)
  dataset, partition = samples.dataset, samples.partition
  check_data(config, list(map(len, partition.train)), dataset.num_classes == 0)
  execution, resolved, shrinks = _execution(
    config, stored or {}, len(partition.train)
  )
  nets = as_config_error(networks, config, dataset, resolved['execution.conv'])
  algorithm = as_config_error(
    assemble, config, nets.model, nets.submodels, len(partition.train)
  )
  federation = as_config_error(_federation, config, samples, nets)
  as_config_error(consistency.check_model, nets.model, federation)
  consistency.check_attacks(config.adversarial, nets.model, federation)
  method = algorithms.METHODS[config_lib.method_name(config)]
  spent: tuple[Cost, ...] = ()
  if config.clock.macs_per_second:
    networks_of = nets.net, dataset.x_train[:1], nets.submodels
    spent = as_config_error(costs, *networks_of)
    spent = method.costs(config.algorithm, spent)
    traffic = [
      method.traffic(config.algorithm, tier, *shapes)
      for tier, shapes in enumerate(shapes_of(*networks_of))
    ]
    algorithm = _clocked(config, algorithm, federation, spent, traffic)
  tests = {
    name: loop.evaluation_set(held.x_test, held.y_test, federation, rows)
    for name, (held, rows) in samples.tests.items()
  }
  consistency.check_own_models(
    method, algorithm.personal, tests, config.fine_tune
  )
  host = None
  if config.execution.data == 'host':
    if algorithm.personal is not None:
      raise ConfigError(
        f'execution.data = host does not fit method {method.name}, which '
        'judges clients by their training data; use execution.data = device'
      )
    if algorithm.sampler.asks:
      raise ConfigError(
        f'execution.data = host does not fit sampler.name = '
        f'{config.sampler.name!r}, which asks clients about examples that are '
        'not on the device; use execution.data = device or another sampler'
      )
    if algorithm.ready is not None:
      raise ConfigError(
        f'execution.data = host does not fit method {method.name} with '
        "model.norm = 'bn', whose statistics come from all training examples; "
        'use execution.data = device or another norm'
      )
    host = hosted.on_host(federation)
    federation = hosted.outline(host)
  job = loop.Job(
    algorithm,
    nets.model,
    numbers(config),
    federation,
    tests,
    execution,
    config.execution.precision,
    host,
  )
  fingerprint = data.fingerprint(dataset)
  return Plan(job, resolved, shrinks, samples, fingerprint, spent)


def numbers(config: Config) -> hyper.Hyper:
  """All numbers of a configuration, as arrays."""
  return loop.numbers(settings(config))


def settings(config: Config) -> hyper.Hyper:
  """The settings that a round reads: groups of the configuration."""
  return hyper.Hyper(
    config.client,
    config.server,
    config.algorithm,
    config.loss,
    config.sampler,
    config.uplink,
    config.attack,
    config.adversarial,
  )


def assemble(
  config: Config,
  model: models.Model,
  submodels: models.Submodels | None,
  population: int,
  sampler: Sampler | None = None,
) -> Algorithm:
  """The method of a configuration, with all that goes around it.

  Args:
    config: a valid configuration.
    model: what its clients train.
    submodels: the slim versions of it, for methods that need them.
    population: number of clients.
    sampler: who takes part, instead of what the configuration says.

  Raises:
    ValueError: parts do not fit each other, or a file is not as it should be.
  """
  method = algorithms.METHODS[config_lib.method_name(config)]
  unroll = config.execution.unroll
  parts = algorithms.Parts(model, samplers.everyone(), unroll, submodels)
  algorithm = method.build(config.algorithm, parts)
  # It may ask about the model that the method is judged by.
  judged = algorithm.network or model
  who = sampler or samplers.make(config.sampler, judged)
  algorithm = algorithm._replace(sampler=who)
  algorithm = attacks.under(algorithm, config.attack, population)
  algorithm = uplinks.through(algorithm, config.uplink)
  named = f'method {method.name}'
  algorithm = robust.reduced(algorithm, config.server, named)
  algorithm = adversarial.judged(algorithm, model, config.adversarial)
  asking = f'sampler.name = {config.sampler.name!r}'
  if sampler is not None:
    asking = 'the sampler'
  steps = config.fine_tune
  return finetune.tuned(algorithm, model, steps, named, asking)


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

  return make(largest_chunk(most, needed, MEMORY_SHARE * free_bytes()))


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


def _clocked(
  config: Config,
  algorithm: Algorithm,
  federation: data.Federation,
  spent: Sequence[Cost],
  traffic: Sequence[Traffic],
) -> Algorithm:
  """The algorithm with clock and accounting around its sampler.

  Raises:
    ConfigError: no client can make the deadline.
  """
  pace = clock_lib.pace(config.clock, spent, traffic)
  sent_of = clock_lib.bytes_sent(traffic)
  sent = sent_of(settings(config))
  seconds_of = clock_lib.local_seconds(config.client)
  tiers = [federation.tier]
  if algorithm.tier is not None:  # any client may be in any
    tiers = [np.full_like(federation.tier, t) for t in range(len(spent))]
  fastest = min(seconds_of(pace, sent, federation.size, t).min() for t in tiers)
  if 0 < pace.deadline < fastest:
    raise ConfigError(
      f'clock.deadline = {config.clock.deadline} is before any client is '
      f'done; choose {float(fastest):.3g} seconds or more, or 0 for none'
    )
  seen = partial(local.examples_seen, config.client)
  who = accounting.counted(algorithm.sampler, spent, traffic, sent_of, seen)
  who = clock_lib.timed(who, pace, sent_of, seconds_of)
  return algorithm._replace(sampler=who)


def _federation(
  config: Config, samples: Samples, nets: Networks
) -> data.Federation:
  dataset, parts = samples.dataset, samples.partition.train
  federation = data.federate(
    dataset.x_train,
    attacks.labels(config.attack, dataset, parts),
    parts,
    num_classes=dataset.num_classes or None,
  )
  sub, clock = nets.submodels, config.clock
  tiers = len(sub.rates) if sub else clock.num_tiers
  proportions = config.tiers.proportions or (1.0,) * tiers
  if len(proportions) != tiers:
    raise ConfigError(
      f'tiers.proportions = {proportions} has {len(proportions)} shares for '
      f'{tiers} tiers; give one a tier, or none for equal shares'
    )
  absent = [tier for tier in config.sampler.tiers if tier >= tiers]
  if absent:
    raise ConfigError(
      f'sampler.tiers = {config.sampler.tiers} has {absent[0]} but tiers are '
      f'0 to {tiers - 1}; choose from these'
    )
  tier = data.assign_tiers(
    config.tiers.kind,
    federation.size,
    federation.labels,
    proportions,
    config_lib.seeds(config)['partition'],
  )
  return federation._replace(tier=tier)


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
    wanted.slim,
    wanted.data == 'host',
  )
  return execution, resolved, shrinks


def free_bytes() -> float:
  """Memory that is left on a device, infinite if it does not say."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' not in stats:
    return math.inf
  return stats['bytes_limit'] - stats.get('bytes_in_use', 0)
