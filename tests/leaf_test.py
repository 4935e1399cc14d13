"""LEAF folders: natural clients, images and text."""

import json
import re

import numpy as np
import pytest

from fedjax_ls import data
from fedjax_ls.data import leaf


def _write(folder, split, *files):
  (folder / split).mkdir(parents=True)
  for i, users in enumerate(files):
    content = {
      'users': list(users),
      'num_samples': [len(x) for x, _ in users.values()],
      'user_data': {u: {'x': x, 'y': y} for u, (x, y) in users.items()},
    }
    (folder / split / f'all_data_{i}.json').write_text(json.dumps(content))


def _image(level):
  return [level / 255] * 783 + [1.0]


def test_images_of_writers(tmp_path):
  _write(
    tmp_path,
    'train',
    {'f2': ([_image(3), _image(4)], [61, 0])},
    {'f1': ([_image(250)], [7]), 'f0': ([], [])},
  )
  _write(tmp_path, 'test', {'f2': ([_image(9)], [1])})
  dataset = data.load('leaf', str(tmp_path))
  assert dataset.x_train.shape == (3, 28, 28, 1)
  assert dataset.x_train.dtype == np.uint8
  assert dataset.x_train[:, 0, 0, 0].tolist() == [250, 3, 4]
  assert dataset.x_train[:, -1, -1, 0].tolist() == [255] * 3
  assert dataset.y_train.tolist() == [7, 61, 0]
  assert dataset.client_train.tolist() == [0, 1, 1]
  assert dataset.client_test.tolist() == [1]
  assert dataset.num_classes == 62
  assert dataset.left_out == 1
  partition = data.make_partition('natural', dataset, num_clients=0)
  assert [rows.tolist() for rows in partition.train] == [[0], [1, 2]]
  assert [rows.tolist() for rows in partition.test] == [[], [0]]


def test_other_numbers_stay_float(tmp_path):
  _write(tmp_path, 'train', {'a': ([[0.5] * 784, [0.1] * 784], [0, 1])})
  _write(tmp_path, 'test', {'a': ([[0.2] * 784], [1])})
  image = data.load('leaf', str(tmp_path))
  assert image.x_train.dtype == np.float32
  assert image.x_train.shape == (2, 28, 28, 1)
  (tmp_path / 'v').mkdir()
  _write(tmp_path / 'v', 'train', {'a': ([[0.5, -2.0]], [0])})
  _write(tmp_path / 'v', 'test', {'a': ([[0.5, -2.0]], [0])})
  vector = data.load('leaf', str(tmp_path / 'v'))
  np.testing.assert_array_equal(vector.x_train, np.float32([[0.5, -2]]))


def test_text_has_the_numbers_of_leaf(tmp_path):
  x, y = ['Ab\n', 'b} '], ['}', 'A']
  _write(tmp_path, 'train', {'HAMLET': (x, y)})
  _write(tmp_path, 'test', {'HAMLET': (x[:1], y[:1])})
  dataset = data.load('leaf', str(tmp_path))
  table = (
    '\n !"&\'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]'
    'abcdefghijklmnopqrstuvwxyz}'
  )
  assert len(leaf.SYMBOLS) == 80
  assert dataset.x_train.dtype == np.int32
  assert dataset.x_train.tolist() == [[table.find(c) for c in s] for s in x]
  assert dataset.y_train.tolist() == [table.find(c) for c in y]
  assert dataset.num_classes == 80


def test_a_split_by_user_has_a_central_test_set(tmp_path):
  _write(tmp_path, 'train', {'a': ([[1.0]], [0])})
  _write(tmp_path, 'test', {'b': ([[2.0]], [0])})
  dataset = data.load('leaf', str(tmp_path))
  assert dataset.client_train.tolist() == [0]
  assert len(dataset.client_test) == 0


ONE = {'a': ([[1.0]], [0])}
BAD = {
  "user 'b' has test samples but no train": (ONE, ONE | {'b': ([[1.0]], [0])}),
  'holds no samples': ({'a': ([], [])}, ONE),
  "user 'a' has 2 samples but 1 labels": ({'a': ([[1.0], [2.0]], [0])}, ONE),
  'neither images nor next characters': ({'a': (['tweet'], [1])}, ONE),
  "has the character 'ß', which is none": ({'a': (['ß'], ['b'])}, ONE),
  'has texts of lengths': ({'a': (['ab', 'abc'], ['b', 'c'])}, ONE),
  'labels of several characters': ({'a': (['ab'], ['bc'])}, ONE),
  'labels that are no class numbers': ({'a': ([[1.0]], [0.5])}, ONE),
  'neither numbers nor strings': ({'a': ([['x']], [0])}, ONE),
  "samples of shapes .*one of user 'b'": (
    ONE | {'b': ([[1.0, 2.0]], [0])},
    ONE,
  ),
}


@pytest.mark.parametrize('message', BAD)
def test_bad_folders_get_one_sentence(tmp_path, message):
  train, test = BAD[message]
  _write(tmp_path, 'train', train)
  _write(tmp_path, 'test', test)
  with pytest.raises(ValueError, match=message) as error:
    data.load('leaf', str(tmp_path))
  assert '\n' not in str(error.value)


def test_files_that_are_no_leaf(tmp_path):
  with pytest.raises(ValueError, match=r'has no train.*preprocess\.sh -t samp'):
    data.load('leaf', str(tmp_path))
  _write(tmp_path, 'test', ONE)
  (tmp_path / 'train').mkdir()
  file = tmp_path / 'train' / 'x.json'
  for content in ('{', '[]', '{"users": ["a"]}'):
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f'{str(file)!r} cannot')):
      data.load('leaf', str(tmp_path))
  file.write_text('{"users": ["a"], "user_data": {}}')
  with pytest.raises(ValueError, match="user 'a' has no user_data"):
    data.load('leaf', str(tmp_path))
