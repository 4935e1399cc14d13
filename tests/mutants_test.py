"""Wrong methods: the oracles must notice each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_ls import local, mapping, narrow, server, transforms
from fedjax_ls.algorithms import scaffold
from tests import oracles, toy
from tests.breaking import error, patched_server_step

pytestmark = pytest.mark.usefixtures('x64')


@pytest.mark.parametrize('name', ['fedavg', 'scaffold', 'fedga', 'ifca'])
def test_dropping_n_k(monkeypatch, name):
  monkeypatch.setattr(server, 'client_weight', lambda *_: jnp.ones(()))
  assert error(name) > 1e-4


def test_counting_padding_as_examples(monkeypatch):
  original = local.batch

  def unmasked(*args):
    rows, mask = original(*args)
    return rows, jnp.ones_like(mask)

  p = toy.problem('fedavg')
  expected = oracles.ORACLES['fedavg'](p)
  monkeypatch.setattr(local, 'batch', unmasked)
  got = oracles.weights_of(toy.run(p).server.params)
  assert np.abs(got[0] - expected[0]).max() > 1e-4


def test_not_updating_the_servers_control(monkeypatch):
  patched_server_step(
    monkeypatch,
    scaffold,
    lambda before, after: after._replace(extra=before.extra),
  )
  assert error('scaffold') > 1e-4


def test_dividing_the_control_by_the_cohort(monkeypatch):
  def wrong(before, after):
    change = optax.tree.sub(after.extra, before.extra)
    factor = len(toy.SIZES) / toy.COHORTS.shape[1]
    return after._replace(
      extra=optax.tree.add_scale(before.extra, factor, change)
    )

  patched_server_step(monkeypatch, scaffold, wrong)
  assert error('scaffold') > 1e-4


def test_wrong_sign_of_the_control(monkeypatch):
  def flipped():
    def update(updates, state, params=None, *, control, **_):
      return optax.tree.sub(updates, control), state

    return optax.GradientTransformationExtraArgs(
      lambda _: optax.EmptyState(), update
    )

  monkeypatch.setattr(transforms, 'control_variate', flipped)
  assert error('scaffold') > 1e-4


def uploaded_outside_the_mask(p):
  """Largest change that a client of the least tier reports elsewhere."""
  narrowest = len(toy.RATES) - 1
  upload = p.algorithm.phases[0].client(p.hyper, toy.ctx(p, narrowest))
  change, weight = upload.summed['delta']
  outside = jax.tree.map(lambda v, w: jnp.abs(v * (w == 0)), change, weight)
  return max(a.max() for a in jax.tree.leaves(outside))


def test_masking_before_weight_decay(monkeypatch):
  assert uploaded_outside_the_mask(toy.problem('width')) == 0
  chain = optax.chain
  monkeypatch.setattr(narrow.optax, 'chain', lambda *a: chain(*reversed(a)))
  assert uploaded_outside_the_mask(toy.problem('width')) > 1e-4


def test_counting_who_does_not_hold(monkeypatch):
  submodels = toy.width_submodels

  def everyone_holds(*args):
    made = submodels(*args)
    full = jax.tree.map(jnp.ones_like, made.mask(0))
    return made._replace(mask=lambda tier: full)

  monkeypatch.setattr(toy, 'width_submodels', everyone_holds)
  assert error('width') > 1e-4


def test_displacing_the_other_way(monkeypatch):
  p = toy.problem('fedga')
  expected = oracles.ORACLES['fedga'](p)
  method = jax.tree.map(jnp.negative, p.hyper.method)
  p = p._replace(hyper=p.hyper._replace(method=method))
  got = oracles.weights_of(toy.run(p).server.params)
  assert np.abs(got[0] - expected[0]).max() > 1e-4


def test_moving_an_empty_cluster(monkeypatch):
  everywhere = lambda held, new, old: new  # noqa: E731
  monkeypatch.setattr(server, 'where', everywhere)
  p = toy.problem('ifca', server={'optimizer': 'momentum'})
  go = toy.program(p)
  empty = p.with_cohorts(np.array([[0, 1, 2, 3]] + [[toy.DEAD] * 4] * 2))
  once = go(p.hyper, p.federation, empty.state, 1).server.params
  twice = go(p.hyper, p.federation, empty.state, 2).server.params
  leaves = zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True)
  assert any(np.abs(a - b).max() > 1e-6 for a, b in leaves)


def test_weighing_dead_slots(monkeypatch):
  original = mapping.weighted_sums
  monkeypatch.setattr(
    mapping,
    'weighted_sums',
    lambda weighted, live: original(weighted, True),
  )
  p = toy.problem('fedavg', server={'weights': 'uniform'})
  short = np.array([[0, 1, toy.DEAD, toy.DEAD]] * 3)
  p = p.with_cohorts(short)
  got = oracles.weights_of(toy.run(p).server.params)
  expected = oracles.ORACLES['fedavg'](p)
  assert np.abs(got[0] - expected[0]).max() > 1e-4
