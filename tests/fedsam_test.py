"""FedSAM gone wrong: its oracle notices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_ls import transforms
from tests import oracles, toy
from tests.breaking import error

pytestmark = pytest.mark.usefixtures('x64')


def test_going_downhill():
  p = toy.problem('fedsam')
  expected = oracles.ORACLES['fedsam'](p)
  method = jax.tree.map(jnp.negative, p.hyper.method)
  got = toy.run(p._replace(hyper=p.hyper._replace(method=method)))
  got = oracles.weights_of(got.server.params)
  assert np.abs(got[0] - expected[0]).max() > 1e-4


def test_a_step_as_long_as_the_gradient(monkeypatch):
  def unnormalized(rho):
    def update(updates, state, params=None, *, grad_fn, **_):
      return grad_fn(optax.tree.add_scale(params, rho, updates)), state

    return optax.GradientTransformationExtraArgs(
      lambda _: optax.EmptyState(), update
    )

  monkeypatch.setattr(transforms, 'sharpness_aware', unnormalized)
  assert error('fedsam') > 1e-4
