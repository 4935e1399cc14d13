"""What the tests of samplers share."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls import hyper
from fedjax_ls import round as round_lib
from fedjax_ls.types import Execution
from tests import oracles, toy


def with_sampler(p: toy.Problem, sampler, **numbers) -> toy.Problem:
  """The toy problem with another sampler and its numbers."""
  algorithm = p.algorithm._replace(sampler=sampler)
  settings = dataclasses.replace(hyper.Sampler(), **numbers)
  settings = jax.tree.map(lambda a: jnp.asarray(a, float), settings)
  all_numbers = p.hyper._replace(sampler=settings)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, all_numbers, p.federation, key, seed=0)
  return p._replace(algorithm=algorithm, hyper=all_numbers, state=state)


def drawing(p: toy.Problem, **execution):
  """`(hyper, state) -> (ids, sampler state)`, compiled."""
  how = Execution(**execution)
  draw = partial(round_lib.draw, p.algorithm)
  return jax.jit(lambda numbers, state: draw(numbers, p.federation, state, how))


def losses(p: toy.Problem) -> np.ndarray:
  """Each client's mean loss at the server's model, by the oracle."""
  d, w = oracles.Data(p), oracles.weights_of(p.state.server.params)
  return np.array([oracles.loss(w, *d.own(i)) for i in range(toy.DEAD)])


def seeded(state, seed: int):
  return state._replace(seed=jnp.uint32(seed))


def assert_close(a, b, tolerance=1e-10):
  jax.tree.map(
    lambda u, v: np.testing.assert_allclose(
      u, v, rtol=tolerance, atol=tolerance
    ),
    a,
    b,
  )


def sweep_and_executions(p: toy.Problem, points) -> None:
  """Three rounds: one trace; chunks, a mesh and a vmapped sweep alike."""
  go = toy.program(p)
  singles = [go(n, p.federation, p.state) for n in points]
  assert go._cache_size() == 1
  for how in ({'chunk': 3}, {'mesh': round_lib.clients_mesh(4)}):
    assert_close(toy.program(p, **how)(points[0], p.federation, p.state),
                 singles[0])  # fmt: skip
  stacked = jax.tree.map(lambda *a: jnp.stack(a), *points)
  swept = jax.jit(jax.vmap(go, in_axes=(0, None, None)))(
    stacked, p.federation, p.state
  )
  assert_close(swept, jax.tree.map(lambda *a: jnp.stack(a), *singles))
