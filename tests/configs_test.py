"""Every configuration file is valid, and says how to run it."""

import importlib
import pathlib

import pytest

from fedjax_ls import samples
from fedjax_ls.cost import cost
from fedjax_ls.networks import networks
from fedjax_ls.validate import validate

FILES = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parent.parent / 'configs').glob('*.py')
)


@pytest.mark.parametrize('name', FILES)
def test_a_configuration_is_valid_and_explains_itself(name):
  module = importlib.import_module(f'configs.{name}')
  made = validate(module.get_config())
  assert made.rounds >= 1
  assert f'configs/{name}.py' in module.__doc__
  assert 'measured' in module.__doc__


@pytest.mark.parametrize(
  'name',
  [
    'cifar10_one_class_cnn',
    'cifar10_two_classes_cnn',
    'cifar10_dirichlet_cnn',
    'cifar10_one_class_resnet18',
    'cifar100_two_classes_cnn',
    'cifar100_five_classes_cnn',
  ],
)
def test_feddecorr_is_that_of_the_layer_norm_paper(name):
  module = importlib.import_module(f'configs.{name}')
  made = validate(module.get_config('feddecorr')).algorithm
  assert (made.coefficient, made.scale) == (0.5, 'code')
  assert 'feddecorr' in module.__doc__


# Image, classes, parameters of each tier's network as published.
PUBLISHED = {
  'heterofl_cifar10': (
    (32, 32, 3), 10, (9622090, 2408746, 603802, 151762, 38350),
  ),
  'heterofl_mnist': ((28, 28, 1), 10, (1556874, 391370, 98922, 25274, 6594)),
  'fjord_cifar10': (
    (32, 32, 3), 10, (11173962, 7175586, 4049352, 1803314, 457578),
  ),
  'depthfl_cifar100': (
    (32, 32, 3), 100, (12283344, 3838316, 1347336, 479652),
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', PUBLISHED)
def test_networks_of_every_tier_have_the_published_size(name):
  image, classes, expected = PUBLISHED[name]
  module = importlib.import_module(f'configs.{name}')
  found = {'x': ['uint8', image], 'y': ['int32', []], 'num_classes': classes}
  dataset = samples.of_kind(found)
  nets = networks(validate(module.get_config()), dataset, 'native')
  for tier, size in enumerate(expected):
    slim = nets.submodels.module(tier)
    assert cost(slim, dataset.x_train).parameters == size
    assert f'{size:,}' in module.__doc__
