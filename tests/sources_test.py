"""Sources of samples: what is read, what is refused, and the validation cut."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from fedjax_ls import data


def _arrays(**changes):
  arrays = {
    'x_train': np.arange(24, dtype=np.uint8).reshape(6, 2, 2),
    'y_train': np.array([0, 1, 2, 0, 1, 2], np.uint8),
    'x_test': np.zeros((2, 2, 2), np.uint8),
    'y_test': np.array([3, 1], np.int64),
  }
  return {k: v for k, v in (arrays | changes).items() if v is not None}


def _load(tmp_path, **changes):
  path = str(tmp_path / 'data.npz')
  np.savez(path, **_arrays(**changes))
  return data.load('npz', path)


def test_digits_are_split_evenly_and_always_alike():
  dataset = data.load('digits')
  assert dataset.x_train.shape == (1437, 8, 8, 1)
  assert dataset.x_test.shape == (360, 8, 8, 1)
  assert dataset.x_train.dtype == np.float32
  assert (dataset.x_train.min(), dataset.x_train.max()) == (0, 1)
  assert dataset.num_classes == 10
  np.testing.assert_allclose(np.bincount(dataset.y_test), 36, atol=1)
  # The split is part of every published number: these rows must not change.
  assert dataset.y_test[:9].tolist() == [9, 2, 5, 7, 6, 9, 7, 3, 3]


def test_digits_use_every_image_once():
  from sklearn import datasets

  dataset = data.load('digits')
  x = np.concatenate([dataset.x_train, dataset.x_test]).reshape(-1, 64)
  bundled = datasets.load_digits().data / 16
  np.testing.assert_array_equal(
    x[np.lexsort(x.T)], bundled[np.lexsort(bundled.T)]
  )


def test_npz_keeps_dtypes_and_adds_a_channel(tmp_path):
  dataset = _load(tmp_path, client_train=np.array([5, 5, 2, 2, 9, 9]))
  assert dataset.x_train.shape == (6, 2, 2, 1)
  assert dataset.x_train.dtype == np.uint8
  assert dataset.y_train.dtype == dataset.y_test.dtype == np.int32
  assert dataset.num_classes == 4
  assert dataset.client_train.tolist() == [5, 5, 2, 2, 9, 9]
  assert dataset.client_test.shape == (0,)


def test_float_targets_have_no_classes(tmp_path):
  y = np.linspace(0, 1, 6)[:, None]
  dataset = _load(tmp_path, y_train=y, y_test=y[:2])
  assert dataset.num_classes == 0
  np.testing.assert_array_equal(dataset.y_train, y)


def test_class_numbers_in_a_column_are_flattened(tmp_path):
  dataset = _load(
    tmp_path,
    y_train=_arrays()['y_train'][:, None],
    y_test=_arrays()['y_test'][:, None],
  )
  assert dataset.y_train.tolist() == [0, 1, 2, 0, 1, 2]


NAN = np.zeros((6, 2), np.float32)
NAN[4, 1] = np.nan
BAD = {
  'lacks y_test .it holds x_test, x_train, y_train.': dict(y_test=None),
  'x_train has 6 rows but y_train has 5': dict(y_train=np.zeros(5, int)),
  'x_train holds NaN or infinity, first in row 4': dict(
    x_train=NAN, x_test=np.zeros((2, 2))
  ),
  'y_test holds NaN or infinity, first in row 1': dict(
    y_train=np.zeros(6), y_test=np.array([0, np.inf])
  ),
  'y_train row 2 is -1, outside 0..3': dict(
    y_train=np.array([0, 1, -1, 0, 0, 0])
  ),
  'y_train has class numbers up to 2147483648 in 6 rows; number the': dict(
    y_train=np.full(6, 2**31)
  ),
  'y_train has dtype <U1; store real numbers': dict(
    y_train=np.array(['a'] * 6)
  ),
  'cannot be read as .npz': dict(y_train=np.array([None] * 6)),
  'y_train is float64.. a row but y_test int64': dict(y_train=np.zeros(6)),
  'x_train rows have shape .2, 2, 1. but x_test rows .3, 3, 1.': dict(
    x_test=np.zeros((2, 3, 3))
  ),
  'x_train has dtype float32 but x_test uint8; store both alike': dict(
    x_train=np.zeros((6, 2), np.float32), x_test=np.zeros((2, 2), np.uint8)
  ),
  'x_train has dtype uint16 but x_test uint8; store both alike': dict(
    x_train=np.zeros((6, 2), np.uint16), x_test=np.zeros((2, 2), np.uint8)
  ),
  'x_test has shape .0, 2, 2, 1.': dict(
    x_test=np.zeros((0, 2, 2)), y_test=np.zeros(0, int)
  ),
  'client_train is int64.5.; store one integer for each of the 6 rows': dict(
    client_train=np.zeros(5, int)
  ),
  'client_test is float64.2.': dict(client_test=np.zeros(2)),
}


@pytest.mark.parametrize('message', BAD)
def test_bad_arrays_get_one_sentence(tmp_path, message):
  with pytest.raises(ValueError, match=message) as error:
    _load(tmp_path, **BAD[message])
  assert '\n' not in str(error.value)


def test_unknown_sources_get_the_nearest_name():
  with pytest.raises(ValueError, match=r"data.name = 'npy'.*mean 'npz'"):
    data.load('npy')


def test_files_that_cannot_be_read(tmp_path):
  missing = tmp_path / 'missing.npz'
  with pytest.raises(ValueError, match=r'missing\.npz. does not exist; give'):
    data.load('npz', str(missing))
  with pytest.raises(ValueError, match=r"data\.path = '' does not exist"):
    data.load('npz')
  with pytest.raises(ValueError, match=r'cannot be read as \.npz'):
    data.load('npz', str(tmp_path))
  np.savez(tmp_path / 'whole.npz', **_arrays())
  whole = (tmp_path / 'whole.npz').read_bytes()
  for name, content in {
    'half': whole[: len(whole) // 2],
    'flipped': whole[:200]
    + bytes(255 - b for b in whole[200:201])
    + whole[201:],
    'text': b'hello',
    'empty': b'',
  }.items():
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'cannot be read as \.npz'):
      data.load('npz', str(path))


@given(
  st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=60
  ),
  st.floats(0, 0.95),
  st.booleans(),
)
def test_validation_cut(rows, fraction, with_clients):
  y, clients = np.array(rows, np.int32).T
  dataset = data.Dataset(
    x_train=np.arange(len(y))[:, None],
    y_train=y,
    x_test=np.zeros((1, 1)),
    y_test=np.zeros(1, np.int32),
    client_train=clients if with_clients else clients[:0],
    client_test=clients[:0],
    num_classes=4,
  )
  try:
    rest, x_val, y_val = data.split_validation(dataset, fraction, seed=3)
  except ValueError:
    reject()  # No row for so small a share: tested below.
  kept, cut = rest.x_train[:, 0], x_val[:, 0]
  np.testing.assert_array_equal(np.sort([*kept, *cut]), np.arange(len(y)))
  np.testing.assert_array_equal(rest.y_train, y[kept])
  np.testing.assert_array_equal(y_val, y[cut])
  assert set(rest.y_train) == set(y)
  if with_clients:
    np.testing.assert_array_equal(rest.client_train, clients[kept])
    assert set(rest.client_train) == set(clients)
  else:
    for label, size in enumerate(np.bincount(y)):
      assert abs((y_val == label).sum() - fraction * size) <= 1


@pytest.mark.parametrize('fraction', [-0.1, 1.0, float('nan')])
def test_validation_share_is_checked(fraction):
  with pytest.raises(ValueError, match=f'data.validation = {fraction} is out'):
    data.split_validation(data.load('digits'), fraction, seed=0)


def test_a_validation_share_too_small_for_a_row_is_refused():
  with pytest.raises(ValueError, match='takes none of 1437 rows'):
    data.split_validation(data.load('digits'), 1e-4, seed=0)


def test_no_validation_leaves_all_rows():
  dataset, x_val, y_val = data.split_validation(data.load('digits'), 0.0, 0)
  assert len(dataset.y_train) == 1437
  assert len(x_val) == len(y_val) == 0


def test_a_missing_package_is_named(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ValueError, match='needs scikit-learn; install'):
    data.load('digits')
  with pytest.raises(ValueError, match='needs matplotlib; install'):
    data.partition_heatmap(np.eye(2), str(tmp_path / 'plot.png'))


def test_importing_data_needs_numpy_and_jax_only():
  lazy = ('sklearn', 'matplotlib', 'tensorflow', 'tensorflow_datasets')
  subprocess.run(
    [
      sys.executable,
      '-c',
      'import sys, fedjax_ls.data; '
      f'assert not set({lazy!r}) & set(sys.modules)',
    ],
    check=True,
  )


def test_fingerprint_tells_data_sets_apart(tmp_path, monkeypatch):
  whole = _load(tmp_path)
  other = whole._replace(x_train=whole.x_train.copy())
  assert data.fingerprint(other) == data.fingerprint(whole)
  other.x_train[3] += 1
  assert data.fingerprint(other) != data.fingerprint(whole)
  # Sampled: only rows 0 and 5, but every label.
  module = importlib.import_module('fedjax_ls.data.fingerprint')
  monkeypatch.setattr(module, 'WHOLE_BYTES', 0)
  monkeypatch.setattr(module, 'SAMPLED_ROWS', 2)
  assert data.fingerprint(other) == data.fingerprint(whole)
  y = whole.y_train.copy()
  y[3] = 2
  assert data.fingerprint(other._replace(y_train=y)) != data.fingerprint(whole)
