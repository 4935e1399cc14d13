"""Networks by name and by import path."""

import sys

import flax.linen as nn
import jax.numpy as jnp
import pytest

from fedjax_ls.models import (
  MODELS,
  flax_model,
  import_module,
  make_net,
  options_of,
)
from fedjax_ls.models.base import Width
from tests.networks import KEY

OWN = """
import flax.linen as nn

class Net(nn.Module):
  num_classes: int
  hidden: tuple[int, ...] = (4,)

  @nn.compact
  def __call__(self, x):
    for size in self.hidden:
      x = nn.relu(nn.Dense(size)(x))
    return nn.Dense(self.num_classes)(x)

def build(num_classes, depth=2):
  return Net(num_classes, (3,) * depth)

def number(num_classes):
  return 3

CONSTANT = 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """A package of one's own with a module `nets`."""
  package = tmp_path / 'own_package'
  package.mkdir()
  (package / 'nets.py').write_text(OWN)
  (package / 'broken.py').write_text('import no_such_library\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  yield 'own_package'
  for name in [m for m in sys.modules if m.startswith('own_package')]:
    del sys.modules[name]


@pytest.mark.parametrize('name', MODELS)
def test_every_network_takes_the_common_options(name):
  common = {
    'norm': 'ln', 'norm_where': 'last', 'norm_before': True,
    'norm_affine': True, 'norm_groups': 1, 'norm_eps': 1e-3, 'use_bias': True,
    'projector': (4,), 'initializer': 'torch', 'lowering': 'matmul',
    'scaler': Width(1, 2), 'dtype': jnp.bfloat16,
  }  # fmt: skip
  net = make_net(name, num_classes=3, **common)
  assert {k: getattr(net, k) for k in common} == common
  assert {'num_classes', *common} <= options_of(name)
  assert options_of('cnn') == {'num_classes', 'feature', *common}


def test_a_network_of_ones_own_is_imported(own):
  net = make_net(f'{own}.nets:Net', num_classes=3, hidden=(2, 5))
  model = flax_model(net, jnp.zeros((1, 4)))
  params, stats = model.init(KEY)
  assert params['Dense_1']['kernel'].shape == (2, 5)
  outputs, _ = model.apply(params, stats, jnp.ones((2, 4)))
  assert outputs.logits.shape == (2, 3)
  assert options_of(f'{own}.nets:Net') == {'num_classes', 'hidden'}
  assert import_module(f'{own}.nets:build', num_classes=2).hidden == (3, 3)
  assert isinstance(import_module('flax.linen:Dense', features=2), nn.Dense)


@pytest.mark.parametrize(
  ('path', 'options', 'message'),
  [
    ('resnet81', {}, r"model.name = 'resnet81' .* 'resnet18'"),
    ('mlp', {'feature': 3}, "'mlp' takes no feature; it takes dtype, hidden"),
    (
      'own_package.nets:Net',
      {'norm': 'ln'},
      'takes no norm; it takes hidden, num_classes$',
    ),
    ('own_package.nets:Nett', {}, "did you mean 'own_package.nets:Net'"),
    ('own_package.nets:', {}, 'write package.module:ClassName'),
    ('own_package.net:Net', {}, "No module named 'own_package.net'; start"),
    ('own_package.broken:Net', {}, "No module named 'no_such_library'"),
    ('own_package.nets:CONSTANT', {}, 'is a int; name a flax.linen.Module'),
    ('own_package.nets:number', {}, 'makes a int; name a flax.linen.Module'),
  ],
)
def test_bad_names_are_one_sentence(own, path, options, message):
  with pytest.raises(ValueError, match=message) as caught:
    make_net(path, num_classes=2, **options)
  assert '\n' not in str(caught.value)
