"""Each bad input gets one sentence: the field, its value and the fix."""

import contextlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import fedjax_ls as fl
from experiments import commandline
from fedjax_ls import config as config_lib
from fedjax_ls import validate as validate_lib
from fedjax_ls.train import train
from tests.config_test import example

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = f'--config={ROOT}/configs/digits.py'


@contextlib.contextmanager
def says(*parts: str):
  """The block raises a ConfigError of one line that holds all parts."""
  with pytest.raises(fl.ConfigError) as caught:
    yield
  message = str(caught.value)
  assert '\n' not in message
  for part in parts:
    assert part in message


WRONG = [
  ('seed', -1, 'choose 0 to 4294967295'),
  ('train_seed', -2, '-1 to follow seed'),
  ('rounds', 0, 'choose 1 or more'),
  ('rounds', 2.5, 'whole number'),
  ('rounds', True, 'whole number'),
  ('eval_every', 0, 'choose 1 or more'),
  ('data.name', 'digit', "did you mean 'digits'?"),
  ('data.validation', 1.0, '[0, 1)'),
  ('data.validation', float('nan'), 'finite number'),
  ('partition.kind', 'dirichlt', "did you mean 'dirichlet'?"),
  ('partition.num_clients', 0, 'choose 1 or more'),
  ('partition.alpha', 0.0, 'above 0'),
  ('partition.min_size', 0, 'choose 1 or more'),
  ('model.name', 'mpl', "did you mean 'mlp'?"),
  ('model.norm', 'lm', "did you mean 'ln'?"),
  ('model.norm_where', 'reduced', 'norm = ln'),
  ('model.hidden', (), 'one or more sizes'),
  ('model.hidden', (8, 0), 'one or more sizes'),
  ('model.feature', 200, '192 or 384'),
  ('model.loss', 'hinge', 'did you mean'),
  ('client.learning_rate', 0.0, 'above 0'),
  ('client.learning_rate', -0.1, 'above 0'),
  ('client.learning_rate', '0.1', 'finite number'),
  ('client.learning_rate', float('inf'), 'finite number'),
  ('client.schedule', 'cosin', "did you mean 'cosine'?"),
  ('client.schedule', 'cosine', 'client.horizon'),
  ('client.schedule', 'step', 'client.milestones'),
  ('client.milestones', (5, 3), 'ascending'),
  ('client.optimizer', 'Adam', "did you mean 'adam'?"),
  ('client.momentum', 1.0, '[0, 1)'),
  ('client.batch_size', 0, 'choose 1 or more'),
  ('client.unit', 'epoch', "did you mean 'epochs'?"),
  ('client.amount', -3, 'choose 1 or more'),
  ('client.clip', 1, 'truth value'),
  ('client.clip_norm', 0.0, 'above 0'),
  ('client.last_batch', 'drop', "did you mean 'dropped'?"),
  ('server.optimizer', 'fedadam', "did you mean 'adam'?"),
  ('server.learning_rate', 0.0, 'above 0'),
  ('server.weights', 'sizes', "did you mean 'size'?"),
  ('sampler.name', 'unifrom', "did you mean 'uniform'?"),
  ('execution.conv', 'im2col', 'did you mean'),
  ('execution.chunk', -1, 'choose 0 or more'),
  ('execution.precision', 'float16', 'did you mean'),
  ('writers.progress', 'on', 'did you mean'),
  ('writers.keep', 0, 'choose 1 or more'),
]


@pytest.mark.parametrize(('field', 'value', 'fix'), WRONG)
def test_wrong_value(field, value, fix):
  config = example()
  config_lib.set_field(config, field, value)
  with says(field, repr(value), fix):
    validate_lib.validate(config)


def test_wrong_element_of_a_tuple():
  config = example()
  config.model.hidden = (8, 'x')
  with says("model.hidden = 'x'", 'whole number'):
    validate_lib.validate(config)


def test_wrong_algorithm_settings():
  with says('algorithm', 'fedjax_ls.algorithms.find'):
    validate_lib.validate(fl.Config(algorithm='scaffold'))


def test_cohort_larger_than_population():
  config = example()
  config.sampler = config_lib.Sampler('uniform', 11)
  with says('sampler.cohort_size = 11', 'partition.num_clients = 10'):
    validate_lib.validate(config)
  config.partition.kind = 'natural'
  with says('sampler.cohort_size = 11', '3 clients', 'choose 1 to 3'):
    validate_lib.check_data(config, [5, 5, 5], False)


def test_batch_larger_than_the_smallest_client():
  config = example()
  config.client.last_batch = 'dropped'
  with says('client.batch_size = 32', '7 rows', 'client.last_batch = masked'):
    validate_lib.check_data(config, [50, 7], False)


@pytest.mark.parametrize(
  ('loss', 'float_targets', 'fix'),
  [
    ('cross_entropy', True, 'use squared_error'),
    ('squared_error', False, 'use cross_entropy'),
  ],
)
def test_loss_that_does_not_fit_the_targets(loss, float_targets, fix):
  config = example()
  config.model.loss = loss
  with says('model.loss', loss, fix):
    validate_lib.check_data(config, [50], float_targets)


def test_unknown_field_of_a_stored_configuration():
  with says("'client.learning_rat'", "'client.learning_rate'"):
    config_lib.from_dict({'client': {'learning_rat': 0.1}})


BUILDS = [
  ('partition.num_clients', 2000, ('2000', '1437 train rows')),
  ('partition.classes_per_client', 11, ('11', '10 classes', '1..10')),
  ('execution.devices', 99, ('execution.devices = 99', '0 for all')),
  ('model.name', 'cnn', ('images', '16 x 16')),
  ('data.name', 'npz', ('data.path',)),
  ('partition.kind', 'natural', ('natural', 'client ids')),
]


@pytest.mark.parametrize(('field', 'value', 'parts'), BUILDS)
def test_what_does_not_fit_the_data(tmp_path, field, value, parts):
  config = example()
  config_lib.set_field(config, field, value)
  with says(*parts):
    train(config, tmp_path)
  assert not (tmp_path / 'config.json').exists()


def test_missing_data_file(tmp_path):
  config = example()
  config.data = config_lib.Data('npz', str(tmp_path / 'none.npz'))
  with says('data.path', 'none.npz', 'does not exist'):
    train(config, tmp_path)


def test_rate_above_one(tmp_path):
  config = example('width')
  config.algorithm.rates = ('1', '3/2')
  with says('rates[1]', '3/2', '(0, 1]'):
    train(config, tmp_path)


def test_unknown_option_of_a_method(tmp_path):
  config = example('scaffold')
  config.algorithm.option = 'III'
  with says('algorithm.option', "'III'", 'local_steps or gradient'):
    train(config, tmp_path)


def test_workdir_that_is_a_file(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  with says('--workdir', str(file), 'give a folder'):
    train(example(), file)


def test_workdir_of_another_run(tmp_path):
  before = example()
  before.client.learning_rate = 0.3
  tree = {'config': config_lib.to_dict(before)}
  (tmp_path / 'config.json').write_text(json.dumps(tree))
  with says('client.learning_rate = 0.1', '0.3', 'another --workdir'):
    train(example(), tmp_path)


def test_workdir_whose_configuration_is_damaged(tmp_path):
  (tmp_path / 'config.json').write_text('{')
  with says('config.json', 'another --workdir'):
    train(example(), tmp_path)


ARGUMENTS = [
  ([], ('--config is missing', 'configs/FILE.py')),
  (['--workdir=w'], ('--config is missing',)),
  ([DIGITS], ('--workdir is missing', '--workdir=runs/first')),
  (
    [f'--config={ROOT}/configs/digit.py', '--workdir=w'],
    ('does not exist', 'did you mean', 'configs/digits.py'),
  ),
  ([DIGITS + ':scafold', '--workdir=w'], ("'scafold'", "mean 'scaffold'")),
  (
    [DIGITS, '--workdir=w', '--config.client.learning_rat=0.1'],
    ("'client.learning_rat'", "mean 'client.learning_rate'?"),
  ),
  (
    [DIGITS, '--workdir=w', '--config.model=mlp'],
    ("'model' is a group", 'model.norm'),
  ),
  (
    [DIGITS, '--workdir=w', '--config.algorithm.mu=1'],
    ("'algorithm.mu'", 'FILE.py:METHOD'),
  ),
  (
    [DIGITS, '--workdir=w', '--config.rounds=abc'],
    ('--config.rounds=abc', 'whole number', '--config.rounds=200'),
  ),
  (
    [DIGITS, '--workdir=w', '--config.rounds', '2.5'],
    ('--config.rounds=2.5', 'whole number'),
  ),
  (
    [DIGITS, '--workdir=w', '--config.client.learning_rate=fast'],
    ('--config.client.learning_rate=fast', 'number'),
  ),
  (
    [DIGITS, '--workdir=w', '--config.client.clip=perhaps'],
    ('--config.client.clip=perhaps', 'truth value'),
  ),
  ([DIGITS, '--workdir=w', '--rounds=3'], ('--rounds', '--config.rounds?')),
  ([DIGITS, '--workdri=w'], ('--workdri', 'mean --workdir?')),
  ([DIGITS, '--workdir=w', 'rounds=3'], ("'rounds=3'", 'no flag')),
  (
    [DIGITS, '--workdir=w', '--config.client.clip', 'false'],
    ("'false'", 'no flag'),
  ),
  (
    [DIGITS, '--noconfig.client.clip', 'x', '--workdir=w'],
    ("'x'", 'no flag'),
  ),
  (
    [DIGITS, '--workdir=w', '--config.algorithm=ifca'],
    ('--config.algorithm=ifca', '--config=FILE.py:ifca'),
  ),
]


@pytest.mark.parametrize(('arguments', 'parts'), ARGUMENTS)
def test_wrong_command_line(arguments, parts):
  import experiments.run  # noqa: F401  defines the flags

  with says(*parts):
    commandline.check(arguments)


def test_values_may_follow_a_space_and_truth_values_stand_alone():
  import experiments.run  # noqa: F401

  commandline.check(
    ['--config', DIGITS.removeprefix('--config='), '--workdir', 'w']
    + [
      '--config.client.clip',
      '--config.rounds',
      '3',
      '--noconfig.writers.plots',
    ]
  )


def test_arguments_that_absl_leaves_are_refused(capsys):
  with pytest.raises(SystemExit):
    commandline.refuse_arguments(['run', '5'])
  assert "'5' is no flag" in capsys.readouterr().err


@pytest.mark.parametrize(
  ('text', 'parts'),
  [
    ('x = 1', ('get_config', 'define')),
    ('def get_config(m=0):\n  return 1 / 0', ('line 2', 'ZeroDivision')),
    ('def get_config(m=0): return {}', ('dict', 'fedjax_ls.Config')),
    ('def get_config(', ('SyntaxError',)),
  ],
)
def test_config_file_that_fails(tmp_path, text, parts):
  file = tmp_path / 'config.py'
  file.write_text(text)
  with says(str(file), *parts):
    commandline.load(str(file))


@pytest.mark.parametrize(
  ('arguments', 'status', 'message'),
  [
    (['--config.rounds=abc'], 2, 'error: --config.rounds=abc is no whole'),
    (['--config.client.amount=0'], 2, 'error: client.amount = 0 is out of'),
    (
      ['--config.client.learning_rate=1e20', '--config.writers.plots=false'],
      1,
      'error: the run diverged by round 10: ',
    ),
  ],
)
def test_process_prints_one_sentence(tmp_path, arguments, status, message):
  command = [sys.executable, '-m', 'experiments.run', DIGITS]
  command += [f'--workdir={tmp_path}', *arguments]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == status
  assert done.stderr.startswith(message), done.stderr
  assert done.stderr.count('\n') == 1


def test_fit_names_what_is_missing():
  x = np.ones((4, 2), np.float32)
  y = np.array([0, 1, 0, 1])
  federation = fl.federate(x, y, [[0, 1], [2, 3]])
  model = fl.flax_model(fl.MLP(2, hidden=(3,)), x[:1])
  with pytest.raises(ValueError, match='give submodels='):
    fl.fit(model, federation, test=(x, y), method='width')
  with pytest.raises(ValueError, match='rows of each client'):
    fl.fit(model, federation, test=(x, y), method='ifca')
  with pytest.raises(ValueError, match='neither a name nor'):
    fl.fit(model, federation, test=(x, y), method=3)
  with pytest.raises(ValueError, match="did you mean 'fedavg'"):
    fl.fit(model, federation, test=(x, y), method='fedavgg')
