"""Partition files of other simulators: round trips, use, and refusals."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_ls import data
from fedjax_ls.data import partition_files


@pytest.mark.parametrize('ending', ['json', 'txt'])
@given(st.permutations(range(12)), st.lists(st.integers(0, 12), max_size=4))
def test_round_trip(tmp_path_factory, ending, rows, cuts):
  path = str(tmp_path_factory.getbasetemp() / f'clients.{ending}')
  parts = [np.sort(p) for p in np.split(np.array(rows), sorted(cuts))]
  partition_files.write_rows(path, parts)
  again = partition_files.read_rows(path)
  assert [p.tolist() for p in again] == [p.tolist() for p in parts]
  assert all(part.dtype == np.int64 for part in again)


def test_files_that_others_wrote(tmp_path):
  (tmp_path / 'niid.json').write_text(json.dumps({1: [4, 2], 0: [7], 10: []}
                                                 | {i: [] for i in range(2, 10)}
                                                 ))  # fmt: skip
  parts = partition_files.read_rows(str(tmp_path / 'niid.json'))
  assert [p.tolist() for p in parts[:3]] == [[7], [2, 4], []]
  (tmp_path / 'fixed.txt').write_text('{\n0: [\n 5, 1\n]\n1: [\n2,3\n]\n}\n')
  parts = partition_files.read_rows(str(tmp_path / 'fixed.txt'))
  assert [p.tolist() for p in parts] == [[1, 5], [2, 3]]
  # A dictionary as Python prints it.
  (tmp_path / 'printed.txt').write_text(str({0: [5, 1], 1: [2, 3]}))
  parts = partition_files.read_rows(str(tmp_path / 'printed.txt'))
  assert [p.tolist() for p in parts] == [[1, 5], [2, 3]]


def test_the_text_file_has_one_line_of_rows_a_client(tmp_path):
  # Its readers take lines: a key before ': [', then rows between commas.
  path = tmp_path / 'out.txt'
  partition_files.write_rows(str(path), [np.array([1, 5]), np.array([2])])
  lines = path.read_text().splitlines()
  assert lines == ['{', '0: [', '1, 5', '],', '1: [', '2', '],', '}']


@pytest.mark.parametrize('ending', ['json', 'txt', 'npz'])
def test_a_partition_from_a_file(tmp_path, ending):
  dataset = data.load('digits')
  made = data.classes(dataset.y_train, 10, 2, 3, dataset.y_test)
  path = str(tmp_path / f'clients.{ending}')
  if ending == 'npz':
    made.save(path)
  else:
    partition_files.write_rows(path, made.train)
  read = data.make_partition('file', dataset, num_clients=0, path=path)
  assert [r.tolist() for r in read.train] == [r.tolist() for r in made.train]
  # The test set is cut like the train set, whoever gets which row.
  counts = [data.statistics(p.test, dataset.y_test, 10) for p in (read, made)]
  np.testing.assert_array_equal(*counts)


def test_float_targets_are_cut_by_size(tmp_path):
  dataset = data.load('digits')
  dataset = dataset._replace(
    y_train=dataset.y_train * 0.5, y_test=dataset.y_test * 0.5, num_classes=0
  )
  path = str(tmp_path / 'clients.json')
  partition_files.write_rows(path, [np.arange(300), np.arange(300, 1200)])
  read = data.make_partition('file', dataset, num_clients=0, path=path)
  assert [len(rows) for rows in read.test] == [90, 270]


BAD = {
  'gives row 3 2 times': {'0': [3, 1], '1': [3]},
  r'number them 0, 1, 2, \.\.': {'0': [3], '2': [1]},
  'client 1 has no train rows': {'0': [3], '1': []},
  'has train row 1437 but the data set has 1437': {'0': [1437]},
  'is no list of whole numbers': {'0': [0.5]},
  'cannot be read .it is no dictionary': 'text',
  "invalid literal for int.*'a'": {'a': [1]},
}


@pytest.mark.parametrize('message', BAD)
def test_bad_files_get_one_sentence(tmp_path, message):
  path = tmp_path / 'clients.json'
  path.write_text(json.dumps(BAD[message]))
  with pytest.raises(ValueError, match=message) as error:
    data.make_partition(
      'file', data.load('digits'), num_clients=0, path=str(path)
    )
  assert str(error.value).startswith('partition.path = ')
  assert '\n' not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(ValueError, match=r'partition\.path = .* does not exist'):
    partition_files.read_rows(str(tmp_path / 'none.json'))
  with pytest.raises(ValueError, match='has an unknown ending'):
    partition_files.read_rows('')
  (tmp_path / 'broken.json').write_text('{"0": [1')
  with pytest.raises(ValueError, match='cannot be read'):
    partition_files.read_rows(str(tmp_path / 'broken.json'))
  (tmp_path / 'other.txt').write_text('{0: [1, 2], lorem ipsum}')
  with pytest.raises(ValueError, match='it has other text'):
    partition_files.read_rows(str(tmp_path / 'other.txt'))
