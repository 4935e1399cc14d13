"""Folders of PFLlib: `train/0.npz`, `test/0.npz`, .. and `config.json`.

Each file holds one client's samples: a member `data`, which is a pickled
dictionary of `x` and `y`.  PFLlib merges train and test set, deals them and
cuts each client's part anew, so that a folder tells no row numbers; reading
it gives a data set with clients instead, to be used with `natural`.

References:
  Zhang et al. 2023, https://github.com/TsingZ0/PFLlib
"""

import json
import os
import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np

from fedjax_ls.data import checks
from fedjax_ls.data.dataset import Dataset
from fedjax_ls.data.partition import Partition, statistics

# All that a pickled dictionary of arrays needs; anything else could run code.
_ALLOWED = {
  ('numpy', 'dtype'),
  ('numpy', 'ndarray'),
  ('numpy._core.multiarray', '_reconstruct'),
  ('numpy._core.multiarray', 'scalar'),
  ('numpy._core.numeric', '_frombuffer'),
  ('_codecs', 'encode'),
}


def read(path: str) -> dict[str, Any]:
  """Reads a folder that PFLlib generated.

  Images `[N, C, H, W]` of one or three channels become `[N, H, W, C]`; their
  values stay (PFLlib scales them to [-1, 1]).

  Args:
    path: folder with `train` and `test`.

  Returns:
    The arrays, with the clients' own numbers.

  Raises:
    ValueError: a missing folder or file, or one that holds anything else than
      arrays.
  """
  number = _clients(path)
  arrays: dict[str, Any] = {}
  for split in ('train', 'test'):
    parts = [_client(os.path.join(path, split, f'{c}.npz')) for c in number]
    x = np.concatenate([part['x'] for part in parts])
    arrays[f'x_{split}'] = _channels_last(x)
    arrays[f'y_{split}'] = np.concatenate([part['y'] for part in parts])
    sizes = [len(part['y']) for part in parts]
    arrays[f'client_{split}'] = np.repeat(number, sizes)
  return arrays


def write(path: str, dataset: Dataset, partition: Partition) -> None:
  """Writes a partitioned data set as PFLlib reads it.

  Args:
    path: folder to make.
    dataset: the samples, images `[N, H, W, C]` as numbers in the range that
      the models of PFLlib are to see.
    partition: who owns which.
  """
  splits = {
    'train': (dataset.x_train, dataset.y_train, partition.train),
    'test': (dataset.x_test, dataset.y_test, partition.test),
  }
  for split, (x, y, parts) in splits.items():
    os.makedirs(os.path.join(path, split), exist_ok=True)
    for client, rows in enumerate(parts):
      data = {'x': _channels_first(x[rows]), 'y': y[rows].astype(np.int64)}
      file = os.path.join(path, split, f'{client}.npz')
      np.savez_compressed(file, data=data)  # type: ignore[arg-type]
  counts = statistics(partition.train, dataset.y_train, dataset.num_classes)
  counts += statistics(partition.test, dataset.y_test, dataset.num_classes)
  config = {
    'num_clients': len(partition.train),
    'num_classes': dataset.num_classes,
    'non_iid': True,
    'balance': False,
    'partition': 'fedjax_ls',
    'Size of samples for labels in clients': [
      [[label, int(n)] for label, n in enumerate(row) if n] for row in counts
    ],
    'alpha': 0,
    'batch_size': 10,
  }
  with open(os.path.join(path, 'config.json'), 'w') as text:
    json.dump(config, text)


def _clients(path: str) -> list[int]:
  names = [file.stem for file in pathlib.Path(path, 'train').glob('*.npz')]
  checks.require(
    bool(names) and all(name.isdecimal() for name in names),
    f'data.path = {path!r} has no files train/0.npz, train/1.npz, ..; give a '
    'folder that PFLlib generated, such as dataset/MNIST',
  )
  return sorted(map(int, names))


def _client(path: str) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive, archive.open('data.npy') as file:
      np.lib.format.read_magic(file)
      np.lib.format.read_array_header_1_0(file)
      data = _Arrays(file).load().item()
    return {name: np.asarray(data[name]) for name in ('x', 'y')}
  except FileNotFoundError as error:
    raise ValueError(
      f'data.path: {path!r} does not exist; each client needs a train and a '
      'test file'
    ) from error
  except Exception as error:
    # zipfile, zlib, pickle and NumPy each have errors of their own here.
    raise ValueError(
      f'data.path: {path!r} is no client of PFLlib ({error}); generate the '
      'folder again'
    ) from error


class _Arrays(pickle.Unpickler):
  """Loads arrays and what Python has built in, and nothing that runs."""

  def find_class(self, module: str, name: str) -> Any:
    """Finds one of the few names that arrays need."""
    # NumPy 1 wrote the same names under numpy.core.
    module = module.replace('numpy.core.', 'numpy._core.')
    checks.require((module, name) in _ALLOWED, f'it holds {module}.{name}')
    return super().find_class(module, name)


def _channels_last(x: np.ndarray) -> np.ndarray:
  is_image = x.ndim == 4 and x.shape[1] in (1, 3)
  return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if is_image else x


def _channels_first(x: np.ndarray) -> np.ndarray:
  return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
