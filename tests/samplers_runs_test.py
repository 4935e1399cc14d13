"""Samplers named in a configuration: runs, resumes, and what is refused."""

import pytest

import fedjax_ls as fl
from fedjax_ls import build
from fedjax_ls.references import references
from fedjax_ls.train import train
from fedjax_ls.validate import validate
from tests.messages_test import says
from tests.resume_test import assert_same_run
from tests.train_test import lines, tiny


def chosen(name: str, **fields) -> fl.Config:
  """A tiny run with a sampler, cohorts of four; fields are the sampler's."""
  fields = {f'sampler__{key}': value for key, value in fields.items()}
  fields = {'sampler__name': name, 'sampler__cohort_size': 4, **fields}
  return tiny(rounds=5, **fields)


@pytest.mark.parametrize(
  'config',
  [
    chosen('divfl', gradients='head', dropout=0.2),
    chosen('rpow_d', candidates=6, size_exponent=0.5),
  ],
)
def test_a_run_resumes_bit_equal(tmp_path, config):
  train(config, tmp_path / 'whole')
  for rounds in (2, 5):
    config.rounds = rounds
    train(config, tmp_path / 'parts')
  assert_same_run(tmp_path / 'whole', tmp_path / 'parts', 5)


def test_oort_paces_itself_by_the_clock(tmp_path):
  config = chosen('oort', pacer_window=1, pacer_start=50.0, cohort_size=10)
  config.clock.macs_per_second = (1e6, 1e5)
  config.eval_every = 1
  config.client.learning_rate = 1e-5
  train(config, tmp_path)
  found = lines(tmp_path)
  assert found[-1]['simulated_seconds'] > 0
  # All ten are new in the first round, and then known and hardly change.
  percents = [line['oort_percent'] for line in found]
  assert percents == [50.0, 50.0, 45.0, 50.0, 55.0]


def test_fit_takes_a_samplers_settings():
  d = fl.data.load('digits')
  parts = fl.data.classes(d.y_train, 12, 1, seed=0).train
  federation = fl.federate(d.x_train, d.y_train, parts)
  model = fl.flax_model(fl.MLP(10, hidden=(8,)), d.x_train[:1])

  def history(**settings):
    settings = fl.Sampler(**settings)
    return fl.fit(
      model,
      federation,
      test=(d.x_test, d.y_test),
      sampler=settings,
      rounds=2,
    ).history

  small = {'name': 'cpow_d', 'cohort_size': 3}
  assert history(**small) != history(**small, size_exponent=9.0)
  with pytest.raises(ValueError, match=r'cohort_size = 13 .*choose 1 to 12'):
    history(name='uniform', cohort_size=13)


WRONG = [
  (chosen('pow_dd'), ('sampler.name', "did you mean 'pow_d'")),
  (
    chosen('uniform', candidates=6),
    ("sampler.candidates = 6 is not read by sampler.name = 'uniform'",),
  ),
  (chosen('everyone'), ('sampler.cohort_size = 4 is not read', 'leave it out')),
  (chosen('divfl', gradients='all'), ('sampler.gradients', 'full, head')),
  (chosen('oort', cutoff=1.5), ('sampler.cutoff = 1.5', 'in [0, 1]')),
  (chosen('uniform', dropout=-0.1), ('sampler.dropout', 'in [0, 1]')),
]


@pytest.mark.parametrize(('config', 'parts'), WRONG)
def test_settings_that_are_refused(config, parts):
  with says(*parts):
    validate(config)


def test_what_does_not_fit_the_clients_is_refused():
  with says('sampler.candidates = 3 is less than', '= 4', '0 for all clients'):
    build.prepare(chosen('pow_d', candidates=3))
  with says('sampler.candidates = 11', '10 clients'):
    build.prepare(chosen('rpow_d', candidates=11))
  config = chosen('divfl')
  config.execution.data = 'host'
  with says('execution.data = host', "'divfl', which asks", 'device'):
    build.prepare(config)


def test_the_samplers_paper_is_named():
  assert any('Oort' in line for line in references(chosen('oort')))
