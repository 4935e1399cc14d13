"""Networks by name, and one's own by import path."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from fedjax_ls.data.checks import require, unknown
from fedjax_ls.models import convnets, resnet
from fedjax_ls.models.mobilenet import MobileNetV2
from fedjax_ls.models.nets import MLP, Net, cnn
from fedjax_ls.models.text import LSTM, Transformer

MODELS: dict[str, Callable[..., nn.Module]] = {
  'mlp': MLP,
  'cnn': cnn,
  'lenet': convnets.lenet,
  'emnist_cnn': convnets.emnist_cnn,
  'cfl_cnn': convnets.cfl_cnn,
  'femnist_cnn': convnets.femnist_cnn,
  'pfl_cnn': convnets.PflCNN,
  'pooled_cnn': convnets.PooledCNN,
  'resnet18': resnet.ResNet,
  'resnet20': resnet.resnet20,
  'preresnet10': resnet.preresnet10,
  'preresnet18': resnet.PreResNet,
  'mobilenetv2': MobileNetV2,
  'lstm': LSTM,
  'transformer': Transformer,
}


def make_net(name: str, *, num_classes: int, **options) -> nn.Module:
  """The network called `name`.

  Args:
    name: a key of `MODELS`, or `package.module:ClassName` for one's own.
    num_classes: number of logits.
    **options: attributes of the network; `options_of` lists them.

  Raises:
    ValueError: there is no such network, or it takes no such option.

  >>> make_net('resnet20', num_classes=10, norm='bn').channels
  (16, 32, 64)
  """
  if ':' in name:
    return import_module(name, num_classes=num_classes, **options)
  if name not in MODELS:
    raise unknown('model.name', name, MODELS)
  return _made(name, MODELS[name], num_classes=num_classes, **options)


def import_module(path: str, **options) -> nn.Module:
  """A network of one's own by the path that imports it.

  Args:
    path: `package.module:ClassName`, a flax.linen module or a function that
      returns one; importable from the working directory or the environment.
    **options: what it is called with.

  Returns:
    The network, to be wrapped by `flax_model`.

  Raises:
    ValueError: nothing can be imported from `path`, what it names makes no
      flax.linen module, or it takes no such option; one sentence.

  >>> import_module('flax.linen:Dense', features=3).features
  3
  """
  made = _made(path, _imported(path), **options)
  require(
    isinstance(made, nn.Module),
    f'model.name = {path!r} makes a {type(made).__name__}; name a '
    'flax.linen.Module or a function that returns one',
  )
  return made


def options_of(name: str) -> set[str]:
  """The options that a network takes, `num_classes` included.

  Args:
    name: as for `make_net`.

  Raises:
    ValueError: there is no such network.

  >>> sorted(options_of('mlp') - options_of('resnet18'))
  ['hidden']
  """
  if ':' in name:
    return _options(_imported(name))
  if name not in MODELS:
    raise unknown('model.name', name, MODELS)
  return _options(MODELS[name])


def _imported(path: str) -> Callable[..., Any]:
  module_name, _, attribute = path.partition(':')
  require(
    bool(module_name and attribute),
    f'model.name = {path!r} is no import path; write package.module:ClassName',
  )
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    raise ValueError(
      f'model.name = {path!r} cannot be imported: {error}; start where '
      f'`import {module_name}` works'
    ) from error
  if not hasattr(module, attribute):
    raise unknown('model.name', path, _classes(module, module_name, attribute))
  found = getattr(module, attribute)
  require(
    callable(found),
    f'model.name = {path!r} is a {type(found).__name__}; name a '
    'flax.linen.Module or a function that returns one',
  )
  return found


def _classes(module, module_name, attribute):
  names = [n for n, v in vars(module).items() if _is_net(v)]
  return [f'{module_name}:{n}' for n in names or [attribute.title()]]


def _is_net(value):
  return isinstance(value, type) and issubclass(value, nn.Module)


def _made(name: str, factory: Callable[..., Any], **options) -> Any:
  known = _options(factory)
  for option in options:
    require(
      option in known,
      f'model.name = {name!r} takes no {option}; it takes '
      f'{", ".join(sorted(known))}',
    )
  return factory(**options)


def _options(factory: Callable[..., Any]) -> set[str]:
  """Its named parameters; `**options` stand for those of all networks."""
  parameters = inspect.signature(factory).parameters
  named = {n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
  if len(named) < len(parameters):
    named |= _options(Net)
  return named - {'parent', 'name'}
