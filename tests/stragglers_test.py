"""Stragglers: clients that do part of their local work."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import hyper, local, validate
from tests import choosing, oracles, toy
from tests.messages_test import says
from tests.train_test import tiny

PARTIAL = {'partial_work': True, 'stragglers': 0.6, 'amount': 4}
STEPS = {**PARTIAL, 'unit': 'steps'}


def error(name, client):
  """Largest difference from the method's oracle after three rounds."""
  p = toy.problem(name, client=client)
  got = oracles.weights_of(toy.run(p).server.params)
  pairs = zip(got, oracles.ORACLES[name](p), strict=True)
  return max(np.abs(a - b).max() for a, b in pairs)


def test_how_much_is_left_is_uniform():
  client = hyper.Client(amount=5, partial_work=True, stragglers=0.4)
  keys = jax.random.split(jax.random.key(0), 4000)
  done = jax.vmap(lambda key: local.amount_done(client, key))(keys)
  share = np.bincount(done, minlength=6) / len(keys)
  expected = [0, 0.08, 0.08, 0.08, 0.08, 0.68]
  np.testing.assert_allclose(share, expected, atol=0.025)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
  ('name', 'client'),
  [
    ('fedavg', STEPS),
    ('fedprox', PARTIAL),
    ('scaffold', PARTIAL),
    ('fednova', PARTIAL),
  ],
)
def test_methods_agree_with_their_oracles(name, client):
  """SCAFFOLD and FedNova count the steps that a client has taken."""
  assert error(name, client) < 1e-9


def test_some_clients_of_the_oracles_straggle():
  d = oracles.Data(toy.problem('fedavg', client=PARTIAL))
  done = {d.amount(t, i) for t in range(3) for i in d.cohort(t)}
  assert len(done) > 2


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', ['scaffold', 'fednova'])
def test_counting_the_steps_that_were_planned_is_noticed(monkeypatch, name):
  end = local.End
  monkeypatch.setattr(
    local, 'End', lambda *a: end(*a)._replace(steps=jnp.asarray(4.0))
  )
  assert error(name, STEPS) > 1e-4


@pytest.mark.parametrize('unit', ['steps', 'epochs'])
def test_without_stragglers_nothing_changes(unit):
  plain = {'amount': 3, 'unit': unit}
  none = {**plain, 'partial_work': True, 'stragglers': 0.0}
  ours, theirs = (
    toy.run(toy.problem('fedavg', client=client)) for client in (none, plain)
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    (ours.server, ours.tally),
    (theirs.server, theirs.tally),
  )


@pytest.mark.usefixtures('x64')
def test_shares_are_one_program_and_chunks_and_devices_change_nothing():
  p = toy.problem('fedavg', client=STEPS)
  points = [
    p.hyper._replace(
      client=dataclasses.replace(p.hyper.client, stragglers=jnp.asarray(share))
    )
    for share in (0.9, 0.2)
  ]
  choosing.sweep_and_executions(p, points)


WRONG = [
  ('fedavg', {'client__stragglers': 1.5}, ('client.stragglers = 1.5',)),
  ('fedavg', {'client__amount': 1}, ('needs client.amount above 1',)),
  ('fedavg', {'clock__macs_per_second': (1e6,)}, ('does not fit a clock',)),
  ('qffl', {'algorithm__option': 'batch'}, ("option = 'batch'", 'no local')),
  ('ifca', {'algorithm__option': 'gradients'}, ("option = 'gradients'",)),
]


@pytest.mark.parametrize(('method', 'fields', 'parts'), WRONG)
def test_stragglers_that_make_no_sense(method, fields, parts):
  config = tiny(method, client__partial_work=True)
  for name, value in fields.items():
    group, field = name.split('__')
    setattr(getattr(config, group), field, value)
  with says(*parts):
    validate.validate(config)
