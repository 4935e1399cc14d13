"""The configuration: round trips, comparison, and its tables of rules."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_ls as fl
from fedjax_ls import config as config_lib
from fedjax_ls import hyper
from fedjax_ls import validate as validate_lib

METHODS = sorted(fl.algorithms.METHODS)


def example(method: str = 'fedavg') -> fl.Config:
  return fl.Config(algorithm=fl.algorithms.find(method).settings())


@pytest.mark.parametrize('method', METHODS)
def test_default_of_every_method_is_valid_and_survives_json(method):
  config = validate_lib.validate(example(method))
  text = json.dumps(config_lib.to_dict(config))
  assert config_lib.from_dict(json.loads(text)) == config
  assert config_lib.method_name(config) == method


@given(
  st.floats(1e-6, 10), st.integers(0, 2**32 - 1), st.lists(st.integers(1, 99))
)
def test_round_trip_keeps_values_exactly(rate, seed, milestones):
  config = example()
  config.seed = seed
  config.client.learning_rate = rate
  config.client.milestones = tuple(milestones)
  text = json.dumps(config_lib.to_dict(config))
  assert config_lib.from_dict(json.loads(text)) == config


def test_tables_of_rules_name_existing_fields():
  fields = config_lib.leaves(fl.Config())
  assert set(validate_lib.NAMES) <= set(fields)
  assert set(validate_lib.RANGES) <= set(fields)


def test_every_number_and_name_has_a_rule_or_is_free():
  ruled = {*validate_lib.NAMES, *validate_lib.RANGES}
  fields = config_lib.leaves(fl.Config())
  free = {name for name, (kind, _) in fields.items() if kind is not bool}
  assert free - ruled == {
    'data.path',
    'data.mean',
    'model.name',
    'partition.path',
    'sampler.availability',
    'writers.extra',
    'sampler.size_exponent',
  }


def test_normalized_casts_what_is_safe():
  config = example('width')
  config.client.learning_rate = 1
  config.client.milestones = [3, 5]
  config.algorithm.rates = (1, '1/2,1/4')
  config = config_lib.normalized(config)
  assert type(config.client.learning_rate) is float
  assert config.client.milestones == (3, 5)
  assert config.algorithm.rates == ('1', '1/2', '1/4')


def test_validate_leaves_its_argument_alone():
  config = example()
  config.client.learning_rate = 1
  validate_lib.validate(config)
  assert type(config.client.learning_rate) is int


def test_differences_names_fields_that_make_another_run():
  ours, theirs = example(), example('scaffold')
  theirs.client.batch_size = 8
  theirs.rounds = 7
  theirs.execution.chunk = 3
  theirs.writers.plots = False
  found = config_lib.differences(ours, theirs)
  assert found == {
    'algorithm.name': ('fedavg', 'scaffold'),
    'algorithm.option': (None, 'local_steps'),
    'client.batch_size': (32, 8),
  }


def test_seeds_follow_the_run_unless_set():
  config = fl.Config(seed=5)
  config.model.seed = 0
  assert config_lib.seeds(config) == {'partition': 5, 'model': 0, 'train': 5}


@pytest.mark.parametrize('settings', [hyper.Client(), hyper.Server()])
def test_settings_of_hyper_match_their_checks(settings):
  """Names that the checks allow are names that the kernel knows."""
  group = type(settings).__name__.lower()
  for field, names in validate_lib.NAMES.items():
    if field.startswith(f'{group}.'):
      assert getattr(settings, field.partition('.')[2]) in names
