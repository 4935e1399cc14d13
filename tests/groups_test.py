"""Groups of clients with transformed data, against a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_ls import data
from fedjax_ls.data import groups


@given(st.integers(1, 40), st.data(), st.integers(0, 2**32 - 1))
def test_groups_are_even(num_clients, draw, seed):
  num_groups = draw.draw(st.integers(1, num_clients))
  group = data.assign_groups(num_clients, num_groups, seed)
  size = np.bincount(group, minlength=num_groups)
  assert len(size) == num_groups
  assert size.max() - size.min() <= 1


def _data(shape=(6, 6, 2)):
  rng = np.random.RandomState(0)
  dataset = data.Dataset(
    x_train=rng.randint(0, 256, (40, *shape)).astype(np.uint8),
    y_train=rng.randint(0, 5, 40).astype(np.int32),
    x_test=rng.randint(0, 256, (20, *shape)).astype(np.uint8),
    y_test=rng.randint(0, 5, 20).astype(np.int32),
    client_train=np.zeros(0, np.int64),
    client_test=np.zeros(0, np.int64),
    num_classes=5,
  )
  return dataset, data.iid(38, 8, 0, 19)  # one row nobody owns


def _expected(dataset, partition, group, change):
  arrays = {}
  for split in ('train', 'test'):
    x = getattr(dataset, f'x_{split}').copy()
    y = getattr(dataset, f'y_{split}').copy()
    for client, rows in enumerate(getattr(partition, split)):
      for row in rows:
        x[row], y[row] = change(group[client], x[row], y[row])
    arrays |= {f'x_{split}': x, f'y_{split}': y}
  return arrays


def _turned(image, quarters):
  for _ in range(quarters):
    image = image.transpose(1, 0, 2)[::-1]
  return image


@pytest.mark.parametrize('num_groups', [1, 2, 4])
def test_rotations(num_groups):
  dataset, partition = _data()
  group = data.assign_groups(8, num_groups, 1)
  before = dataset.x_train.copy()
  turned = data.transform_groups(dataset, partition, group, 'rotation')
  quarters = 4 // num_groups
  expected = _expected(
    dataset, partition, group, lambda g, x, y: (_turned(x, g * quarters), y)
  )
  for name, array in expected.items():
    np.testing.assert_array_equal(getattr(turned, name), array)
  np.testing.assert_array_equal(dataset.x_train, before)


def test_label_permutations():
  dataset, partition = _data((3,))
  group = data.assign_groups(8, 3, 1)
  named = data.transform_groups(
    dataset, partition, group, 'label_permutation', seed=5
  )
  table = groups.permutations(5, 3, 5)
  expected = _expected(
    dataset, partition, group, lambda g, x, y: (x, table[g][y])
  )
  for name, array in expected.items():
    np.testing.assert_array_equal(getattr(named, name), array)
  assert named.y_train.dtype == np.int32


@given(st.integers(1, 8), st.data(), st.integers(0, 2**32 - 1))
def test_permutations_are_different(num_classes, draw, seed):
  most = min(int(np.prod(np.arange(1, num_classes + 1))), 30)
  num_groups = draw.draw(st.integers(1, most))
  table = groups.permutations(num_classes, num_groups, seed)
  assert table.shape == (num_groups, num_classes)
  assert table[0].tolist() == list(range(num_classes))
  assert len({tuple(row) for row in table.tolist()}) == num_groups
  assert (np.sort(table, 1) == np.arange(num_classes)).all()


def test_no_transformation_changes_nothing():
  dataset, partition = _data()
  group = data.assign_groups(8, 2, 0)
  assert data.transform_groups(dataset, partition, group, 'none') is dataset


def test_what_does_not_fit_is_refused():
  dataset, partition = _data((6, 4, 1))

  def refused(message, transform, num_groups, partition=partition):
    group = data.assign_groups(8, num_groups, 0)
    with pytest.raises(ValueError, match=message):
      data.transform_groups(dataset, partition, group, transform)

  refused('cannot turn images .6, 4, 1. by a quarter', 'rotation', 4)
  refused(r'num_groups = 3 does not fit .*choose 1, 2', 'rotation', 3)
  refused("mean 'rotation'", 'rotations', 2)
  twice = data.Partition(
    [*partition.train[:7], partition.train[0]], partition.test
  )
  refused('train row .* has two owners', 'rotation', 2, twice)
  flat = dataset._replace(x_train=dataset.x_train[:, 0])
  with pytest.raises(ValueError, match=r'needs images \[H, W, C\]'):
    data.transform_groups(
      flat, partition, data.assign_groups(8, 2, 0), 'rotation'
    )
  with pytest.raises(ValueError, match='num_groups = 9 is impossible with 8'):
    data.assign_groups(8, 9, 0)
  with pytest.raises(ValueError, match='3 permutations of 2 classes are imp'):
    groups.permutations(2, 3, 0)


def test_the_draws_are_frozen():
  assert data.assign_groups(10, 3, 7).tolist() == GROUPS
  assert groups.permutations(10, 2, 7)[1].tolist() == NAMES


GROUPS = [2, 2, 0, 2, 1, 0, 1, 0, 0, 1]
NAMES = [8, 5, 0, 2, 1, 9, 7, 3, 6, 4]
