"""The round: reduction, order of the cohort, samplers, debug mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import debug, mapping, samplers
from fedjax_ls import round as round_lib
from fedjax_ls.types import Draw, Execution, Phase, Upload, Weighted
from tests import toy


def reduce(uploads, live):
  sums = [
    mapping.weighted_sums(u, jnp.asarray(v))
    for u, v in zip(uploads, live, strict=True)
  ]
  return mapping.reduce(jax.tree.map(lambda *a: sum(a), *sums))


def test_scalar_weights_give_the_weighted_mean():
  uploads = [{'v': Weighted({'a': jnp.array([x, 1.0])}, w)} for x, w in
             ((1.0, 1.0), (4.0, 2.0))]  # fmt: skip
  reduced = reduce(uploads, [True, True])
  np.testing.assert_allclose(reduced.mean['v']['a'], [3.0, 1.0])
  np.testing.assert_allclose(reduced.total['v']['a'], [9.0, 3.0])
  assert reduced.held['v']['a']


def test_masks_count_elements_and_unheld_ones_are_zero():
  value = jnp.array([2.0, 4.0, 8.0])
  uploads = [
    {'v': Weighted(value, jnp.array([1, 1, 0]))},
    {'v': Weighted(2 * value, jnp.array([0, 1, 0]))},
  ]
  reduced = reduce(uploads, [True, True])
  np.testing.assert_allclose(reduced.mean['v'], [2.0, 6.0, 0.0])
  np.testing.assert_array_equal(reduced.held['v'], [True, True, False])


def test_one_hot_weights_spread_a_value_over_models():
  def upload(model, x):
    onehot = (jnp.arange(3) == model).reshape(3, 1)
    return {'v': Weighted(jnp.full((1, 2), x), onehot)}

  reduced = reduce([upload(0, 1.0), upload(2, 3.0), upload(2, 5.0)], [True] * 3)
  np.testing.assert_allclose(reduced.mean['v'], [[1, 1], [0, 0], [4, 4]])
  np.testing.assert_array_equal(reduced.held['v'], [[1], [0], [1]])


def test_a_dead_slot_counts_for_nothing_even_when_not_finite():
  uploads = [{'v': Weighted(jnp.array(x), 1.0)} for x in (2.0, jnp.nan)]
  assert reduce(uploads, [True, False]).mean['v'] == 2.0
  assert np.isnan(reduce(uploads, [True, True]).mean['v'])


@pytest.mark.parametrize(
  ('devices', 'chunk', 'expected'),
  [
    (1, 1, [1, 3, 0, 2]),
    (1, 2, [1, 3, 0, 2]),
    (2, 1, [1, 2, 3, 0]),
    (2, 2, [1, 3, 0, 2]),
    (1, 3, [1, 3, 0, 2, 4, 5]),
  ],
)
def test_alike_sizes_share_a_chunk_and_devices_share_the_work(
  devices, chunk, expected
):
  size = jnp.array([5, 9, 2, 7])
  for kind in (jnp.asarray, np.asarray):
    order, place = round_lib.by_size(kind(size), devices, chunk)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(np.asarray(order)[place], range(4))


def test_uniform_cohorts_are_distinct_and_equally_likely():
  federation = toy.federation()
  sampler = samplers.uniform(4)
  keys = jax.random.split(jax.random.key(0), 3000)
  ids, _ = jax.vmap(
    lambda key: sampler.sample(None, (), Draw(federation, key, 0))
  )(keys)
  assert all(len(set(row)) == 4 for row in np.asarray(ids))
  counts = np.bincount(np.asarray(ids).ravel(), minlength=6)
  # Each client is in with probability 4/6: five standard deviations.
  spread = np.sqrt(3000 * (4 / 6) * (2 / 6))
  assert np.abs(counts - 2000).max() < 5 * spread


def test_cohorts_differ_between_rounds_and_repeat_with_the_seed():
  p = toy.problem('fedavg')
  seen = []

  def spy(hyper, state, reduced, stacked, cohort):
    seen.append(np.asarray(cohort.ids).tolist())
    return state

  phase = Phase(lambda *_: (), lambda hyper, ctx: Upload(), spy)
  algorithm = p.algorithm._replace(phases=(phase,), sampler=samplers.uniform(4))
  how = Execution(debug=True)
  for seed in (0, 0, 1):
    state = p.state._replace(sampler=(), seed=jnp.uint32(seed), tally={})
    round_lib.run_rounds(algorithm, p.hyper, p.federation, state, 2, how)
  assert seen[0:2] == seen[2:4] != seen[4:6]
  assert seen[0] != seen[1]


def test_debug_mode_names_the_client_and_shows_its_inputs():
  p = toy.problem('fedavg')
  row = int(p.federation.index[5, 0])
  x = p.federation.x.at[row].set(jnp.nan)
  how = Execution(debug=True)
  with pytest.raises(debug.ClientError) as error:
    round_lib.run_rounds(
      p.algorithm, p.hyper, p.federation._replace(x=x), p.state, 1, how
    )
  message = str(error.value)
  assert message.startswith('round 0, client 5: not finite: ')
  assert "['x']: float32[9, 4] in [nan, nan]" in message
  assert 'size 9, tier 2, rows [' in message


def test_debug_mode_names_the_client_that_raises():
  p = toy.problem('fedavg')

  def client(hyper, ctx):
    raise IndexError('no such layer')

  phase = p.algorithm.phases[0]._replace(client=client)
  algorithm = p.algorithm._replace(phases=(phase,))
  how = Execution(debug=True)
  with pytest.raises(debug.ClientError, match=r'client 1: IndexError'):
    round_lib.run_rounds(algorithm, p.hyper, p.federation, p.state, 1, how)
