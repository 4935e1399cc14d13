"""The configuration of a run: typed, checked, written down, compared.

The dataclasses are plain and mutable, so that a command line can set their
fields; the settings of clients, server, loss and sampler are those of
`fedjax_ls.hyper`, the method's are its own dataclass.
"""

import copy
import dataclasses
import difflib
import math
import typing
from collections.abc import Callable
from typing import Any

from fedjax_ls import algorithms, hyper
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.clock import Clock
from fedjax_ls.hyper import Sampler


class ConfigError(ValueError):
  """A setting is wrong; one sentence names the field, its value and the fix."""


@dataclasses.dataclass
class Data:
  """Which samples.

  Attributes:
    name: a source of `fedjax_ls.data.SOURCES`; `tfds:NAME` for a set of
      TensorFlow Datasets, `synthetic:iid` for clients alike.
    path: file or folder that the source reads, empty for bundled data.
    validation: share of the train rows kept apart to select by, in [0, 1).
    sequence_length: characters of a window of `text`.
    target: of `text`: `every` character's next one, or the `last` one's.
    alpha: how much the models of `synthetic` clients differ, >= 0.
    beta: how much the inputs of `synthetic` clients differ, >= 0.
    shrink: side of the squares of pixels that become one, their mean; 1 to
      leave images as they are.
    crop_padding: pixels that train images are shifted by at most, either way.
    flip: whether train images are mirrored at random.
    mean: of each channel, to normalize images by; empty for none.
    std: of each channel.
  """

  name: str = 'digits'
  path: str = ''
  validation: float = 0.0
  sequence_length: int = 80
  target: str = 'every'
  alpha: float = 1.0
  beta: float = 1.0
  shrink: int = 1
  crop_padding: int = 0
  flip: bool = False
  mean: tuple[float, ...] = ()
  std: tuple[float, ...] = ()


@dataclasses.dataclass
class Partition:
  """Who owns which sample.

  Attributes:
    kind: a kind of `fedjax_ls.data.KINDS`.
    num_clients: number of clients; `natural` and `file` count their own.
    classes_per_client: of `classes`.
    alpha: concentration of `dirichlet`, > 0.
    min_size: fewest train rows of a client under `dirichlet`, `power_law` and
      `log_normal`.
    balance: whether `dirichlet` evens out the sizes.
    iid_share: share of the rows that `shards` spreads evenly, in [0, 1].
    exponent: of the tail of `power_law`, > 0.
    sigma: standard deviation of the logarithm of `log_normal`, >= 0.
    path: partition file of `file`.
    transform: what tells groups of clients apart: `none`, `rotation` or
      `label_permutation`.
    num_groups: number of such groups.
    seed: of synthetic data, the validation split, the partition, the groups
      and the tiers; -1 for the run's `seed`.
  """

  kind: str = 'classes'
  num_clients: int = 10
  classes_per_client: int = 1
  alpha: float = 0.1
  min_size: int = 1
  balance: bool = False
  iid_share: float = 0.0
  exponent: float = 1.5
  sigma: float = 1.0
  path: str = ''
  transform: str = 'none'
  num_groups: int = 1
  seed: int = -1


@dataclasses.dataclass
class Tiers:
  """Which resource tier each client is in; tier 0 comes first.

  Attributes:
    kind: `random`, `in_order` (tier 0 holds the first clients), `by_size`
      (tier 0 holds the largest clients), `inverse_size` or `by_class`.
    proportions: shares of the clients in each tier, empty for equal ones.
  """

  kind: str = 'random'
  proportions: tuple[float, ...] = ()


@dataclasses.dataclass
class Model:
  """Which network; see `fedjax_ls.models`.

  Attributes:
    name: a network of `fedjax_ls.models.MODELS`, or one's own by import path,
      `package.module:ClassName`, which is given those of the settings below
      that its signature names, `num_classes`, `lowering` and `dtype`.
    hidden: hidden sizes of `mlp` and of a network of one's own; () makes
      `mlp` logistic regression.
    channels: channels of the convolutions of `pooled_cnn` and `pfl_cnn`, or of
      the stages of `resnet18`, `preresnet10` and `preresnet18`; empty for their
      own.
    feature: size of the feature of `cnn`, 192 or 384.
    norm: kind of norm, `none`, `fn`, `ln`, `gn`, `in`, `bn` or `shift`.
    norm_where: `layers`, `last` or `reduced`; never after the projector.
    norm_before: norm before the activation.
    norm_affine: norms learn a scale and a bias per channel.
    norm_groups: groups of `gn`.
    norm_eps: eps of the norms, > 0.
    use_bias: layers have biases.
    projector: sizes of linear layers before the classifier, empty for none.
    initializer: `lecun` or `torch`.
    dtype: of the computation, `float32` or `bfloat16`.
    loss: `cross_entropy` or `squared_error`.
    seed: of the initial parameters; -1 for the run's `seed`.
  """

  name: str = 'mlp'
  hidden: tuple[int, ...] = (128, 64)
  channels: tuple[int, ...] = ()
  feature: int = 192
  norm: str = 'none'
  norm_where: str = 'layers'
  norm_before: bool = False
  norm_affine: bool = False
  norm_groups: int = 2
  norm_eps: float = 1e-5
  use_bias: bool = False
  projector: tuple[int, ...] = ()
  initializer: str = 'lecun'
  dtype: str = 'float32'
  loss: str = 'cross_entropy'
  seed: int = -1


@dataclasses.dataclass
class Execution:
  """How the run is computed; changes speed, not results beyond rounding.

  Attributes:
    chunk: clients vectorized at a time on each device, 0 to choose.
    devices: number of devices, 0 for all.
    conv: `native`, `matmul` or `auto`.
    unroll: local steps unrolled into one loop body.
    debug: client by client and unjitted, naming the client that fails.
    slim: where one client runs at a time, narrow tiers compute their small
      network instead of the whole one under a mask.
    data: where examples and client states are, on the `device` or on the
      `host`, which feeds it one cohort at a time.
    precision: of float32 matrix products: `float32`, `tensorfloat32` or
      `bfloat16`.
  """

  chunk: int = 0
  devices: int = 1
  conv: str = 'auto'
  unroll: int = 1
  debug: bool = False
  slim: bool = True
  data: str = 'device'
  precision: str = 'float32'


@dataclasses.dataclass
class Writers:
  """What is written besides the metrics.

  Attributes:
    progress: `auto` (a bar on a terminal, else lines), `bar`, `lines`, `off`.
    plots: whether to draw the learning curve and the partition.
    checkpoint_every: rounds between checkpoints, 0 for `eval_every`.
    keep: number of checkpoints kept.
    extra: copies of the metrics for other tools, `tensorboard` and `wandb`
      (offline).
  """

  progress: str = 'auto'
  plots: bool = True
  checkpoint_every: int = 0
  keep: int = 2
  extra: tuple[str, ...] = ()


@dataclasses.dataclass
class Diagnostics:
  """How often and how closely a run looks at its clients' models.

  Attributes:
    every: rounds between, a multiple of `eval_every`; 0 for never.
    clients: number of clients looked at, evenly spaced among all; each takes
      twice the memory of the model.
  """

  every: int = 0
  clients: int = 10


@dataclasses.dataclass
class Config:
  """A whole run.

  Attributes:
    seed: of everything random whose own seed is -1.
    train_seed: of cohorts, batches and noise; -1 for `seed`.
    rounds: rounds in all; a finished run continues when it grows.
    eval_every: rounds between evaluations.
    fine_tune: local steps that each client takes before it is judged, 0 for
      none.
    data: which samples.
    partition: who owns them.
    tiers: who has which resources.
    model: which network.
    algorithm: the method's own dataclass, which also says which method.
    client: what a client does.
    loss: what its loss has beside the model's own.
    server: what the server does.
    uplink: what an update goes through on its way to the server.
    attack: which clients lie, and how.
    adversarial: whether clients train on attacked examples, too.
    sampler: who takes part.
    clock: how fast the clients are, to simulate time and count what they
      spend.
    execution: how it is computed.
    writers: what is written.
    diagnostics: how its clients' models are looked at.
  """

  seed: int = 0
  train_seed: int = -1
  rounds: int = 200
  eval_every: int = 10
  fine_tune: int = 0
  data: Data = dataclasses.field(default_factory=Data)
  partition: Partition = dataclasses.field(default_factory=Partition)
  tiers: Tiers = dataclasses.field(default_factory=Tiers)
  model: Model = dataclasses.field(default_factory=Model)
  algorithm: Any = dataclasses.field(default_factory=FedAvg)
  client: hyper.Client = dataclasses.field(default_factory=hyper.Client)
  loss: hyper.Loss = dataclasses.field(default_factory=hyper.Loss)
  server: hyper.Server = dataclasses.field(default_factory=hyper.Server)
  uplink: hyper.Uplink = dataclasses.field(default_factory=hyper.Uplink)
  attack: hyper.Attack = dataclasses.field(default_factory=hyper.Attack)
  adversarial: hyper.Adversarial = dataclasses.field(
    default_factory=hyper.Adversarial
  )
  sampler: Sampler = dataclasses.field(default_factory=Sampler)
  clock: Clock = dataclasses.field(default_factory=Clock)
  execution: Execution = dataclasses.field(default_factory=Execution)
  writers: Writers = dataclasses.field(default_factory=Writers)
  diagnostics: Diagnostics = dataclasses.field(default_factory=Diagnostics)


# Fields of seeds.
SEEDS = ('seed', 'train_seed', 'partition.seed', 'model.seed')
# Groups that do not make another run.
OTHERS = ('execution', 'writers', 'diagnostics')


def method_name(config: Config) -> str:
  """Name of the method whose settings `config.algorithm` holds.

  Raises:
    ConfigError: it holds no method's settings.

  >>> method_name(Config())
  'fedavg'
  """
  for name, method in algorithms.METHODS.items():
    if type(config.algorithm) is method.settings:
      return name
  raise ConfigError(
    f'the method, algorithm, is given {briefly(config.algorithm)}; give '
    'settings, fedjax_ls.algorithms.find(NAME).settings()'
  )


def seeds(config: Config) -> dict[str, int]:
  """The seeds in force: of the partition, the initial model, the training.

  >>> seeds(Config(seed=3, train_seed=8))
  {'partition': 3, 'model': 3, 'train': 8}
  """
  own = {
    'partition': config.partition.seed,
    'model': config.model.seed,
    'train': config.train_seed,
  }
  return {k: config.seed if seed == -1 else seed for k, seed in own.items()}


def leaves(config: Any, prefix: str = '') -> dict[str, tuple[Any, Any]]:
  """`{dotted field: (type, value)}` of all fields that are no group."""
  flat: dict[str, tuple[Any, Any]] = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      flat |= leaves(value, f'{prefix}{field.name}.')
    else:
      flat[prefix + field.name] = (field.type, value)
  return flat


def normalized(config: Config) -> Config:
  """A copy whose values have exactly the types of their fields.

  Integers become floats where a float is asked for, lists become tuples, and
  a tuple of strings may be given as numbers or as one string with commas.

  Raises:
    ConfigError: a group or a value has another type.
  """
  for field in dataclasses.fields(Config):
    if dataclasses.is_dataclass(field.type):
      check_group(field.name, field.type, getattr(config, field.name))
  method_name(config)
  config = copy.deepcopy(config)
  for name, (kind, value) in leaves(config).items():
    set_field(config, name, _cast(name, kind, value))
  return config


def set_field(config: Any, name: str, value: Any) -> None:
  """Sets a field by its dotted name."""
  *groups, last = name.split('.')
  for group in groups:
    config = getattr(config, group)
  setattr(config, last, value)


def to_dict(config: Config) -> dict[str, Any]:
  """Nested dictionary for JSON; the method's name goes under `algorithm`."""
  tree = dataclasses.asdict(config)
  tree['algorithm'] = {'name': method_name(config), **tree['algorithm']}
  return tree


def from_dict(tree: dict[str, Any]) -> Config:
  """The configuration that `to_dict` wrote, also by way of JSON.

  Raises:
    ConfigError: an unknown method or field, or a wrong type.
  """
  tree = copy.deepcopy(tree)
  name = tree.get('algorithm', {}).pop('name', 'fedavg')
  try:
    config = Config(algorithm=algorithms.find(name).settings())
  except ValueError as error:
    raise ConfigError(str(error)) from None
  known = leaves(config)
  for field, value in flat(tree).items():
    if field not in known:
      raise unknown_field(field, known)
    set_field(config, field, value)
  return normalized(config)


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
  """Fields in which two runs differ, with both values.

  `rounds`, `execution.*`, `writers.*` and `diagnostics.*` do not make another
  run.

  >>> differences(Config(), Config(seed=1, rounds=7))
  {'seed': (0, 1)}
  """
  ours, theirs = flat(to_dict(a)), flat(to_dict(b))
  return {
    name: (ours.get(name), theirs.get(name))
    for name in {**ours, **theirs}
    if name != 'rounds'
    and name.split('.')[0] not in OTHERS
    and ours.get(name) != theirs.get(name)
  }


def unknown_field(name: str, known: Any) -> ConfigError:
  """The error for a field that does not exist, with the nearest one."""
  inside = [k for k in known if k.startswith(f'{name}.')]
  if inside:
    return ConfigError(
      f'configuration field {name!r} is a group; set one of {", ".join(inside)}'
    )
  group = name.rpartition('.')[0] + '.'
  near = [k for k in known if k.startswith(group)] if group != '.' else []
  if group == 'algorithm.' and not near:
    return ConfigError(
      f'configuration field {name!r} is unknown: this method has no settings '
      'of its own; leave it out or choose another method, FILE.py:METHOD'
    )
  best = difflib.get_close_matches(name, near or known, 1, 0.0)[0]
  return ConfigError(
    f'configuration field {name!r} is unknown; did you mean {best!r}?'
  )


def flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """`{dotted field: value}` of a nested dictionary, such as `to_dict`'s."""
  found: dict[str, Any] = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      found |= flat(value, f'{prefix}{key}.')
    else:
      found[prefix + key] = value
  return found


def check_group(name: str, kind: Any, value: Any) -> None:
  """Refuses something else in the place of a group of settings.

  Args:
    name: of the group.
    kind: its class.
    value: what is given.

  Raises:
    ConfigError: it is of another class.
  """
  if type(value) is not kind:
    raise ConfigError(
      f'{name} is given {briefly(value)}; give settings, '
      f'{kind.__module__}.{kind.__name__}(...)'
    )


def briefly(value: Any) -> str:
  """What a value is, for an error, without what it holds.

  >>> briefly(None), briefly(hyper.Server()), briefly(len)
  ('None', 'a Server', "a builtin_function_or_method 'len'")
  """
  if value is None or isinstance(value, str | int | float | type):
    return repr(value)
  named = getattr(value, '__name__', '')
  return f'a {type(value).__name__}' + (f' {named!r}' if named else '')


def _cast(name: str, kind: Any, value: Any) -> Any:
  if typing.get_origin(kind) is tuple:
    return _cast_tuple(name, typing.get_args(kind)[0], value)
  if getattr(value, 'ndim', None) == 0:  # a number of NumPy or JAX
    value = value.item()
  if kind is float and type(value) is int:
    return float(value)
  if type(value) is not kind or (kind is float and not math.isfinite(value)):
    raise ConfigError(
      f'{name} = {value!r} is no {_TYPES[kind]}; give one, such as '
      f'{_EXAMPLES[kind]}'
    )
  return value


def _cast_tuple(name: str, kind: Any, value: Any) -> tuple:
  if isinstance(value, str | int | float):
    value = (value,)
  if not isinstance(value, tuple | list):
    raise ConfigError(
      f'{name} = {value!r} is no list; give one, such as "({_EXAMPLES[kind]},)"'
    )
  if kind is str:
    value = [p.strip() for v in value for p in str(v).split(',') if p.strip()]
  return tuple(_cast(name, kind, element) for element in value)


_TYPES = {
  int: 'whole number',
  float: 'finite number',
  str: 'text',
  bool: 'truth value',
}
_EXAMPLES = {int: '10', float: '0.1', str: "'1/2'", bool: 'true'}


def as_config_error(function: Callable, *args):
  """Calls a function whose `ValueError` is about the configuration.

  Args:
    function: what to call.
    *args: its arguments.

  Returns:
    What it returns.

  Raises:
    ConfigError: it raises a `ValueError`, with the same sentence.
  """
  try:
    return function(*args)
  except ValueError as error:
    raise ConfigError(str(error)) from error
