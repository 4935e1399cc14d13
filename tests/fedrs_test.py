"""FedRS: its factors; and wrong ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import calibrations
from fedjax_ls.algorithms.fedrs import FedRS
from tests import oracles, toy
from tests.breaking import error

pytestmark = pytest.mark.usefixtures('x64')


@pytest.mark.parametrize(
  ('labels', 'graded', 'expected'),
  [
    ((4, 0, 12), False, [1, 0.2, 1]),
    ((4, 0, 12), True, [0.8 / 3 + 0.2, 0.2, 1]),
    ((0, 0, 0), True, [0.2, 0.2, 0.2]),
  ],
)
def test_the_factors_by_hand(labels, graded, expected):
  calibrate = calibrations.fedrs(lambda hyper: 0.2, graded=graded)
  logits = jnp.array([[1.0, 1.0, 1.0], [-2.0, -3.0, 0.0]])
  got = calibrate(None, jnp.array(labels), logits)
  np.testing.assert_allclose(got, logits * np.array([expected]), rtol=1e-12)
  windows = jnp.stack([logits, logits], 1)
  got = calibrate(None, jnp.array(labels), windows)
  np.testing.assert_allclose(got, windows * np.array([[expected]]), rtol=1e-12)


def test_binary_is_not_graded():
  graded = toy.problem('fedrs', FedRS(graded=True))
  got = oracles.weights_of(toy.run(graded).server.params)
  binary = oracles.ORACLES['fedrs'](toy.problem('fedrs'))
  assert np.abs(got[1] - binary[1]).max() > 1e-4


def test_scaling_the_classes_that_are_there(monkeypatch):
  fedrs = calibrations.fedrs

  def swapped(alpha, *, graded):
    calibrate = fedrs(alpha, graded=graded)
    return lambda hyper, labels, logits: calibrate(hyper, labels == 0, logits)

  monkeypatch.setattr(calibrations, 'fedrs', swapped)
  assert error('fedrs') > 1e-4
