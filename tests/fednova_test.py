"""FedNova: what a client's change is divided by."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import config as config_lib
from fedjax_ls import validate
from fedjax_ls.algorithms import fednova
from fedjax_ls.hyper import Client
from tests import oracles, toy
from tests.breaking import error
from tests.oracles.fednova import gathered

pytestmark = pytest.mark.usefixtures('x64')
SGD, MOMENTUM = Client(optimizer='sgd'), Client(optimizer='momentum')


@pytest.mark.parametrize('tau', [0, 1, 7])
def test_progress_is_the_closed_form(tau):
  a, mu, r = 0.1, 0.3, 0.9
  near = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12)  # noqa: E731
  near(fednova.progress(SGD, a, 0.0, tau), tau)
  near(fednova.progress(SGD, a, mu, tau), (1 - (1 - a * mu) ** tau) / (a * mu))
  near(
    fednova.progress(MOMENTUM, a, 0.0, tau),
    (tau - r * (1 - r**tau) / (1 - r)) / (1 - r),
  )
  near(fednova.progress(MOMENTUM, a, mu, tau), gathered(tau, r, a * mu))


@pytest.mark.parametrize(
  ('optimizer', 'mu'), [('sgd', 0.0), ('sgd', 0.7), ('momentum', 0.7)]
)
def test_agrees_with_its_oracle(optimizer, mu):
  client = {'optimizer': optimizer}
  p = toy.problem('fednova', fednova.FedNova(mu), client)
  got = oracles.weights_of(toy.run(p).server.params)
  for a, b in zip(got, oracles.ORACLES['fednova'](p), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
  'wrong',
  [
    lambda client, rate, mu, steps: jnp.ones_like(steps),
    lambda client, rate, mu, steps: steps,
  ],
  ids=['not dividing', 'forgetting momentum'],
)
def test_wrong_progress(monkeypatch, wrong):
  monkeypatch.setattr(fednova, 'progress', wrong)
  assert error('fednova') > 1e-4


@pytest.mark.parametrize(
  ('field', 'value', 'fix'),
  [
    ('client.optimizer', 'adam', 'use sgd or momentum'),
    ('loss.terms', ('proximal',), 'set algorithm.mu'),
  ],
)
def test_what_it_refuses(field, value, fix):
  config = config_lib.Config(algorithm=fednova.FedNova())
  config_lib.set_field(config, field, value)
  with pytest.raises(ValueError, match=fix) as caught:
    fednova.METHOD.check(config)
  assert '\n' not in str(caught.value)


def test_the_check_is_made():
  config = config_lib.Config(algorithm=fednova.FedNova())
  config.client.optimizer = 'adam'
  with pytest.raises(config_lib.ConfigError, match='fednova'):
    validate.validate(config)
