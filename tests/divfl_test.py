"""DivFL against plain loops, exhaustive search and exact gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import samplers
from fedjax_ls.samplers import facility
from tests import choosing, oracles, toy

pytestmark = pytest.mark.usefixtures('x64')


def between(points):
  return np.sqrt(((points[:, None] - points) ** 2).sum(-1))


def cost(distance, chosen) -> float:
  return distance[:, list(chosen)].min(1).sum()


def is_greedy(distance, chosen, allowed) -> bool:
  """Whether each client is one of the best given those before it."""
  for n, client in enumerate(chosen):
    rest = [i for i in allowed if i not in chosen[:n]]
    costs = {i: cost(distance, [*chosen[:n], i]) for i in rest}
    if client not in rest or costs[client] > min(costs.values()) + 1e-9:
      return False
  return True


def representatives(far, left, count=3, subset=0, seed=0):
  return facility.representatives(
    far, count, left, jax.random.key(seed), subset
  )


ALL = np.ones(9, bool)


def test_greedy_is_the_plain_loop_and_near_the_best():
  random = np.random.RandomState(0)
  go = jax.jit(representatives)
  apart = squared = 0
  for _ in range(30):
    far = between(random.randn(9, 2) ** 3)
    found = go(jnp.asarray(far), ALL).tolist()
    assert is_greedy(far, found, range(9))
    squared += is_greedy(far**2, found, range(9))
    best = min(cost(far, s) for s in itertools.combinations(range(9), 3))
    # The gain over a facility as far from all as any is submodular.
    worst = far.max() * 9
    assert worst - cost(far, found) >= (1 - 1 / np.e) * (worst - best)
    apart += cost(far, found) > best + 1e-9
    left = np.arange(9) != found[0]
    rest = go(jnp.asarray(far), left).tolist()
    assert is_greedy(far, rest, np.flatnonzero(left))
  assert apart > 0  # greedy is not exhaustive
  assert squared < 30  # squared distances would choose others
  assert go(jnp.asarray(far), np.arange(9) == 4).tolist() == [4, 9, 9]


def test_stochastic_greedy_chooses_within_its_subsets():
  far = between(np.random.RandomState(1).randn(9, 2))
  go = jax.jit(
    jax.vmap(
      lambda seed: representatives(jnp.asarray(far), ALL, subset=3, seed=seed)
    )
  )
  ids = np.asarray(go(np.arange(500)))
  assert all(len(set(row)) == 3 for row in ids)
  # The best first choice is seen in 3 of 9 subsets.
  medoid = int(np.argmin(far.sum(0)))
  share = np.mean(ids[:, 0] == medoid)
  assert share == pytest.approx(3 / 9, abs=5 * np.sqrt(2 / 9 / 500))
  assert len({tuple(row) for row in ids}) > 10
  whole = representatives(jnp.asarray(far), ALL, subset=9)
  assert is_greedy(far, whole.tolist(), range(9))


def own_distances(rows):
  rows = jnp.asarray(rows)
  return facility.distances(rows, rows, jnp.arange(len(rows)))


def test_distances_are_never_nan_and_zero_to_oneself():
  random = np.random.RandomState(2)
  rows = (1e3 + 1e-3 * random.randn(5, 40)).astype(np.float32)
  found = own_distances(rows)
  assert np.isfinite(found).all()
  assert (np.diag(found) == 0).all()
  rows = random.randn(5, 40)
  found = own_distances(rows)
  np.testing.assert_allclose(found, between(rows), atol=1e-12)


def test_sketches_keep_distances_on_average():
  random = np.random.RandomState(3)
  rows = jnp.asarray(random.randn(2, 300))
  exact = float(jnp.sum((rows[0] - rows[1]) ** 2))
  salts = jnp.asarray(random.randint(0, 2**32, (400, 2), np.uint32))

  def square(salts):
    a, b = (facility.sketched(row, salts, 32) for row in rows)
    return jnp.sum((a - b) ** 2)

  found = np.asarray(jax.vmap(square)(salts)) / exact
  spread = np.sqrt(2 / 32)
  assert found.mean() == pytest.approx(1, abs=5 * spread / np.sqrt(400))
  assert found.std() == pytest.approx(spread, rel=0.3)


def flat_gradients(p, state) -> np.ndarray:
  """Each client's full gradient at the server's model, by the oracle."""
  bare = p._replace(state=state._replace(sampler=()))
  d, w = oracles.Data(bare), oracles.weights_of(state.server.params)
  rows = [oracles.gradient(w, *d.own(i)) for i in range(toy.DEAD)]
  return np.array([np.concatenate([v.ravel() for v in g]) for g in rows])


@pytest.mark.parametrize(
  ('kind', 'refresh'), [('head', 'cohort'), ('full', 'everyone')]
)
def test_rounds_follow_the_definition(kind, refresh):
  p = toy.problem('fedavg')
  sampler = samplers.divfl(2, toy.model(), gradients=kind, refresh=refresh)
  p = choosing.with_sampler(p, sampler)
  draw, go, state = choosing.drawing(p), toy.program(p), p.state
  known, seen = None, set()
  for _ in range(4):
    now = flat_gradients(p, state)
    now = now[:, 24:] if kind == 'head' else now
    known = now if known is None or refresh == 'everyone' else known
    ids, after = draw(p.hyper, state)
    ids = ids.tolist()
    assert is_greedy(between(known), ids, range(6))
    seen |= set(ids)
    if refresh == 'cohort':
      known[ids] = now[ids]
      np.testing.assert_allclose(after.distances, between(known), atol=1e-9)
    state = go(p.hyper, p.federation, state, 1)
  assert len(seen) > 1


def test_divfl_is_the_same_however_it_is_run():
  p = toy.problem('fedavg')
  sampler = samplers.divfl(3, toy.model(), gradients='sketch', sketch_size=16)
  p = choosing.with_sampler(p, sampler)
  points = [jax.tree.map(lambda a, f=f: a * f, p.hyper) for f in (1.0, 0.5)]
  choosing.sweep_and_executions(p, points)


def test_too_many_bytes_and_no_head_are_refused(monkeypatch):
  model, federation = toy.model(), toy.federation()
  monkeypatch.setattr(facility, 'MOST_BYTES', 6 * (42 + 6) * 8 - 1)
  with pytest.raises(
    ValueError, match=r'42 numbers .* 2304 bytes, more than 2'
  ):
    samplers.divfl(2, model).init(federation)
  samplers.divfl(2, model, gradients='head').init(federation)
  monkeypatch.setattr(facility, 'HEAD', 'top')
  with pytest.raises(ValueError, match="needs parameters called 'top'"):
    samplers.divfl(2, model, gradients='head').init(federation)
