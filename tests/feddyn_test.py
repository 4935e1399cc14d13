"""FedDyn: both forms, what they share, and wrong ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_ls import algorithms
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms import feddyn
from tests import oracles, toy
from tests.breaking import error, patched_server_step

pytestmark = pytest.mark.usefixtures('x64')
TOY = algorithms.find('feddyn').toy


def weights_after_equal_clients(form, **client):
  """Three rounds with everybody, each client having three examples."""
  settings = dataclasses.replace(TOY, form=form)
  p = toy.problem('feddyn', settings, client).with_cohorts(toy.EVERYONE)
  data = p.federation._replace(size=jnp.full_like(p.federation.size, 3))
  state = round_lib.init(
    p.algorithm, p.hyper, data, jax.random.key(1), seed=0
  )._replace(sampler=p.state.sampler)
  return toy.run(p._replace(federation=data, state=state)).server.params


def test_both_forms_are_one_for_equal_clients():
  paper, code = map(weights_after_equal_clients, ('paper', 'code'))
  for a, b in zip(*map(oracles.weights_of, (paper, code)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_clipping_tells_the_forms_apart():
  clip = {'clip': True, 'clip_norm': 0.1}
  paper, code = (
    oracles.weights_of(weights_after_equal_clients(form, **clip))
    for form in ('paper', 'code')
  )
  assert np.abs(paper[0] - code[0]).max() > 1e-4


def test_the_authors_form_agrees_with_the_oracle():
  p = toy.problem('feddyn', dataclasses.replace(TOY, form='code'))
  got = oracles.weights_of(toy.run(p).server.params)
  for a, b in zip(got, oracles.ORACLES['feddyn'](p), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_the_servers_history_is_the_mean_of_the_clients():
  state = toy.run(toy.problem('feddyn'))
  jax.tree.map(
    lambda h, each: np.testing.assert_allclose(h, each.mean(0), atol=1e-12),
    state.server.extra.history,
    state.clients,
  )


def test_dividing_the_history_by_the_cohort(monkeypatch):
  def wrong(before, after):
    change = optax.tree.sub(after.extra.history, before.extra.history)
    factor = len(toy.SIZES) / toy.COHORTS.shape[1]
    history = optax.tree.add_scale(before.extra.history, factor, change)
    return after._replace(extra=after.extra._replace(history=history))

  patched_server_step(monkeypatch, feddyn, wrong)
  assert error('feddyn') > 1e-4


def test_forgetting_the_clients_history():
  p = toy.problem('feddyn')
  expected = oracles.ORACLES['feddyn'](p)
  (phase,) = p.algorithm.phases
  forgetful = phase._replace(
    client=lambda hyper, ctx: phase.client(hyper, ctx)._replace(state=ctx.state)
  )
  p = p._replace(algorithm=p.algorithm._replace(phases=(forgetful,)))
  got = oracles.weights_of(toy.run(p).server.params)
  assert np.abs(got[0] - expected[0]).max() > 1e-4


def test_unknown_form():
  with pytest.raises(ValueError, match=r"algorithm.form is 'x'; use paper"):
    toy.problem('feddyn', feddyn.FedDyn(form='x'))
