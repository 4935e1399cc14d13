"""Width-masked FedAvg with BatchNorm: who counts for which channel."""

import jax
import numpy as np
import pytest

from fedjax_ls import algorithms
from fedjax_ls import round as round_lib
from fedjax_ls.models import MLP, width_submodels
from tests import toy

pytestmark = pytest.mark.usefixtures('x64')

CHANNELS = (6, 3, 2)  # of the tiers


def with_batch_norm():
  p = toy.problem('width')
  net = MLP(hidden=(6,), num_classes=3, norm='bn', norm_affine=True)
  submodels = width_submodels(net, p.federation.x[:1], toy.RATES)
  parts = algorithms.Parts(toy.model(net), toy.given(), submodels=submodels)
  algorithm = algorithms.find('width').build(p.hyper.method, parts)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  return p._replace(algorithm=algorithm, state=state)


def test_each_channel_is_averaged_over_its_holders():
  """Clients 1, 2 and 4 hold 3, 2 and 3 of the six channels."""
  p = with_batch_norm().with_cohorts([[1, 2, 4]])
  client = jax.jit(p.algorithm.phases[0].client)
  key = jax.random.fold_in(jax.random.key(0), 0)
  key = jax.random.split(key)[1]
  top, bottom = np.zeros(6), np.zeros(6)
  scale = np.zeros(6)
  for i in (1, 2, 4):
    mine = jax.random.fold_in(jax.random.fold_in(key, i), 0)
    upload = client(p.hyper, toy.ctx(p, i)._replace(key=mine))
    held = CHANNELS[i % 3]
    stats = np.asarray(upload.summed['stats'].value['norm0']['mean'])
    change = np.asarray(upload.summed['delta'].value['norm0']['scale'])
    top[:held] += toy.SIZES[i] * stats[:held]
    scale[:held] += toy.SIZES[i] * change[:held]
    bottom[:held] += toy.SIZES[i]
    assert not change[held:].any()
  server = toy.run(p, 1).server
  got = np.asarray(server.stats['norm0']['mean'])
  np.testing.assert_allclose(got[:3], top[:3] / bottom[:3], rtol=1e-9)
  assert np.abs(got[:3]).min() > 1e-4
  np.testing.assert_array_equal(got[3:], 0)
  gains = np.asarray(server.params['norm0']['scale'])
  np.testing.assert_allclose(gains[:3], 1 + scale[:3] / bottom[:3], rtol=1e-9)
  np.testing.assert_array_equal(gains[3:], 1)
