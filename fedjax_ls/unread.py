"""Settings that another setting leaves without a reader."""

from collections.abc import Iterator
from typing import Any

from fedjax_ls.config import Config, ConfigError, leaves

_ADAPTIVE = ('adagrad', 'adam', 'yogi')
_SIZED = ('dirichlet', 'power_law', 'log_normal')
_FILES = ('npz', 'tfds', 'leaf', 'text', 'pfllib')

# {field: (the field that decides, its values under which the first is read)};
# of a list that decides, one element does.
Readers = dict[str, tuple[str, tuple[Any, ...]]]

# What is told and not refused: studies compare several kinds, and set a number
# that some of them read once for all.
TOLD: Readers = {
  'partition.classes_per_client': ('partition.kind', ('classes',)),
  'partition.alpha': ('partition.kind', ('dirichlet',)),
  'partition.min_size': ('partition.kind', _SIZED),
  'partition.balance': ('partition.kind', ('dirichlet',)),
  'partition.iid_share': ('partition.kind', ('shards',)),
  'partition.exponent': ('partition.kind', ('power_law',)),
  'partition.sigma': ('partition.kind', ('log_normal',)),
  'partition.path': ('partition.kind', ('file',)),
  'server.byzantine': (
    'server.reduction',
    ('trimmed_mean', 'krum', 'multi_krum'),
  ),
  'uplink.levels': ('uplink.links', ('qsgd',)),
  'attack.share': ('attack.kind', ('label_flip', 'sign_flip')),
  'attack.scale': ('attack.kind', ('sign_flip',)),
}
REFUSED: Readers = {
  'data.path': ('data.name', _FILES),
  'data.sequence_length': ('data.name', ('text',)),
  'data.target': ('data.name', ('text',)),
  'data.alpha': ('data.name', ('synthetic',)),
  'data.beta': ('data.name', ('synthetic',)),
  'client.decay': ('client.schedule', ('exponential', 'step')),
  'client.horizon': ('client.schedule', ('cosine',)),
  'client.milestones': ('client.schedule', ('step',)),
  'client.momentum': ('client.optimizer', ('momentum',)),
  'client.clip_norm': ('client.clip', (True,)),
  'client.rho': ('client.sam', (True,)),
  'client.stragglers': ('client.partial_work', (True,)),
  'loss.mu': ('loss.terms', ('proximal',)),
  'loss.decorrelation': ('loss.terms', ('decorrelation',)),
  'loss.decorrelation_scale': ('loss.terms', ('decorrelation',)),
  'loss.tau': ('loss.calibration', ('fedlc',)),
  'loss.alpha': ('loss.calibration', ('fedrs', 'fedrs_graded')),
  'server.momentum': ('server.optimizer', ('momentum', 'damped_momentum')),
  'server.b1': ('server.optimizer', _ADAPTIVE),
  'server.b2': ('server.optimizer', ('adam', 'yogi')),
  'server.tau': ('server.optimizer', _ADAPTIVE),
  'server.v0': ('server.optimizer', _ADAPTIVE),
  'server.bias_correction': ('server.optimizer', _ADAPTIVE),
  'uplink.clip_norm': ('uplink.links', ('clip',)),
  'uplink.noise': ('uplink.links', ('noise',)),
  'uplink.keep': ('uplink.links', ('top_k',)),
  'uplink.per_layer': ('uplink.links', ('top_k', 'qsgd', 'sign')),
}


def check(config: Config) -> None:
  """Refuses a value that is not the default and that nothing reads.

  Args:
    config: whose values have the types of their fields.

  Raises:
    ConfigError: naming both fields.
  """
  for sentence in _unread(config, REFUSED):
    raise ConfigError(sentence)


def notes(config: Config) -> list[str]:
  """What else is set and not read, one sentence each.

  >>> config = Config()
  >>> config.partition.alpha = 0.5
  >>> notes(config)
  ... # doctest: +NORMALIZE_WHITESPACE
  ["partition.alpha = 0.5 is not read with partition.kind = 'classes'; leave it
   out or set partition.kind to dirichlet"]
  """
  return list(_unread(config, TOLD))


def _unread(config: Config, readers: Readers) -> Iterator[str]:
  values = {name: value for name, (_, value) in leaves(config).items()}
  defaults = {name: value for name, (_, value) in leaves(Config()).items()}
  for name, (decides, those) in readers.items():
    value = values[decides]
    chosen = set(value) if isinstance(value, tuple) else {value}
    if decides == 'data.name':  # may name a variant after a colon
      chosen = {value.partition(':')[0]}
    read = chosen & set(those)
    if values[name] != defaults[name] and not read:
      fix = ' or '.join(str(reader).lower() for reader in those)
      yield (
        f'{name} = {values[name]!r} is not read with {decides} = {value!r}; '
        f'leave it out or set {decides} to {fix}'
      )
