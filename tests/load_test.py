"""The model that a run leaves, against what the run said about it."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import saved
from fedjax_ls.train import train
from tests.messages_test import says
from tests.train_test import lines, tiny

DIGITS = fl.data.load('digits')


def accuracy(found, x=DIGITS.x_test, y=DIGITS.y_test) -> float:
  outputs, _ = found.model.apply(**found.variables, x=jnp.asarray(x))
  return float(found.model.metrics(outputs, jnp.asarray(y))['accuracy'].mean())


def forget_the_data(folder):
  """A run whose data cannot be read any more."""
  file = folder / 'config.json'
  content = json.loads(file.read_text())
  content['config']['data'] |= {'name': 'npz', 'path': 'gone.npz'}
  file.write_text(json.dumps(content))


def snapshot(folder):
  """All files and folders, and when they were last changed."""
  return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def trained(folder, method='fedavg', **fields):
  train(tiny(method, rounds=2, **fields), folder)
  return lines(folder)[-1]


@pytest.mark.parametrize('method', ['fedavg', 'fedexp'])
def test_it_is_the_model_that_was_judged(tmp_path, method):
  """Without the data; FedExP judges the mean of its last two models."""
  line = trained(tmp_path, method)
  forget_the_data(tmp_path)
  found = fl.load(tmp_path)
  assert accuracy(found) == pytest.approx(line['test/accuracy'], abs=1e-6)
  assert found.config.model.hidden == (8,)
  like, _ = found.model.init(jax.random.key(0))
  assert jax.tree.structure(like) == jax.tree.structure(
    found.variables['params']
  )


def test_narrow_networks_are_those_that_were_judged(tmp_path):
  """BatchNorm's statistics are those of the training examples."""
  line = trained(
    tmp_path,
    'heterofl',
    model__norm='bn',
    model__norm_affine=True,
    algorithm__rates=('1', '1/2'),
    algorithm__every_width=True,
    algorithm__query_batch=500,
  )
  assert accuracy(fl.load(tmp_path)) == pytest.approx(line['test/accuracy'])
  narrow = fl.load(tmp_path, tier=1)
  assert accuracy(narrow) == pytest.approx(line['test/accuracy@1/2'])
  assert narrow.variables['params']['dense0']['kernel'].shape == (64, 4)
  assert narrow.variables['stats']
  like, _ = narrow.model.init(jax.random.key(0))
  shapes = [
    jax.tree.map(np.shape, t) for t in (like, narrow.variables['params'])
  ]
  assert shapes[0] == shapes[1]
  with says('tier = 2', '0 to 1'):
    fl.load(tmp_path, tier=2)
  forget_the_data(tmp_path)
  with says('statistics', "data.path = 'gone.npz'"):
    fl.load(tmp_path)


def test_shallow_networks_are_those_that_were_judged(tmp_path):
  rates = ('1', '2/3')
  line = trained(
    tmp_path,
    'depthfl',
    model__hidden=(8, 8, 8),
    algorithm__rates=rates,
  )
  assert accuracy(fl.load(tmp_path)) == pytest.approx(line['test/accuracy'])
  shallow = fl.load(tmp_path, tier=1)
  assert accuracy(shallow) == pytest.approx(line['test/accuracy@2/3'])
  assert 'dense2' not in shallow.variables['params']


def test_an_ensemble_of_networks_is_loaded_whole(tmp_path):
  line = trained(tmp_path, 'splitmix')
  assert accuracy(fl.load(tmp_path)) == pytest.approx(line['test/accuracy'])
  with says('tier = 0', 'is an ensemble', 'leave the tier out'):
    fl.load(tmp_path, tier=0)


def test_a_cut_out_network_without_statistics_needs_no_data(tmp_path):
  trained(tmp_path, 'width', algorithm__rates=('1', '1/2'))
  forget_the_data(tmp_path)
  whole, narrow = fl.load(tmp_path), fl.load(tmp_path, tier=1)
  for name, small in saved.named(narrow.variables).items():
    large = saved.named(whole.variables)[name]
    np.testing.assert_array_equal(small, large[tuple(map(slice, small.shape))])
  assert 0 <= accuracy(narrow) <= 1


def test_a_run_of_an_earlier_version_reads_its_data(tmp_path):
  line = trained(tmp_path)
  file = tmp_path / 'config.json'
  content = json.loads(file.read_text())
  content['data'] = {'hash': content['data']['hash']}
  file.write_text(json.dumps(content))
  found = fl.load(tmp_path)
  assert accuracy(found) == pytest.approx(line['test/accuracy'], abs=1e-6)


def test_a_damaged_checkpoint_gives_way_and_nothing_is_changed(tmp_path):
  config = tiny(rounds=4)
  train(config, tmp_path)
  (tmp_path / 'checkpoints' / '6.orbax-checkpoint-tmp').mkdir()
  there = snapshot(tmp_path)
  newest = saved.named(fl.load(tmp_path).variables)
  assert snapshot(tmp_path) == there
  (tmp_path / 'checkpoints/4/record/metadata').write_text('?')
  with pytest.warns(UserWarning, match='round 4 .* is damaged'):
    before = saved.named(fl.load(tmp_path).variables)
  assert any((newest[name] != before[name]).any() for name in newest)


def test_what_is_no_run_is_named(tmp_path):
  with says('has no config.json', 'give the folder of a run'):
    fl.load(tmp_path / 'nothing')
  (tmp_path / 'points' / 'a').mkdir(parents=True)
  with says('is the folder of a study', 'points/a'):
    fl.load(tmp_path)
  trained(tmp_path / 'run')
  with says('tier = 0', 'leave the tier out'):
    fl.load(tmp_path / 'run', tier=0)
  with says('.npz or .safetensors'):
    saved.write({}, tmp_path / 'model.h5')


def test_the_command_writes_the_parameters(tmp_path):
  trained(tmp_path, 'width', algorithm__rates=('1', '1/2'))
  out = tmp_path / 'out' / 'model.npz'
  command = [sys.executable, '-m', 'experiments.export', f'--out={out}']
  done = subprocess.run(
    [*command, f'--workdir={tmp_path}', '--tier=1'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  expected = saved.named(fl.load(tmp_path, tier=1).variables)
  with np.load(out) as stored:
    assert set(stored) == set(expected)
    for name in expected:
      np.testing.assert_array_equal(stored[name], expected[name])
  total = 64 * 4 + 4 * 10
  assert f'{total} parameters' in done.stdout
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2
  assert '--workdir and --out are needed' in done.stderr


def test_safetensors_hold_the_same(tmp_path):
  numpy = pytest.importorskip('safetensors.numpy')
  kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
  variables = {'params': {'a': {'kernel': kernel}}, 'stats': {}}
  path = saved.write(variables, tmp_path / 'model.safetensors')
  (stored,) = numpy.load_file(path).items()
  assert stored[0] == 'params/a/kernel'
  np.testing.assert_array_equal(stored[1], kernel)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'safetensors.numpy', None)
  with says('needs the package safetensors', 'fedjax_ls[safetensors]'):
    saved.write({'params': {'a': np.zeros(1)}}, tmp_path / 'm.safetensors')
  assert list(tmp_path.iterdir()) == []
