"""Each bad input gets one sentence: the field, its value and the fix."""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys

import flax.linen as nn
import numpy as np
import pytest

import fedjax_ls as fl
from experiments import commandline
from fedjax_ls import config as config_lib
from fedjax_ls import unread
from fedjax_ls import validate as validate_lib
from fedjax_ls.train import train
from fedjax_ls.writers import Folder
from tests.config_test import example
from tests.train_test import tiny

ROOT = pathlib.Path(__file__).parent.parent
METHODS = fl.algorithms.METHODS
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
  ('model.hidden', (8, 0), 'sizes of at least 1'),
  ('model.projector', (8, 0), 'sizes of at least 1'),
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
  ('uplink.links', ('qsdg',), 'choose from clip'),
  ('uplink.clip_norm', 0.0, 'above 0'),
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


@pytest.mark.parametrize('field', unread.REFUSED)
def test_a_value_that_nothing_reads(field):
  decides, readers = unread.REFUSED[field]
  kind, default = config_lib.leaves(fl.Config())[field]
  config = example()
  text = 'code' if 'scale' in field else 'last'
  other = {bool: not default, str: text, int: 3, float: 0.25}
  value = other.get(kind, (3,))
  config_lib.set_field(config, field, value)
  with says(f'{field} = {value!r} is not read with {decides} = ', 'leave it'):
    validate_lib.validate(config)
  kind, before = config_lib.leaves(config)[decides]
  reader = readers[0] if type(before) is not tuple else (readers[0],)
  config_lib.set_field(config, decides, reader)
  unread.check(config)


def test_numbers_of_another_partition_are_told(tmp_path, capsys):
  config = tiny(rounds=2, partition__alpha=0.5)
  train(config, tmp_path)
  assert 'partition.alpha = 0.5 is not read' in capsys.readouterr().out


@pytest.mark.parametrize('field', unread.TOLD)
def test_studies_may_set_a_number_for_some_of_their_lines(field):
  config = example()
  config.partition.kind = 'iid'
  default = config_lib.leaves(config)[field][1]
  config_lib.set_field(config, field, 'x' if default == '' else 0.25)
  (note,) = unread.notes(config)
  assert note.startswith(f'{field} = ')


GROUPS = [
  (field.name, field.type)
  for field in dataclasses.fields(fl.Config)
  if dataclasses.is_dataclass(field.type)
]


@pytest.mark.parametrize(('group', 'kind'), GROUPS)
@pytest.mark.parametrize(
  ('value', 'given'),
  [(None, 'None'), (lambda x: x, "function '<lambda>'"), ({}, 'a dict')],
)
def test_something_else_in_the_place_of_a_group(group, kind, value, given):
  parts = f'{group} is given', given, f'{kind.__module__}.{kind.__name__}(...)'
  with says(*parts):
    validate_lib.validate(fl.Config(**{group: value}))


def test_cohort_larger_than_population():
  config = example()
  config.sampler = config_lib.Sampler('uniform', 11)
  with says('sampler.cohort_size = 11', 'partition.num_clients = 10'):
    validate_lib.validate(config)
  config.partition.kind = 'natural'
  with says('sampler.cohort_size = 11', '3 clients', 'choose 1 to 3'):
    validate_lib.check_data(config, [50, 50, 50], False)


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


@pytest.mark.parametrize('rate', ['1/0', 'abc', '0', '-1/2'])
def test_rate_that_is_no_share(rate):
  config = example('width')
  config.algorithm.rates = ('1', rate)
  with says('algorithm.rates[1]', repr(rate), 'such as 1/2'):
    validate_lib.validate(config)


def test_number_of_a_method_out_of_range():
  config = example('fedga')
  config.algorithm.beta = -0.5
  with says('algorithm.beta = -0.5', 'choose 0 or more'):
    validate_lib.validate(config)


def archive(tmp_path, **arrays) -> fl.Config:
  """A run on a small file of its own."""
  x = np.ones((20, 3), np.float32)
  y = np.arange(20) % 2
  arrays = {'x_train': x, 'y_train': y, 'x_test': x, 'y_test': y, **arrays}
  np.savez(tmp_path / 'data.npz', **arrays)
  config = example()
  config.data = config_lib.Data('npz', str(tmp_path / 'data.npz'))
  config.partition = config_lib.Partition('iid', 2)
  config.client.batch_size = 4
  return config


def test_several_labels_a_row(tmp_path):
  y = np.zeros((20, 4), int)
  config = archive(tmp_path, y_train=y, y_test=y)
  with says('logits [1]', 'labels are [4]'):
    train(config, tmp_path)


def test_clients_with_models_of_their_own_need_test_rows(tmp_path):
  config = archive(tmp_path, client_train=np.arange(20) % 2)
  config.algorithm = METHODS['ifca'].settings()
  config.partition.kind = 'natural'
  with says("method 'ifca'", 'no client has test rows'):
    train(config, tmp_path)


def test_batch_larger_than_all_clients_together(tmp_path):
  config = archive(tmp_path)
  config.client.batch_size = 21
  with says('client.batch_size = 21', 'more than the 20 rows', 'choose 10'):
    train(config, tmp_path)


def test_depths_of_a_network_without_stages(tmp_path):
  config = example('depthfl')
  config.model.hidden = ()
  with says('model.hidden = ()', 'depthfl', 'give the sizes'):
    train(config, tmp_path)


def test_norm_of_a_network_without_hidden_layers():
  config = example()
  config.model.hidden = ()
  validate_lib.validate(config)
  config.model.norm = 'ln'
  with says("model.norm = 'ln'", 'model.hidden = ()', 'use none or give'):
    validate_lib.validate(config)


def test_unknown_option_of_a_method(tmp_path):
  config = example('scaffold')
  config.algorithm.option = 'III'
  with says('algorithm.option', "'III'", 'local_steps or gradient'):
    train(config, tmp_path)


def test_workdir_that_is_a_file(tmp_path):
  file = tmp_path / 'file'
  file.touch()
  with says(f'workdir = {file}', 'give a folder'):
    train(example(), file)


def test_workdir_of_another_run(tmp_path):
  before = example()
  before.client.learning_rate = 0.3
  tree = {'config': config_lib.to_dict(before)}
  tree |= {'resolved': {}, 'data': {}, 'partition': {}}
  (tmp_path / 'config.json').write_text(json.dumps(tree))
  with says('client.learning_rate = 0.1', '0.3', 'another workdir'):
    train(example(), tmp_path)


@pytest.mark.parametrize('text', ['{', '{}', '[]', '{"config": 3}'])
def test_workdir_whose_configuration_is_damaged(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with says('config.json', 'another workdir'):
    train(example(), tmp_path)


def test_workdir_without_its_configuration(tmp_path):
  train(tiny(rounds=2), tmp_path)
  (tmp_path / 'config.json').unlink()
  with says(str(tmp_path), 'no config.json', 'another workdir'):
    train(tiny(rounds=4), tmp_path)


def test_workdir_without_its_results(tmp_path):
  train(tiny(rounds=2), tmp_path)
  (tmp_path / 'metrics.jsonl').unlink()
  for rounds in (2, 4):
    with says('metrics.jsonl has 0 bytes', 'another workdir'):
      train(tiny(rounds=rounds), tmp_path)


def test_workdir_in_use(tmp_path):
  folder = Folder(tmp_path)
  with folder.locked(), says(str(tmp_path), 'in use by another process'):
    train(tiny(), tmp_path)
  train(tiny(rounds=2), tmp_path)


def test_other_data_under_the_same_partition(tmp_path):
  config = archive(tmp_path)
  config.rounds, config.writers.plots = 2, False
  train(config, tmp_path)
  archive(tmp_path, x_test=np.full((20, 3), 2, np.float32))
  config.rounds = 4
  with says('the data has hash', 'the data changed', 'another workdir'):
    train(config, tmp_path)


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
  ([DIGITS, '--workdir=w', '--'], ("'--'", 'no flag')),
  ([DIGITS, '--workdir=w', '--', 'x'], ("'--'", 'no flag')),
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
    [
      *('--config', DIGITS.removeprefix('--config='), '--workdir', 'w'),
      *('--config.client.clip', '--config.rounds', '3'),
      '--noconfig.writers.plots',
    ]
  )


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


@pytest.mark.parametrize(
  ('command', 'message'),
  [
    (
      'spectra --workdirs=w --out=x.png',
      'flag --workdirs is unknown; did you mean --workdir?',
    ),
    (
      'spectra --workdir=w --out=x.png --round=last',
      "flag --round=last: invalid literal for int() with base 10: 'last'",
    ),
    ('export w', "argument 'w' is no flag; write --FLAG=VALUE, and values"),
    ('gradalign --', "argument '--' is no flag; write --FLAG=VALUE, and"),
    ('recovery --workdir=w', 'w holds no points of a study and no run; give'),
  ],
)
def test_a_command_without_a_configuration(command, message):
  done = subprocess.run(
    [sys.executable, '-m', *f'experiments.{command}'.split()],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.returncode == 2
  assert done.stderr.startswith(f'error: {message}'), done.stderr
  assert done.stderr.count('\n') == 1


X = np.ones((4, 2), np.float32)
Y = np.array([0, 1, 0, 1])


def fit(model=None, tier=None, test=(X, Y), y=Y, **arguments):
  federation = fl.federate(X, y, [[0, 1, 2], [3]], tier=tier)
  model = model or fl.flax_model(fl.MLP(2, hidden=(4,)), X[:1])
  return fl.fit(model, federation, test=test, **arguments)


FITS = [
  ({'method': 'width'}, 'give submodels='),
  ({'method': 'ifca'}, 'rows of each client'),
  ({'method': 'ifca', 'test': (X, Y, [[], []])}, 'no client has test rows'),
  ({'method': 3}, 'the method, algorithm, is given 3; give settings'),
  ({'client': fl.Server()}, 'client is given a Server; give settings'),
  ({'server': {}}, r'server is given a dict; .* fedjax_ls.hyper.Server\('),
  ({'sampler': lambda *a: a}, r'given a function .*SamplerFunctions\('),
  ({'execution': fl.config.Execution()}, 'fedjax_ls.types.Execution'),
  ({'fine_tune': 2}, 'fine_tune = 2 judges .* rows of each client'),
  ({'attack': fl.Attack('lie')}, "attack.kind = 'lie' is unknown"),
  (
    {
      'method': 'ifca',
      'test': (X, Y, [[0, 1], [2, 3]]),
      'server': fl.Server(reduction='krum', weights='uniform'),
    },
    "server.reduction = 'krum' does not fit method ifca, which",
  ),
  ({'method': 'fedavgg'}, "did you mean 'fedavg'"),
  ({'method': METHODS['fedga'].settings(beta=-1)}, 'algorithm.beta = -1.0'),
  ({'method': METHODS['ifca'].settings(clusters=0)}, 'choose 1 or more'),
  ({'client': fl.Client(learning_rate=0.0)}, 'client.learning_rate = 0.0'),
  ({'client': fl.Client(amount=0)}, 'client.amount = 0'),
  ({'client': fl.Client(schedule='cosine')}, 'client.horizon'),
  ({'client': fl.Client(unit='epoch')}, "did you mean 'epochs'?"),
  (
    {'client': fl.Client(batch_size=2, last_batch='dropped')},
    '1 rows of the smallest client',
  ),
  ({'server': fl.Server(learning_rate=0)}, 'server.learning_rate = 0.0'),
  ({'server': fl.Server(optimizer='adm')}, "did you mean 'adam'?"),
  ({'rounds': 0}, 'rounds = 0'),
  ({'eval_every': 0}, 'eval_every = 0'),
  ({'execution': fl.Execution(chunk=0)}, 'execution.chunk = 0'),
  ({'sampler': fl.samplers.uniform(3)}, 'cohort_size = 3 .*choose 1 to 2'),
  (
    {'model': fl.flax_model(fl.MLP(3, hidden=(4,)), X[:1])},
    'the model has 3 outputs but the data 2 classes',
  ),
  (
    {'model': fl.flax_model(nn.Sequential([nn.relu]), X[:1])},
    'the model has no parameters',
  ),
  (
    {'y': np.stack([Y, Y], 1), 'test': (X, np.stack([Y, Y], 1))},
    r'logits \[2\] an example but its labels are \[2\]',
  ),
  (
    {
      'y': Y + 0.5,
      'test': (X, Y + 0.5),
      'model': fl.flax_model(
        fl.MLP(2, hidden=(4,)), X[:1], loss='squared_error'
      ),
    },
    r'gives \[2\] outputs an example but the targets are \[\]',
  ),
]


@pytest.mark.parametrize(('arguments', 'message'), FITS)
def test_fit_names_what_is_wrong(arguments, message):
  with pytest.raises(ValueError, match=message) as caught:
    fit(**arguments)
  assert '\n' not in str(caught.value)


def test_fit_compares_rates_and_tiers_with_the_submodels():
  net = fl.MLP(2, hidden=(4,))
  submodels = fl.width_submodels(net, X[:1], ['1', '0.5'])
  arguments = {'submodels': submodels, 'rounds': 1, 'eval_every': 1}
  width = METHODS['width'].settings
  with pytest.raises(ValueError, match=r"submodels have \('1', '1/2'\)"):
    fit(method=width(rates=('1', '1/4')), **arguments)
  with pytest.raises(ValueError, match=r'client 1 has tier 2 but .* 2 rates'):
    fit(method=width(rates=('1', '1/2')), tier=[0, 2], **arguments)
  assert fit(method=width(rates=('1', '1/2')), tier=[0, 1], **arguments)


def test_fit_takes_numbers_of_numpy():
  result = fit(
    client=fl.Client(learning_rate=np.float32(0.1), amount=np.int64(1)),
    rounds=1,
  )
  assert result.history[-1]['round'] == 1
