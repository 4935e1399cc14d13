"""Synthetic(alpha, beta): its moments, its sizes, and its frozen draw."""

import numpy as np
import pytest

from fedjax_ls import data


def _load(name='synthetic', **options):
  return data.load(name, **options)


def _clients(dataset):
  x = np.concatenate([dataset.x_train, dataset.x_test])
  owner = np.concatenate([dataset.client_train, dataset.client_test])
  return [x[owner == client] for client in range(owner.max() + 1)]


def test_shapes_and_split():
  dataset = _load(num_clients=30, seed=1)
  assert dataset.x_train.dtype == np.float32
  assert dataset.x_train.shape[1:] == (60,)
  assert dataset.num_classes == 10
  train = np.bincount(dataset.client_train)
  test = np.bincount(dataset.client_test)
  np.testing.assert_array_equal(train, 9 * (train + test) // 10)
  assert (train + test).min() >= 50


def test_sizes_are_log_normal():
  sizes = [
    len(x) - 50
    for seed in range(10)
    for x in _clients(_load(num_clients=40, seed=seed, variant=''))
  ]
  logs = np.log(np.maximum(sizes, 0.5))
  assert abs(np.median(logs) - 4) < 0.3
  assert abs(np.subtract(*np.percentile(logs, [75, 25])) - 2 * 1.349) < 0.5


def test_inputs_have_their_covariance():
  # Within a client: variance j^-1.2; between them: v_k ~ N(B_k, 1).
  clients = _clients(_load(num_clients=200, alpha=0.0, beta=3.0, seed=0))
  within = np.mean([x.var(0) for x in clients if len(x) > 100], 0)
  np.testing.assert_allclose(within, np.arange(1, 61) ** -1.2, rtol=0.1)
  means = np.array([x.mean(0) for x in clients])
  assert abs(means.mean(1).std() - 3) < 0.5
  assert abs((means - means.mean(1)[:, None]).std() - 1) < 0.05


def _separable(x, y):
  """Whether some W gives every row's own class the largest x W."""
  optimize = pytest.importorskip('scipy.optimize')
  x = np.hstack([x, np.ones((len(x), 1))])
  names, y = np.unique(y, return_inverse=True)
  rows = []
  for other in range(len(names)):
    mine = y != other
    block = np.zeros((mine.sum(), len(names), x.shape[1]))
    block[np.arange(len(block)), y[mine]] = -x[mine]
    block[:, other] = x[mine]
    rows.append(block.reshape(len(block), -1))
  rows = np.concatenate(rows)
  bound = -np.ones(len(rows))
  result = optimize.linprog(
    np.zeros(rows.shape[1]), rows, bound, bounds=(None, None)
  )
  return result.status == 0


def test_labels_are_linear_in_the_inputs():
  dataset = _load(num_clients=4, alpha=1.0, beta=1.0, seed=0)
  rows = np.flatnonzero(dataset.client_train == 3)[:600]
  x, y = dataset.x_train[rows], dataset.y_train[rows]
  assert len(np.unique(y)) > 2
  assert _separable(x, y)
  # So many rows are not separable unless their labels are linear.
  assert not _separable(x, np.roll(y, 1))


def test_the_iid_variant_is_the_same_for_everybody():
  dataset = _load('synthetic:iid', num_clients=100, alpha=9.0, beta=9.0, seed=2)
  means = np.array([x.mean(0) for x in _clients(dataset)])
  scale = np.arange(1, 61) ** -0.6
  assert (np.abs(means) < 0.9 * scale).all()
  shares = np.array(
    [
      np.bincount(dataset.y_train[dataset.client_train == c], minlength=10)
      / (dataset.client_train == c).sum()
      for c in range(100)
    ]
  )
  assert np.abs(shares - shares.mean(0)).max() < 0.35


def test_the_draw_is_frozen():
  dataset = _load(num_clients=5, seed=7)
  assert np.bincount(dataset.client_train).tolist() == SIZES
  assert np.bincount(dataset.y_train, minlength=10).tolist() == CLASSES
  np.testing.assert_allclose(dataset.x_train[0, :3], FIRST, rtol=1e-5)


SIZES = [1489, 63, 97, 155, 54]
CLASSES = [416, 0, 0, 97, 456, 0, 0, 0, 889, 0]
FIRST = [-1.3607030, -0.7584303, 0.07100135]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'alpha': -1.0}, r'data\.alpha = -1\.0 is no standard deviation'),
    ({'beta': float('nan')}, r'data\.beta = nan'),
    ({'num_clients': 0}, r'partition\.num_clients = 0 is impossible'),
    ({'name': 'synthetic:idd'}, "mean 'synthetic:iid'"),
  ],
)
def test_settings_are_checked(options, message):
  with pytest.raises(ValueError, match=message):
    _load(**options)


def test_options_of_other_sources_pass_by_and_unknown_ones_do_not():
  assert _load('digits', alpha=3.0, sequence_length=5).num_classes == 10
  with pytest.raises(ValueError, match=r"'sequence' is unknown.*sequence_leng"):
    _load('digits', sequence=5)
  with pytest.raises(ValueError, match="'digits:small' names a variant but"):
    _load('digits:small')
