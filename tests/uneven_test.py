"""Parts change what methods for narrow and shallow clients do, and combine."""

import functools

import jax
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import build, config
from fedjax_ls import config as config_lib
from fedjax_ls import round as round_lib
from fedjax_ls.data import tiers
from fedjax_ls.validate import validate

LOSSES = (('sampler.name', 'pow_d'), ('sampler.cohort_size', 3))

# (method, without the part, with it)
CASES = {
  'fn-heterofl': ('heterofl', (), (('model.norm', 'fn'),)),
  'yogi-heterofl': ('heterofl', (), (('server.optimizer', 'yogi'),)),
  'pow_d-heterofl': ('heterofl', (), LOSSES),
  'decorrelation-depthfl': (
    'depthfl', (), (('loss.terms', ('decorrelation',)),)
  ),
  'feddyn-depthfl': ('depthfl', (('algorithm.feddyn', False),), ()),
}  # fmt: skip


def prepared(method: str, fields: tuple) -> build.Experiment:
  """Six uneven clients with labels, in two tiers."""
  made = fl.Config(
    data=config.Data(name='synthetic'),
    partition=config.Partition(kind='natural', num_clients=6),
    model=config.Model(hidden=(6, 4)),
    algorithm=fl.algorithms.find(method).settings(rates=('1', '1/2')),
    client=fl.Client(learning_rate=0.05, batch_size=8, unit='steps', amount=2),
    execution=config.Execution(slim=False),
  )
  for field, value in fields:
    config_lib.set_field(made, field, value)
  return build.prepare(validate(made))


@functools.cache
def two_rounds(method: str, fields: tuple):
  """`federation -> leaves of the server's parameters`, and the federation."""
  job, state = prepared(method, fields)[:2]

  @jax.jit
  def go(federation):
    return round_lib.run_rounds(
      job.algorithm, job.hyper, federation, state, 2, job.execution
    )

  return lambda own: jax.tree.leaves(go(own).server.params), job.federation


def trained(method: str, fields: tuple):
  go, federation = two_rounds(method, fields)
  return go(federation)


def differ(ours, theirs) -> bool:
  return any(
    np.abs(a - b).max() > 1e-5 for a, b in zip(ours, theirs, strict=True)
  )


@pytest.mark.parametrize('case', CASES)
def test_a_part_runs_and_changes_the_method(case):
  method, without, part = CASES[case]
  ours, theirs = trained(method, part), trained(method, without)
  assert all(np.isfinite(leaf).all() for leaf in ours)
  assert differ(ours, theirs)


def test_every_kind_of_tiers_is_another_federation():
  go, _ = two_rounds('heterofl', ())
  kinds = [prepared('heterofl', (('tiers.kind', k),)) for k in tiers.KINDS]
  ends = [go(kind.job.federation) for kind in kinds]
  for i, ours in enumerate(ends):
    assert all(np.isfinite(leaf).all() for leaf in ours)
    assert all(differ(ours, theirs) for theirs in ends[:i])
