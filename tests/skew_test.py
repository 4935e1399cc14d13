"""Numbers of label skew, against SciPy-free formulas client by client."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedjax_ls.data import skew

COUNTS = hnp.arrays(
  np.int64, st.tuples(st.integers(1, 6), st.integers(1, 5)),
  elements=st.integers(0, 9),
)  # fmt: skip


@given(COUNTS)
def test_numbers_are_those_of_a_plain_loop(counts):
  measured = skew.measure(counts)
  total = max(counts.sum(), 1)
  for client, row in enumerate(counts.tolist()):
    rows = sum(row)
    assert measured.rows[client] == rows
    assert measured.classes[client] == sum(n > 0 for n in row)
    if not rows:
      assert math.isnan(measured.effective_classes[client])
      continue
    entropy = -sum(n / rows * math.log(n / rows) for n in row if n)
    distance = sum(
      abs(n / rows - whole / total)
      for n, whole in zip(row, counts.sum(0).tolist(), strict=True)
    )
    np.testing.assert_allclose(
      measured.effective_classes[client], math.exp(entropy)
    )
    np.testing.assert_allclose(
      measured.total_variation[client], distance / 2, atol=1e-12
    )


def test_many_clients_are_summed_up():
  counts = np.tile([[3, 1], [0, 4]], (40, 1))
  text = skew.table(skew.measure(counts))
  assert len(text.splitlines()) == 5
  assert len(skew.table(skew.measure(counts), most=80).splitlines()) == 85
