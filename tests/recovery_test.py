"""Clusters that a run found against the groups that were planted."""

import shutil

import numpy as np
import pytest

from experiments import recovery
from fedjax_ls import build, study
from fedjax_ls.checkpoint import Checkpoints
from fedjax_ls.train import train
from tests.messages_test import says
from tests.train_test import tiny


def losses(arrays, x, y):
  """Cross-entropy of each of the models of a checkpoint, `[M]`."""
  by_name = {k.split("['")[-2][:-2]: v for k, v in arrays.items()}
  x = x.reshape(len(x), -1)
  hidden = np.maximum(np.einsum('nd,mdh->mnh', x, by_name['dense0']), 0)
  logits = np.einsum('mnh,mhy->mny', hidden, by_name['classifier'])
  logits -= logits.max(2, keepdims=True)
  log_p = logits - np.log(np.exp(logits).sum(2, keepdims=True))
  return -log_p[:, np.arange(len(y)), y].mean(1)


def test_clusters_are_those_of_the_last_checkpoint(tmp_path):
  config = tiny(
    'ifca', rounds=2, eval_every=2, partition__kind='iid',
    partition__num_clients=5, partition__transform='rotation',
    partition__num_groups=2, model__hidden=(6,), model__norm='none',
    algorithm__clusters=3,
  )  # fmt: skip
  train(config, tmp_path)
  (record,) = study.read(tmp_path)
  found, planted = recovery.clusters(record)
  experiment = build.prepare(config)
  np.testing.assert_array_equal(planted, experiment.samples.group)
  arrays, _ = Checkpoints(tmp_path / 'checkpoints', read_only=True).read(2)
  arrays = {k: v for k, v in arrays.items() if k.startswith('.server.params')}
  data, parts = experiment.samples.dataset, experiment.partition.train
  for client, rows in enumerate(parts):
    own = losses(arrays, data.x_train[rows], data.y_train[rows])
    assert found[client] == np.argmin(own)
  table = recovery.table([str(tmp_path)])
  assert table.header == ['', 'clusters', 'adjusted Rand index']
  assert table.rows[0][1] == str(len(np.unique(found)))
  assert recovery._score(np.array([2, 2, 0]), np.array([0, 0, 1])) == (2, 1.0)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
  config = tiny(
    'ifca', rounds=2, eval_every=1, partition__kind='iid',
    partition__num_clients=4, partition__transform='rotation',
    partition__num_groups=2,
  )  # fmt: skip
  train(config, tmp_path)
  (record,) = study.read(tmp_path)
  shutil.rmtree(tmp_path / 'checkpoints' / '2' / 'state')
  with pytest.warns(UserWarning, match='round 2 .* is damaged'):
    found, _ = recovery.clusters(record)
  assert found.shape == (4,)
  shutil.rmtree(tmp_path / 'checkpoints' / '1' / 'state')
  refused = says('round 2', 'is damaged; restore')
  with pytest.warns(UserWarning, match='is damaged'), refused:
    recovery.clusters(record)


def test_runs_without_clusters_are_refused(tmp_path):
  train(tiny(rounds=1, eval_every=1), tmp_path)
  with says('no finished run with partition.num_groups', 'ifca or cfl'):
    recovery.table([str(tmp_path)])
