"""From a configuration to its network."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from fedjax_ls import algorithms, models
from fedjax_ls import config as config_lib
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.data import Dataset, augment
from fedjax_ls.validate import NET_FIELDS, net_fields


class Networks(NamedTuple):
  """The network of a configuration, and its slim versions or None."""

  net: Any
  model: models.Model
  submodels: models.Submodels | None


def networks(config: Config, dataset: Dataset, lowering: str) -> Networks:
  """The networks of a configuration.

  Args:
    config: a valid configuration.
    dataset: whose examples and labels they are for; one example is enough.
    lowering: of convolutions, `native` or `matmul`.

  Returns:
    The network, and one slim version a tier if the method needs them.

  Raises:
    ValueError: the network does not fit the data or the method.
  """
  settings = config.model
  net = models.make_net(
    settings.name, **_net_options(config, dataset, lowering)
  )
  method = algorithms.METHODS[config_lib.method_name(config)]
  if method.needs_exits:
    net = models.with_exits(net)
  example = dataset.x_train[:1]
  model = models.flax_model(
    net, example, loss=settings.loss, **_images(config.data, example.shape)
  )
  if config.adversarial.steps:
    model = _doubled(model, config)
  if not method.needs_submodels:
    return Networks(net, model, None)
  parts_of = (
    models.depth_submodels if method.shallow else models.width_submodels
  )
  rates = method.slim_rates(config.algorithm)
  return Networks(net, model, parts_of(net, example, rates))


def _doubled(model: models.Model, config: Config) -> models.Model:
  """The model with two halves of each BatchNorm."""
  settings, steps = config.model, config.adversarial.steps
  if settings.norm != 'bn' or 'norm_eps' not in net_fields(settings.name):
    raise ConfigError(
      f'adversarial.steps = {steps} doubles BatchNorms but model.norm = '
      f'{settings.norm!r} of model.name = {settings.name!r} has none; use a '
      "network of fedjax_ls.models with model.norm = 'bn'"
    )
  return models.dual_norm(model, settings.norm_eps)


def _images(
  settings: config_lib.Data, shape: tuple[int, ...]
) -> dict[str, Any]:
  """How the model prepares images, as arguments of `flax_model`."""
  varied = settings.crop_padding or settings.flip
  if varied and len(shape) != 4:
    raise ConfigError(
      f'data.crop_padding = {settings.crop_padding} and data.flip = '
      f'{settings.flip} need images [H, W, C] but samples have shape '
      f'{list(shape[1:])}; set them to 0 and false'
    )
  if len(settings.mean) not in (0, 1, shape[-1]):
    raise ConfigError(
      f'data.mean has {len(settings.mean)} numbers for {shape[-1]} channels; '
      'give one a channel, or one for all'
    )
  options: dict[str, Any] = {}
  if settings.mean:
    options['preprocess'] = augment.normalize(settings.mean, settings.std)
  if varied:
    options['augment'] = augment.augment(settings.crop_padding, settings.flip)
  return options


def _net_options(
  config: Config, dataset: Dataset, lowering: str
) -> dict[str, Any]:
  """The settings that the network reads."""
  settings = config.model
  options = {field: getattr(settings, field) for field in NET_FIELDS}
  options |= {
    'num_classes': dataset.num_classes or math.prod(dataset.y_train.shape[1:]),
    'lowering': lowering,
    'dtype': jnp.bfloat16 if settings.dtype == 'bfloat16' else None,
    'positions': 'last' if dataset.y_train.ndim == 1 else 'every',
  }
  if not settings.channels:
    del options['channels']
  known = net_fields(settings.name)
  return {name: value for name, value in options.items() if name in known}
