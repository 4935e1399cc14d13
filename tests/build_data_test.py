"""From a configuration to who trains on what, and the command that shows it."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import build, config, data
from fedjax_ls.data import augment
from fedjax_ls.samples import read
from fedjax_ls.validate import validate


def _config(**groups):
  settings = {
    'partition': config.Partition('dirichlet', num_clients=6, alpha=1.0),
    'client': fl.Client(learning_rate=0.1, batch_size=8, amount=1),
    'model': config.Model(hidden=(8,)),
  }
  return validate(fl.Config(**settings | groups))


def _images(tmp_path, name='images.npz'):
  rng = np.random.RandomState(0)
  path = str(tmp_path / name)
  np.savez(
    path,
    x_train=rng.randint(0, 256, (120, 6, 6, 3)).astype(np.uint8),
    y_train=np.arange(120) % 3,
    x_test=rng.randint(0, 256, (30, 6, 6, 3)).astype(np.uint8),
    y_test=np.arange(30) % 3,
  )
  return path


def test_groups_turn_train_test_and_validation_alike(tmp_path):
  source = config.Data('npz', _images(tmp_path), validation=0.2)
  shape = {'kind': 'iid', 'num_clients': 6}
  plain = read(_config(data=source, partition=config.Partition(**shape)))
  turned = read(
    _config(
      data=source,
      partition=config.Partition(**shape, transform='rotation', num_groups=2),
    )
  )
  assert turned.partition.hash == plain.partition.hash
  assert np.bincount(turned.group).tolist() == [3, 3]
  assert set(turned.tests) == {'test', 'validation'}
  half = (slice(None), slice(None, None, -1), slice(None, None, -1))
  for client, group in enumerate(turned.group):
    pairs = [
      (
        turned.dataset.x_train[turned.partition.train[client]],
        plain.dataset.x_train[plain.partition.train[client]],
      )
    ]
    for name, (held, rows) in turned.tests.items():
      before, same_rows = plain.tests[name]
      np.testing.assert_array_equal(rows[client], same_rows[client])
      pairs.append((held.x_test[rows[client]], before.x_test[rows[client]]))
    for after, before in pairs:
      np.testing.assert_array_equal(after, before[half] if group else before)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_shrunk_images_are_means_of_squares(dtype):
  x = np.random.RandomState(0).randint(0, 256, (3, 4, 6, 2)).astype(dtype)
  whole = data.load('digits')._replace(x_train=x, x_test=x[:1])
  small = data.shrink(whole, 2)
  assert small.x_train.shape == (3, 2, 3, 2)
  assert small.x_train.dtype == small.x_test.dtype == dtype
  mean = x[1, 2:4, 4:6, 1].astype(float).mean()
  expected = np.rint(mean) if dtype == np.uint8 else mean
  assert small.x_train[1, 1, 2, 1] == expected
  np.testing.assert_array_equal(small.x_test, small.x_train[:1])
  assert data.shrink(whole, 1) is whole


def test_a_run_on_shrunk_images():
  job = build.prepare(_config(data=config.Data(shrink=4))).job
  assert (
    job.federation.x.shape[1:] == job.tests['test'].x.shape[1:] == (2, 2, 1)
  )


def test_a_partition_file_makes_the_same_clients(tmp_path):
  made = read(_config()).partition
  made.save(str(tmp_path / 'clients.npz'))
  partition = config.Partition('file', path=str(tmp_path / 'clients.npz'))
  assert read(_config(partition=partition)).partition.hash == made.hash


def test_synthetic_clients_are_natural():
  samples = read(
    _config(
      data=config.Data('synthetic:iid'),
      partition=config.Partition('natural', num_clients=7),
    )
  )
  assert len(samples.partition.train) == 7
  assert samples.dataset.num_classes == 10


def test_tiers_follow_the_sizes():
  experiment = build.prepare(
    _config(
      algorithm=fl.algorithms.find('width').settings(rates=('1', '1/2')),
      tiers=config.Tiers('by_size', (1.0, 2.0)),
      model=config.Model(hidden=(8, 8)),
    )
  )
  federation = experiment.job.federation
  largest = set(np.argsort(-np.asarray(federation.size))[:2].tolist())
  assert set(np.flatnonzero(federation.tier == 0).tolist()) == largest


def test_images_are_varied_in_training_only():
  vary, scale = augment.augment(1, True), augment.normalize([0.5], [0.25])
  model = fl.flax_model(
    nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(2)]),
    np.zeros((1, 4, 4, 1), np.uint8),
    preprocess=scale,
    augment=vary,
  )
  params, stats = model.init(jax.random.key(0))
  x = jnp.asarray(np.random.RandomState(0).randint(0, 256, (5, 4, 4, 1)))
  x, key = x.astype(jnp.uint8), jax.random.key(1)

  def logits(x, **options):
    return model.apply(params, stats, x, **options)[0].logits

  assert model.augment is vary
  np.testing.assert_array_equal(logits(x, key=key), logits(x))
  dense = jax.tree.map(np.asarray, next(iter(params.values())))
  scaled = (np.asarray(x) / 255 - 0.5) / 0.25
  np.testing.assert_allclose(
    logits(x),
    scaled.reshape(5, -1) @ dense['kernel'] + dense['bias'],
    rtol=1e-5,
    atol=1e-5,
  )


def test_a_run_with_crops_flips_and_normalization(tmp_path):
  images = config.Data(
    'npz',
    _images(tmp_path),
    crop_padding=1,
    flip=True,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
  )
  experiment = build.prepare(_config(data=images))
  model = experiment.job.model
  params, stats = model.init(jax.random.key(0))
  x = experiment.job.federation.x[:4]
  outputs = [
    model.apply(params, stats, model.augment(jax.random.key(s), x))[0].logits
    for s in (0, 0, 1)
  ]
  np.testing.assert_array_equal(outputs[0], outputs[1])
  assert (outputs[0] != outputs[2]).any()


BAD = {
  r"data\.name = 'tdfs' is unknown; did you mean 'tfds'": {
    'data': config.Data('tdfs:mnist')
  },
  r"data\.target = 'next' is unknown": {'data': config.Data(target='next')},
  r'data\.sequence_length = 0 is out of range': {
    'data': config.Data(sequence_length=0)
  },
  r'data\.shrink = 0 is out of range': {'data': config.Data(shrink=0)},
  r"data\.name = 'leaf' needs data\.path.*a folder with train and test": {
    'data': config.Data('leaf')
  },
  r'data\.mean has 1 numbers and data\.std 0': {
    'data': config.Data(mean=(0.5,))
  },
  r'data\.std = \(0\.0,\) is out of range': {
    'data': config.Data(mean=(0.5,), std=(0.0,))
  },
  r'partition\.iid_share = 2\.0 is out of range': {
    'partition': config.Partition('shards', iid_share=2.0)
  },
  r"partition\.kind = 'file' needs partition\.path": {
    'partition': config.Partition('file')
  },
  r"partition\.kind = 'file' counts all train rows but data\.validation": {
    'partition': config.Partition('file', path='x.npz'),
    'data': config.Data(validation=0.1),
  },
  r"partition\.transform = 'none' does not go with .*num_groups = 2": {
    'partition': config.Partition(num_groups=2)
  },
  r"tiers\.kind = 'size' is unknown": {'tiers': config.Tiers('size')},
  r'tiers\.proportions = \(1\.0, -1\.0\) is out of range': {
    'tiers': config.Tiers(proportions=(1.0, -1.0))
  },
}


@pytest.mark.parametrize('message', BAD)
def test_settings_get_one_sentence(message):
  with pytest.raises(fl.ConfigError, match=message):
    _config(**BAD[message])


UNFIT = {
  r'data\.shrink = 3 does not divide images of 8 x 8; choose a divisor': {
    'data': config.Data(shrink=3)
  },
  r'data\.shrink = 2 needs images .* but samples have shape \[60\]': {
    'data': config.Data('synthetic', shrink=2)
  },
  r'sampler\.tiers = \(0, 1\) has 1 but tiers are 0 to 0': {
    'sampler': fl.Sampler(tiers=(0, 1))
  },
  r'channels = \(8,\) are for 1 stages but the network has 4': {
    'model': config.Model('resnet18', channels=(8,))
  },
  r'tiers\.proportions = \(1\.0, 1\.0\) has 2 shares for 1 tiers': {
    'tiers': config.Tiers(proportions=(1.0, 1.0))
  },
  r'data\.mean has 2 numbers for 1 channels': {
    'data': config.Data(mean=(0.5, 0.5), std=(1.0, 1.0))
  },
  r'need images \[H, W, C\] but samples have shape \[60\]': {
    'data': config.Data('synthetic', flip=True)
  },
}


@pytest.mark.parametrize('message', UNFIT)
def test_settings_that_do_not_fit_the_data_get_one_sentence(message):
  with pytest.raises(fl.ConfigError, match=message):
    build.prepare(_config(**UNFIT[message]))


def _command(*arguments):
  command = [sys.executable, '-m', 'experiments.partition']
  command += ['--config=configs/digits.py', *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_a_table_and_writes_the_partition(tmp_path):
  done = _command(
    '--config.partition.classes_per_client=2', f'--out={tmp_path}/out'
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0].split() == ['client', 'rows', 'classes', 'effective', 'TV']
  assert [line.split()[2] for line in lines[1:11]] == ['2'] * 10
  dataset = data.load('digits')
  expected = data.classes(dataset.y_train, 10, 2, 0, dataset.y_test)
  assert f'hash {expected.hash[:12]}' in lines
  folder = tmp_path / 'out'
  assert (folder / 'partition.png').read_bytes()[:4] == b'\x89PNG'
  saved = data.Partition.load(str(folder / 'partition.npz'))
  assert saved.hash == expected.hash
  rows = json.loads((folder / 'partition.json').read_text())
  assert rows['3'] == expected.train[3].tolist()


def test_the_command_says_what_is_wrong():
  done = _command('--config.partition.num_clients=5000')
  assert done.returncode == 2
  assert done.stderr.startswith('error: partition.num_clients = 5000 is imposs')
  assert done.stderr.count('\n') == 1
