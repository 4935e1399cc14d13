"""Partitions: who owns which row, for every kind and every odd input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_ls import data
from fedjax_ls.data import deal

SEEDS = st.integers(0, 2**32 - 1)


def _dataset(y, y_test, clients=(), clients_test=()):
  return data.Dataset(
    x_train=np.zeros((len(y), 2), np.float32),
    y_train=np.asarray(y, np.int32),
    x_test=np.zeros((len(y_test), 2), np.float32),
    y_test=np.asarray(y_test, np.int32),
    client_train=np.asarray(clients, np.int64),
    client_test=np.asarray(clients_test, np.int64),
    num_classes=int(max(y)) + 1,
  )


def _used_once(parts, num_rows):
  np.testing.assert_array_equal(
    np.sort(np.concatenate(parts)), np.arange(num_rows)
  )


@st.composite
def _labels(draw):
  """Train and test labels of up to six classes, rare ones included."""
  num_classes = draw(st.integers(1, 6))
  sizes = st.lists(
    st.sampled_from([0, 1, 2, 3, 10, 20]),
    min_size=num_classes,
    max_size=num_classes,
  ).filter(any)
  label = np.arange(num_classes)
  return np.repeat(label, draw(sizes)), np.repeat(label, draw(sizes))


@given(st.integers(1, 80), st.integers(0, 30), st.data(), SEEDS)
def test_iid_deals_every_row_once_and_evenly(num_rows, num_test, draw, seed):
  num_clients = draw.draw(st.integers(1, num_rows))
  partition = data.iid(num_rows, num_clients, seed, num_test)
  for parts, total in (
    (partition.train, num_rows),
    (partition.test, num_test),
  ):
    _used_once(parts, total)
    size = [len(part) for part in parts]
    assert len(size) == num_clients
    assert max(size) - min(size) <= 1


@given(_labels(), st.integers(1, 12), st.integers(1, 6), SEEDS)
@settings(max_examples=300)
def test_classes_are_exact_whenever_feasible(labels, num_clients, n, seed):
  y, y_test = labels
  rows = np.bincount(y)
  # Feasible: every class can serve as many clients as it has rows.
  feasible = (
    num_clients <= len(y)
    and n <= (rows > 0).sum()
    and np.minimum(rows, num_clients).sum() >= n * num_clients
  )
  if not feasible:
    with pytest.raises(ValueError, match=r'partition\.'):
      data.classes(y, num_clients, n, seed, y_test)
    return
  partition = data.classes(y, num_clients, n, seed, y_test)
  counts = data.statistics(partition.train, y, len(rows))
  assert ((counts > 0).sum(1) == n).all()
  held = counts.sum(0) > 0
  # A class is used whole or, having no holder, not at all; and cut evenly.
  np.testing.assert_array_equal(counts.sum(0), np.where(held, rows, 0))
  for column in counts.T[held]:
    assert column.max() - column[column > 0].min() <= 1
  for train, test in zip(partition.train, partition.test, strict=True):
    assert set(y_test[test]) <= set(y[train])
  np.testing.assert_array_equal(
    np.sort(np.concatenate(partition.test)),
    np.flatnonzero(np.isin(y_test, np.flatnonzero(held))),
  )


@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 8), SEEDS)
def test_classes_have_equally_many_holders(num_clients, num_classes, n, seed):
  n = min(n, num_classes)
  y = np.repeat(np.arange(num_classes), num_clients)
  parts = data.classes(y, num_clients, n, seed).train
  holders = (data.statistics(parts, y, num_classes) > 0).sum(0)
  assert holders.max() - holders.min() <= 1
  if num_clients * n >= num_classes:
    _used_once(parts, len(y))


@given(_labels(), st.floats(1e-3, 1e3), st.booleans(), st.data(), SEEDS)
@settings(max_examples=200)
def test_dirichlet_keeps_its_minimum(labels, alpha, balance, draw, seed):
  y, y_test = labels
  num_clients = draw.draw(st.integers(1, len(y)))
  min_size = draw.draw(st.integers(1, len(y) // num_clients))
  partition = data.dirichlet(
    y, num_clients, alpha, min_size, seed, y_test, balance=balance
  )
  _used_once(partition.train, len(y))
  assert min(len(part) for part in partition.train) >= min_size
  test = np.concatenate(partition.test)
  assert len(np.unique(test)) == len(test)
  known = np.isin(y_test, y)
  np.testing.assert_array_equal(np.sort(test), np.flatnonzero(known))


@given(_labels(), st.data(), SEEDS)
def test_test_rows_follow_the_train_shares(labels, draw, seed):
  y, y_test = labels
  num_clients = draw.draw(st.integers(1, len(y)))
  partition = data.dirichlet(y, num_clients, 0.5, 1, seed, y_test)
  num_classes = int(max(y.max(), y_test.max())) + 1
  train = data.statistics(partition.train, y, num_classes)
  test = data.statistics(partition.test, y_test, num_classes)
  exact = train * np.bincount(y_test, minlength=num_classes)
  exact = exact / np.maximum(train.sum(0), 1)
  assert np.abs(test - exact).max() <= 1


@given(_labels(), st.floats(0, 1), st.data(), SEEDS)
def test_shards_are_even_and_sorted(labels, iid_share, draw, seed):
  y, y_test = labels
  num_clients = draw.draw(st.integers(1, len(y)))
  partition = data.shards(y, num_clients, iid_share, seed, y_test)
  _used_once(partition.train, len(y))
  size = [len(part) for part in partition.train]
  assert max(size) - min(size) <= 1
  known = np.isin(y_test, y)
  _used_once([*partition.test, np.flatnonzero(~known)], len(y_test))
  if iid_share == 0:
    # One stretch of the sorted labels after the other.
    np.testing.assert_array_equal(
      np.concatenate([np.sort(y[part]) for part in partition.train]),
      np.sort(y),
    )


def test_shards_spread_their_iid_share_evenly():
  # GradAlign: N p / C rows of everything and N (1 - p) / C of one stretch.
  y = np.repeat(np.arange(10), 600)
  counts = data.statistics(data.shards(y, 20, 0.5, 0).train, y, 10)
  assert (counts.sum(1) == 300).all()
  # A stretch of 150 may straddle two classes; the others are of the even part.
  away = np.abs(np.arange(20)[:, None] // 2 - np.arange(10)) > 1
  assert counts[away].max() < 35
  assert abs(counts[away].mean() - 15) < 1


SIZED = {
  'power_law': lambda n, c, k, m, seed, t: data.power_law(n, c, k, m, seed, t),
  'log_normal': lambda n, c, k, m, seed, t: data.log_normal(
    n, c, k, m, seed, t
  ),
}


@pytest.mark.parametrize('kind', SIZED)
@given(
  st.integers(1, 200), st.integers(0, 50), st.floats(0.05, 5), st.data(), SEEDS
)
def test_sizes_keep_their_minimum(kind, rows, num_test, spread, draw, seed):
  num_clients = draw.draw(st.integers(1, rows))
  least = draw.draw(st.integers(1, rows // num_clients))
  partition = SIZED[kind](rows, num_clients, spread, least, seed, num_test)
  _used_once(partition.train, rows)
  _used_once(partition.test, num_test)
  train, test = (np.array([len(part) for part in parts]) for parts in partition)
  assert train.min() >= least
  assert np.abs(test - train * num_test / rows).max() <= 1


def test_power_law_has_its_tail():
  # P(size > s) ~ s^-a: the log of the rank falls with slope a in log(size).
  size = [len(p) for p in data.power_law(10**6, 2000, 1.5, 1, 0).train]
  size = np.sort(size)[::-1].astype(float)
  rank = np.arange(1, 2001)
  top = slice(10, 1000)
  slope = np.polyfit(np.log(size[top]), np.log(rank[top]), 1)[0]
  assert abs(slope + 1.5) < 0.15


def test_log_normal_has_its_spread():
  size = [len(p) for p in data.log_normal(10**6, 2000, 0.8, 1, 0).train]
  assert abs(np.log(size).std() - 0.8) < 0.05
  even = [len(p) for p in data.log_normal(100, 10, 0.0, 1, 0).train]
  assert even == [10] * 10


def test_dirichlet_shares_have_the_moments_of_the_distribution():
  # Mean 1/C and variance (C-1) / (C^2 (C a + 1)) of Dir(a 1_C).
  num_clients, alpha, rows = 4, 0.3, np.full(3000, 10**6)
  rng = np.random.RandomState(0)
  counts = deal.draw_dirichlet(rows, num_clients, alpha, False, rng)
  share = counts / 10**6
  variance = (num_clients - 1) / num_clients**2 / (num_clients * alpha + 1)
  np.testing.assert_allclose(share.mean(1), 1 / num_clients, rtol=0.05)
  np.testing.assert_allclose(share.var(1), variance, rtol=0.05)


def test_balance_closes_clients_that_own_their_part():
  y = np.repeat(np.arange(10), 100)
  rows = np.bincount(y)
  for seed in range(20):
    rng = np.random.RandomState(seed)
    counts = deal.draw_dirichlet(rows, 5, 0.1, True, rng)
    before = np.cumsum(counts, 1) - counts
    assert not counts[before >= len(y) / 5].any()


def test_rows_move_from_the_largest_clients_down_to_a_common_level():
  owner = np.repeat(np.arange(5), [20, 0, 9, 1, 0])
  moved = deal.top_up(owner, 5, 4, np.random.RandomState(0))
  # 11 rows are missing; cutting 20 down to 9 yields them.
  np.testing.assert_array_equal(np.bincount(moved), [9, 4, 9, 4, 4])
  assert (owner[moved != owner] == 0).all()
  same = deal.top_up(owner, 5, 0, np.random.RandomState(0))
  np.testing.assert_array_equal(same, owner)


def test_ten_thousand_clients_get_their_minimum():
  y = np.random.RandomState(0).randint(0, 10, 60_000)
  parts = data.dirichlet(y, 10_000, 0.1, 3, 0).train
  assert len(parts) == 10_000
  assert min(len(part) for part in parts) == 3
  _used_once(parts, len(y))


@given(
  st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=30), st.data()
)
def test_natural_follows_the_ids(ids, draw):
  ids = np.array(ids)
  tested = draw.draw(st.lists(st.sampled_from(ids.tolist()), max_size=10))
  tested = np.array(tested, np.int64)
  partition = data.natural(ids, tested)
  names = sorted(set(ids.tolist()))
  assert len(partition.train) == len(names)
  for name, train, test in zip(
    names, partition.train, partition.test, strict=True
  ):
    np.testing.assert_array_equal(train, np.flatnonzero(ids == name))
    np.testing.assert_array_equal(test, np.flatnonzero(tested == name))


def _fixed():
  """A data set of fixed numbers, with clients 0, 10, .., 60."""
  index = np.arange(400)
  return _dataset(
    (index * index + 3 * index) % 7 % 5,
    (index[:90] * index[:90]) % 5,
    index * 7 % 70 // 10 * 10,
    index[:90] % 7 * 10,
  )


# The first half of each hash.
GOLDEN = {
  'iid': '197aa9caf245523b4f0c1e67e3233a7f',
  'classes': '6ef7d545583b02fc8e1635b2e6d366f4',
  'dirichlet': '6ed6bb0f81111a56a7c5c2ac6d05efb8',
  'natural': '71623a3489b804f773d6e8806faf6ffe',
  'shards': '79677ef7cd89e0ca4104e573232f7b16',
  'power_law': '4144eec181938673f4a23b838a1b7d5d',
  'log_normal': '1efc4c5023a5764b483a964856a88463',
}


@pytest.mark.parametrize('kind', GOLDEN)
def test_partitions_are_frozen(kind):
  partition = data.make_partition(
    kind,
    _fixed(),
    num_clients=20,
    classes_per_client=2,
    alpha=0.2,
    min_size=8,
    iid_share=0.3,
    exponent=1.2,
    sigma=0.7,
    seed=7,
  )
  assert partition.hash[:32] == GOLDEN[kind]


def test_every_kind_is_frozen():
  assert set(GOLDEN) | {'file'} == set(data.KINDS)


@pytest.mark.parametrize('kind', sorted(set(GOLDEN) - {'natural'}))
def test_another_seed_is_another_partition(kind):
  hashes = {
    data.make_partition(kind, _fixed(), num_clients=8, seed=seed).hash
    for seed in range(4)
  }
  assert len(hashes) == 4


@given(
  st.lists(st.lists(st.integers(0, 99)), min_size=1, max_size=8),
  st.lists(st.lists(st.integers(0, 99)), max_size=8),
)
def test_a_saved_partition_keeps_its_hash(tmp_path_factory, train, test):
  partition = data.Partition(
    [np.array(part, np.int64) for part in train],
    [np.array(part, np.int64) for part in test],
  )
  path = str(tmp_path_factory.getbasetemp() / 'partition.npz')
  partition.save(path)
  loaded = data.Partition.load(path)
  assert loaded.hash == partition.hash
  assert [part.tolist() for part in loaded.train] == train
  assert [part.tolist() for part in loaded.test] == test


def test_the_hash_tells_where_a_client_ends():
  rows = [np.array([0]), np.array([1, 2]), np.array([0, 1]), np.array([2])]
  one, other = data.Partition(rows[:2], []), data.Partition(rows[2:], [])
  assert one.hash != other.hash
  assert one.hash != data.Partition([], rows[:2]).hash


BAD = {
  'partition.kind = .diri. is unknown; did you mean .dirichlet.': dict(
    kind='diri'
  ),
  'partition.num_clients = 0 is impossible with 6 train rows; choose 1..6': (
    dict(kind='iid', num_clients=0)
  ),
  'partition.num_clients = 7 is impossible': dict(kind='iid', num_clients=7),
  'partition.classes_per_client = 4 is impossible with 3 classes; '
  'choose 1..3': dict(kind='classes', classes_per_client=4),
  'partition.classes_per_client = 0': dict(
    kind='classes', classes_per_client=0
  ),
  'partition.num_clients = 4 times partition.classes_per_client = 2 needs 8 '
  'shares of a class but the rows make only 6': dict(
    kind='classes', num_clients=4, classes_per_client=2
  ),
  'partition.alpha = 0.0 is no concentration': dict(
    kind='dirichlet', alpha=0.0
  ),
  'partition.alpha = nan': dict(kind='dirichlet', alpha=float('nan')),
  'partition.min_size = 4 for 2 clients is impossible with 6 train rows; '
  'choose 1..3': dict(kind='dirichlet', min_size=4),
  'partition.min_size = 0': dict(kind='dirichlet', min_size=0),
  "partition.kind = 'natural' needs client ids": dict(kind='natural'),
  'partition.iid_share = 1.5 is out of range; choose it in .0, 1.': dict(
    kind='shards', iid_share=1.5
  ),
  'partition.exponent = 0.0 is no exponent': dict(
    kind='power_law', exponent=0.0
  ),
  'partition.sigma = -1.0 is no standard deviation': dict(
    kind='log_normal', sigma=-1.0
  ),
  'partition.min_size = 4 for 2 clients is impossible with 6 train': dict(
    kind='log_normal', min_size=4
  ),
  'partition.num_clients = 9 is impossible with 6': dict(
    kind='power_law', num_clients=9
  ),
}


@pytest.mark.parametrize('message', BAD)
def test_impossible_partitions_say_what_to_change(message):
  dataset = _dataset([0, 0, 1, 1, 2, 2], [0, 1, 2])
  with pytest.raises(ValueError, match=message):
    data.make_partition(**{'num_clients': 2} | BAD[message], dataset=dataset)


def test_natural_names_a_client_without_train_rows():
  with pytest.raises(ValueError, match='client 9 has test rows but no train'):
    data.natural(np.array([3, 3, 5]), np.array([5, 9]))


@pytest.mark.parametrize('kind', ['classes', 'dirichlet', 'shards'])
@pytest.mark.parametrize('y', [np.array([0.5, 1.0]), np.eye(2, dtype=int)])
def test_partitions_by_class_need_class_numbers(kind, y):
  dataset = _dataset([0, 1], [0])._replace(y_train=y)
  with pytest.raises(ValueError, match=f"'{kind}' needs one class number"):
    data.make_partition(kind, dataset, num_clients=1)


def test_a_file_that_is_no_partition_is_refused(tmp_path):
  path = str(tmp_path / 'other.npz')
  np.savez(path, x=np.zeros(3))
  with pytest.raises(ValueError, match='lacks train_rows, train_offsets'):
    data.Partition.load(path)
