"""The federation's arrays against a plain loop, its checks, and the plot."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_ls import data, loop

X = np.arange(12, dtype=np.uint8).reshape(6, 2)
Y = np.array([0, 1, 2, 0, 1, 2])


@given(
  st.lists(st.lists(st.integers(0, 5), min_size=1), min_size=1, max_size=6)
)
def test_arrays_equal_a_plain_loop(parts):
  federation = data.federate(X, Y, [np.array(part) for part in parts])
  assert federation.num_clients == len(parts)
  longest = max(map(len, parts))
  for client, part in enumerate(parts):
    padded = part + [part[0]] * (longest - len(part))
    assert federation.index[client].tolist() == padded
    assert federation.size[client] == len(part)
    counts = [sum(Y[row] == label for row in part) for label in range(3)]
    assert federation.labels[client].tolist() == counts
  assert federation.tier.tolist() == [0] * len(parts)
  assert federation.x.dtype == np.uint8
  for array in federation[1:]:
    assert array.dtype == np.int32


def test_rows_of_several_labels_count_each_of_them():
  y = np.array([[0, 1], [1, 1], [2, 0]])
  federation = data.federate(X[:3], y, [[0, 1], [2]], num_classes=4)
  assert federation.labels.tolist() == [[1, 3, 0, 0], [1, 0, 1, 0]]


def test_float_targets_have_no_label_counts():
  federation = data.federate(X, Y / 2, [[0, 1], [2]])
  assert federation.labels.shape == (2, 0)
  assert federation.y.dtype == np.float64


def test_a_federation_is_an_argument_of_a_jitted_program():
  federation = data.federate(X, Y, [[0, 1], [2]], tier=np.array([1, 0]))

  @jax.jit
  def rows(federation, client):
    return federation.x[federation.index[client]], federation.tier[client]

  x, tier = rows(jax.device_put(federation), 1)
  np.testing.assert_array_equal(x, X[[2, 2]])
  assert tier == 0


NAN = np.full((6, 2), np.nan)
BAD = {
  'client 1 has no rows; give it some or leave it out': dict(
    parts=[[0], np.zeros(0, int)]
  ),
  'parts = .. has no client': dict(parts=[]),
  'client 1 has row numbers 2..6; keep them in 0..5': dict(parts=[[0], [2, 6]]),
  'client 0 has row numbers -1..2': dict(parts=[[2, -1]]),
  'client 0 has rows float64.1.': dict(parts=[[0.5]]),
  'client 0 has rows bool.6.': dict(parts=[np.ones(6, bool)]),
  'x has 6 rows but y has 5': dict(y=Y[:5]),
  'x has shape .0, 2.': dict(x=X[:0], y=Y[:0]),
  'x holds NaN or infinity, first in row 0': dict(x=NAN),
  'y holds NaN or infinity, first in row 3': dict(
    y=np.array([0, 1, 2, np.inf, 1, 2])
  ),
  'y row 2 is 2, outside 0..1; number the classes from 0': dict(num_classes=2),
  'y row 0 is -1': dict(y=Y - 1),
  'tier has shape .3,.; give one tier for each of the 2 clients': dict(
    tier=np.zeros(3)
  ),
}


@pytest.mark.parametrize('message', BAD)
def test_bad_input_gets_one_sentence(message):
  good = dict(x=X, y=Y, parts=[[0, 1], [2]])
  with pytest.raises(ValueError, match=message):
    data.federate(**good | BAD[message])


@pytest.mark.parametrize('num_clients', [1, 50, 51, 300])
def test_heatmap_is_a_picture(tmp_path, num_clients):
  from matplotlib import image

  y = np.random.RandomState(0).randint(0, 30, 900)
  parts = data.dirichlet(y, num_clients, 0.1, 1, 0).train
  path = str(tmp_path / 'heatmap.png')
  data.partition_heatmap(data.statistics(parts, y, 30), path)
  pixels = image.imread(path)
  assert pixels.shape[0] > 150
  assert pixels.std() > 0.05


def test_a_test_set_may_leave_clients_without_rows():
  none = np.zeros(0, int)
  y = np.array([1, 0, 1])
  made = data.federate(
    np.ones((3, 2)), y, [none, np.array([2, 0])], allow_empty=True
  )
  np.testing.assert_array_equal(made.size, [0, 2])
  np.testing.assert_array_equal(made.index, [[0, 0], [2, 0]])
  np.testing.assert_array_equal(made.labels, [[0, 0], [0, 2]])
  nobody = data.federate(np.ones((3, 2)), y, [none, none], allow_empty=True)
  np.testing.assert_array_equal(nobody.labels, np.zeros((2, 2)))


def test_class_numbers_with_large_gaps_are_refused():
  x, y = np.ones((3, 2)), np.array([0, 1, 200_000_000])
  with pytest.raises(ValueError, match='up to 200000000 in 3 rows; number the'):
    data.federate(x, y, [[0], [1, 2]])


@pytest.mark.parametrize(
  ('x', 'y', 'message'),
  [
    (np.ones((2, 3), np.uint8), [0, 1], 'uint8 but x of the clients float32'),
    (np.ones((2, 4), np.float32), [0, 1], r'shape \(4,\) but x of the clients'),
    (np.ones((2, 3), np.float32), [0.5, 1.0], 'y of the clients int32'),
  ],
)
def test_test_sets_of_another_kind_are_refused(x, y, message):
  train = data.federate(np.ones((3, 3), np.float32), [0, 1, 1], [[0], [1, 2]])
  with pytest.raises(ValueError, match=message):
    loop.evaluation_set(x, y, train)
