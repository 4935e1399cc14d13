"""Tiers: sizes of tiers, and who is in which."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_ls import data
from fedjax_ls.data import tiers


@given(
  st.lists(st.integers(1, 9), min_size=1, max_size=40),
  st.lists(st.floats(0.1, 5), min_size=1, max_size=5),
  st.sampled_from(tiers.KINDS),
  st.integers(0, 2**32 - 1),
)
def test_tiers_have_their_shares(size, proportions, kind, seed):
  labels = np.eye(10, dtype=np.int32)[size]
  tier = data.assign_tiers(kind, np.array(size), labels, proportions, seed)
  assert tier.dtype == np.int32
  counts = np.bincount(tier, minlength=len(proportions))
  share = len(size) * np.array(proportions) / np.sum(proportions)
  assert counts.sum() == len(size)
  assert np.abs(counts - share).max() <= 1 + 1e-9
  by_tier = [np.array(size)[tier == t] for t in range(len(proportions))]
  by_tier = [sizes for sizes in by_tier if len(sizes)]
  for first, then in itertools.pairwise(by_tier):
    if kind == 'by_size':
      assert first.min() >= then.max()
    elif kind == 'inverse_size':
      assert first.max() <= then.min()
    elif kind == 'by_class':
      assert first.max() <= then.min()  # the class is the size here


def test_tiers_in_order_go_by_number():
  size, labels = np.array([3, 9, 1, 1, 5, 7]), np.ones((6, 2))
  tier = data.assign_tiers('in_order', size, labels, [1, 2, 3], 5)
  assert tier.tolist() == [0, 1, 1, 2, 2, 2]


def test_random_tiers_follow_the_seed():
  size, labels = np.ones(30), np.ones((30, 2))
  drawn = {
    tuple(data.assign_tiers('random', size, labels, [1, 1, 1], seed).tolist())
    for seed in (0, 0, 1, 2)
  }
  assert len(drawn) == 3


def test_ties_are_drawn():
  size, labels = np.ones(30), np.ones((30, 2))
  drawn = {
    tuple(data.assign_tiers('by_size', size, labels, [1, 1], seed).tolist())
    for seed in range(3)
  }
  assert len(drawn) == 3


def test_the_draw_is_frozen():
  tier = data.assign_tiers('random', np.ones(10), np.ones((10, 1)), [2, 1], 7)
  assert tier.tolist() == TIERS


TIERS = [1, 0, 0, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
  ('kind', 'labels', 'proportions', 'message'),
  [
    ('size', np.ones((3, 2)), [1], "tiers.kind = 'size' is unknown"),
    (
      'random',
      np.ones((3, 2)),
      [1, 0],
      r'proportions = \(1, 0\) are no shares',
    ),
    ('random', np.ones((3, 2)), [], 'are no shares; give one number above 0'),
    ('by_class', np.ones((3, 0)), [1], 'needs class numbers'),
  ],
)
def test_settings_are_checked(kind, labels, proportions, message):
  with pytest.raises(ValueError, match=message):
    data.assign_tiers(kind, np.ones(3), labels, proportions)
