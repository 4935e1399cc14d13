"""PFLlib's folders: written, read, and nothing that runs."""

import json
import pickle

import numpy as np
import pytest

from fedjax_ls import data
from fedjax_ls.data import pfllib


def _dataset():
  rng = np.random.RandomState(0)
  return data.Dataset(
    x_train=rng.rand(12, 4, 5, 3).astype(np.float32),
    y_train=rng.randint(0, 4, 12).astype(np.int32),
    x_test=rng.rand(6, 4, 5, 3).astype(np.float32),
    y_test=rng.randint(0, 4, 6).astype(np.int32),
    client_train=np.zeros(0, np.int64),
    client_test=np.zeros(0, np.int64),
    num_classes=4,
  )


def _partition():
  train = [np.array([0, 3, 4]), np.array([1, 2, 5, 6, 7]), np.arange(8, 12)]
  return data.Partition(train, [np.array([0, 5]), np.array([1, 2]), [3, 4]])


def test_what_is_written_is_read_again(tmp_path):
  dataset, partition = _dataset(), _partition()
  pfllib.write(str(tmp_path), dataset, partition)
  read = data.load('pfllib', str(tmp_path))
  natural = data.make_partition('natural', read, num_clients=0)
  for split in ('train', 'test'):
    x, y = getattr(dataset, f'x_{split}'), getattr(dataset, f'y_{split}')
    theirs = getattr(read, f'x_{split}'), getattr(read, f'y_{split}')
    for ours, rows in zip(
      getattr(partition, split), getattr(natural, split), strict=True
    ):
      np.testing.assert_array_equal(theirs[0][rows], x[ours])
      np.testing.assert_array_equal(theirs[1][rows], y[ours])


def test_files_are_as_pfllib_expects(tmp_path):
  dataset = _dataset()
  pfllib.write(str(tmp_path), dataset, _partition())
  # As its own reader does.
  with open(tmp_path / 'train' / '1.npz', 'rb') as file:
    client = np.load(file, allow_pickle=True)['data'].tolist()
  assert client['x'].shape == (5, 3, 4, 5)
  assert client['y'].dtype == np.int64
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['num_clients'] == 3
  total = sum(n for c in config['Size of samples for labels in clients']
              for _, n in c)  # fmt: skip
  assert total == 18


def test_files_of_numpy_1_are_read(tmp_path):
  pfllib.write(str(tmp_path), _dataset(), _partition())
  file = tmp_path / 'train' / '0.npz'
  with np.load(file, allow_pickle=True) as archive:
    content = archive['data']
  raw = pickle.dumps(content, protocol=3)
  raw = raw.replace(b'numpy._core', b'numpy.core')
  assert b'numpy.core.multiarray' in raw
  header = b"{'descr': '|O', 'fortran_order': False, 'shape': ()}"
  header += b' ' * (128 - 10 - len(header) - 1) + b'\n'
  magic = b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little')
  import zipfile

  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('data.npy', magic + header + raw)
  np.testing.assert_array_equal(
    data.load('pfllib', str(tmp_path)).x_train[:3],
    _dataset().x_train[[0, 3, 4]],
  )


class _Runs:
  def __reduce__(self):
    return print, ('code ran',)


def test_a_file_that_runs_code_is_refused(tmp_path, capsys):
  pfllib.write(str(tmp_path), _dataset(), _partition())
  bomb = {'x': _Runs(), 'y': np.zeros(1)}
  np.savez(tmp_path / 'train' / '0.npz', data=bomb)
  with pytest.raises(ValueError, match=r'it holds builtins\.print'):
    data.load('pfllib', str(tmp_path))
  assert capsys.readouterr().out == ''


def test_folders_that_are_none(tmp_path):
  with pytest.raises(ValueError, match=r'has no files train/0\.npz'):
    data.load('pfllib', str(tmp_path))
  pfllib.write(str(tmp_path), _dataset(), _partition())
  (tmp_path / 'test' / '2.npz').unlink()
  with pytest.raises(ValueError, match=r'2\.npz. does not exist'):
    data.load('pfllib', str(tmp_path))
  (tmp_path / 'train' / '0.npz').write_bytes(b'hello')
  with pytest.raises(ValueError, match='is no client of PFLlib'):
    data.load('pfllib', str(tmp_path))
