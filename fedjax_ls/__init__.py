"""Federated learning on label-skewed and uneven clients, in pure JAX.

A run with one's own network and arrays is one call of `fit`; a run from a
configuration, with files, checkpoints and resume, is `train.train`.
"""

from fedjax_ls import algorithms, data, models, samplers
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.data import Federation, federate
from fedjax_ls.hyper import (
  Adversarial,
  Attack,
  Client,
  Hyper,
  Loss,
  Sampler,
  Server,
  Uplink,
)
from fedjax_ls.loop import Diverged, OutOfMemory
from fedjax_ls.models import (
  CNN,
  MLP,
  Model,
  Outputs,
  depth_submodels,
  flax_model,
  width_submodels,
  with_exits,
)
from fedjax_ls.saved import load
from fedjax_ls.simulation import Result, fit
from fedjax_ls.types import Algorithm, Execution, Phase, State
from fedjax_ls.types import Sampler as SamplerFunctions

__all__ = [
  'CNN',
  'MLP',
  'Adversarial',
  'Algorithm',
  'Attack',
  'Client',
  'Config',
  'ConfigError',
  'Diverged',
  'Execution',
  'Federation',
  'Hyper',
  'Loss',
  'Model',
  'OutOfMemory',
  'Outputs',
  'Phase',
  'Result',
  'Sampler',
  'SamplerFunctions',
  'Server',
  'State',
  'Uplink',
  'algorithms',
  'data',
  'depth_submodels',
  'federate',
  'fit',
  'flax_model',
  'load',
  'models',
  'samplers',
  'width_submodels',
  'with_exits',
]
