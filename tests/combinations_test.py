"""Parts combine: every pair of options runs, or is refused with a reason."""

import functools
import itertools

import jax
import numpy as np
import pytest

import fedjax_ls as fl
from experiments import combinations
from fedjax_ls import build, config
from fedjax_ls import round as round_lib


def base() -> fl.Config:
  """Six small clients with labels, and a small network."""
  return fl.Config(
    data=config.Data(name='synthetic'),
    partition=config.Partition(kind='natural', num_clients=6),
    model=config.Model(hidden=(8,), initializer='torch'),
    client=fl.Client(learning_rate=0.05, batch_size=8, unit='steps', amount=2),
  )


@functools.cache
def refused():
  return combinations.refused()


@functools.cache
def cases():
  return combinations.covering(refused())


def name_of(case):
  default = combinations.default()
  return '-'.join(v for k, v in case.items() if v != default[k]) or 'default'


@pytest.mark.parametrize('case', cases(), ids=name_of)
def test_a_combination_trains_for_two_rounds(case):
  experiment = build.prepare(combinations.configure(case, base()))
  job, state = experiment.job, experiment.state
  program = jax.jit(
    lambda state: round_lib.run_rounds(
      job.algorithm, job.hyper, job.federation, state, 2, job.execution
    )
  )
  before = jax.device_get(state.server)
  after = jax.device_get(program(state).server)
  leaves = list(zip(*map(jax.tree.leaves, (before, after)), strict=True))
  assert all(np.isfinite(new).all() for _, new in leaves)
  assert any((old != new).any() for old, new in leaves)


def test_every_pair_runs_or_is_refused():
  covered = {pair for case in cases() for pair in combinations.pairs_of(case)}
  assert covered.isdisjoint(refused())
  alike = set(combinations.ALIKE)
  ours = {p for p in combinations.pairs() if alike.isdisjoint(p)}
  assert covered | set(refused()) >= ours


def test_reasons_name_a_field_and_the_fix():
  for why in refused().values():
    assert '=' in why
    assert ';' in why


def test_the_rows_hold_every_refused_pair_once():
  found = [
    pair
    for these, those, _ in combinations.rows()
    for pair in itertools.product(these, those)
  ]
  assert sorted(found) == sorted((x, y) for (_, x), (_, y) in refused())


def test_the_readme_says_what_is_refused():
  assert combinations.table() in combinations.README.read_text()
