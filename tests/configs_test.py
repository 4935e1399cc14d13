"""Every configuration file is valid, and says how to run it."""

import importlib
import pathlib

import pytest

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
