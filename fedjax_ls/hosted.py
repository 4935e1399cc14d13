"""Rounds over data that stay on the host.

The examples (arrays, or files mapped into memory) and the clients' states
never are on the device as a whole: a thread gathers the next cohort's examples
while the device works on this one, and the states of a cohort go there and
back.  Several processes each read only the examples of their own devices.
"""

import collections
import concurrent.futures
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_ls import round as round_lib
from fedjax_ls.data.federation import Federation
from fedjax_ls.placement import place, split
from fedjax_ls.types import Algorithm, Execution, Slots, State

Tree = Any


class HostFederation(NamedTuple):
  """All examples and who owns them, in the host's memory or in files.

  Attributes:
    x: `[N, ...]` inputs, NumPy array or memory map.
    y: `[N, ...]` labels or targets.
    rows: row numbers, client after client.
    offset: `[C + 1]`; client c owns `rows[offset[c]:offset[c + 1]]`.
    labels: `[C, Y]` counts of the classes.
    tier: `[C]` resource tiers.
  """

  x: np.ndarray
  y: np.ndarray
  rows: np.ndarray
  offset: np.ndarray
  labels: np.ndarray
  tier: np.ndarray

  @property
  def num_clients(self) -> int:
    """Number of clients C."""
    return len(self.offset) - 1


def on_host(federation: Federation) -> HostFederation:
  """A federation of NumPy arrays as one that stays on the host.

  >>> from fedjax_ls.data import federate
  >>> made = federate(np.ones((3, 2)), np.array([0, 1, 1]), [[2], [1, 0]])
  >>> on_host(made).rows, on_host(made).offset
  (array([2, 1, 0], dtype=int32), array([0, 1, 3]))
  """
  own = np.arange(federation.index.shape[1]) < federation.size[:, None]
  return HostFederation(
    federation.x,
    federation.y,
    federation.index[own],
    np.concatenate([[0], np.cumsum(federation.size)]),
    federation.labels,
    federation.tier,
  )


def outline(host: HostFederation) -> Federation:
  """What samplers and methods may see of it: all but the examples.

  One example stays, for its shape and type.
  """
  size = np.diff(host.offset).astype(np.int32)
  index = np.zeros((len(size), 1), np.int32)
  x, y = np.array(host.x[:1]), np.array(host.y[:1])
  return Federation(x, y, index, size, host.labels, host.tier)


def init(algorithm: Algorithm, hyper, outlined: Federation, key, seed) -> State:
  """As `round.init`, with the clients' states as NumPy arrays.

  States that start at zero take memory only once they are touched.

  Args:
    algorithm: the method.
    hyper: its numbers.
    outlined: `outline(...)` of the data.
    key: random key of the initial parameters.
    seed: integer seed of the training randomness.

  Returns:
    The state before the first round; `clients` is `[C, ...]` on the host.
  """
  _, client = algorithm.init(hyper, key, outlined)
  population = len(outlined.size)

  def many(leaf):
    leaf = np.asarray(leaf)
    states = np.zeros((population, *leaf.shape), leaf.dtype)
    if leaf.any():
      states[:] = leaf
    return states

  states = jax.tree.map(many, client)
  return round_lib.init(algorithm, hyper, outlined, key, seed, states)


def advance(
  algorithm: Algorithm, host: HostFederation, execution: Execution
) -> Callable[[Any, Federation, State, Any], State]:
  """Builds the block of rounds over data on the host.

  Args:
    algorithm: the method; its sampler must not ask clients.
    host: the data.
    execution: how rounds are mapped over clients, `fed`.

  Returns:
    `(hyper, outline, state, num_rounds) -> state`; the clients' states in it
    are NumPy arrays and are changed in place, the rest is used up.
  """
  population = host.num_clients
  watches = algorithm.sampler.observe is not None
  draw = jax.jit(partial(round_lib.draw, algorithm, execution=execution))
  observe = jax.jit(partial(round_lib.observe, algorithm))

  @partial(jax.jit, donate_argnums=2)
  def step(hyper, slots: Slots, state: State):
    server, clients, report, own = round_lib.exchange(
      algorithm, hyper, state, slots, population, execution
    )
    if execution.mesh is not None:  # each process keeps all states
      spec = jax.sharding.PartitionSpec()
      everywhere = jax.sharding.NamedSharding(execution.mesh, spec)
      clients, own = jax.lax.with_sharding_constraint(
        (clients, own), everywhere
      )
    tally = round_lib.add_up(state.tally, report)
    state = state._replace(server=server, tally=tally, round=state.round + 1)
    return state, clients, own, state.round + 0

  def rounds(hyper, outlined, state: State, num_rounds) -> State:
    states, previous, sampler = state.clients, None, [state.sampler]
    drawn = _drawn(
      partial(draw, hyper, outlined), sampler, state, int(num_rounds), execution
    )
    state = state._replace(clients=(), sampler=())
    # Who watches a round must have seen it before drawing the next one.
    for slots in _prefetched(drawn, host, execution, 0 if watches else 1):
      placed = _placed(slots, _gather_states(states, slots.ids), execution)
      state, clients, own, now = step(hyper, placed, state)
      _write_states(states, slots.ids, clients)
      if watches:
        ids = place(slots.ids[slots.place], execution)
        sampler[0] = observe(hyper, sampler[0], ids, own)
      if previous is not None:
        previous.block_until_ready()  # at most two rounds are under way
      previous = now
    return state._replace(clients=states, sampler=sampler[0])

  return rounds


def _drawn(draw, sampler: list[Tree], state: State, num_rounds: int, execution):
  """Yields the cohort of each round; keeps the sampler's state up to date."""
  first, seed = jax.device_get((state.round, state.seed))
  # The steps use up the rest of the state: draw from a copy of the seed.
  bare: Any = state._replace(server=(), clients=(), tally={})
  bare = bare._replace(seed=place(seed, execution))
  for t in range(int(first), int(first) + num_rounds):
    t = place(np.int32(t), execution)
    ids, sampler[0] = draw(bare._replace(sampler=sampler[0], round=t))
    yield jax.device_get(ids)


def _prefetched(drawn, host: HostFederation, execution: Execution, ahead: int):
  """Yields the slots of each cohort, gathering those of `ahead` more."""
  asked: collections.deque = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    for ids in drawn:
      asked.append(pool.submit(lay_out, host, ids, execution))
      if len(asked) > ahead:
        yield asked.popleft().result()
    for ready in asked:
      yield ready.result()


def lay_out(
  host: HostFederation, ids: np.ndarray, execution: Execution
) -> Slots:
  """Gathers a cohort's examples for this process's devices.

  The number of examples is rounded up to a power of two, so that a run
  compiles a few programs and not one a round.

  Returns:
    The slots as NumPy arrays without states; `x` and `y` are a list of one
    array for each device of this process.
  """
  devices = _devices(execution)
  population = host.num_clients
  known = np.minimum(ids, population - 1)
  size = np.where(
    ids < population, host.offset[known + 1] - host.offset[known], 0
  )
  order, place = round_lib.by_size(size, len(devices), execution.chunk)
  padding = order >= len(ids)
  order = np.where(padding, 0, order)
  ids = np.where(padding, population, ids[order]).astype(np.int32)
  size = np.where(padding, 0, size[order]).astype(np.int32)
  known = np.minimum(ids, population - 1)
  by_device = size.reshape(len(devices), -1)
  longest = _power_of_two(np.diff(host.offset).max())
  capacity = _power_of_two(by_device.sum(1).max())
  begin = (np.cumsum(by_device, 1) - by_device).reshape(-1, 1)
  owned = [
    _rows(host, mine, capacity)
    for device, mine in zip(devices, ids.reshape(by_device.shape), strict=True)
    if device.process_index == jax.process_index()
  ]
  return Slots(
    ids=ids,
    size=size,
    rows=np.minimum(begin + np.arange(longest), capacity - 1).astype(np.int32),
    labels=host.labels[known],
    tier=host.tier[known],
    state=(),
    x=[host.x[rows] for rows in owned],
    y=[host.y[rows] for rows in owned],
    place=place,
  )


def _devices(execution: Execution) -> list[jax.Device]:
  if execution.mesh is None:
    return jax.local_devices()[:1]
  return list(execution.mesh.devices.flat)


def _rows(host: HostFederation, ids: np.ndarray, capacity: int) -> np.ndarray:
  """Rows of some clients, one after another, then row 0."""
  live = ids[ids < host.num_clients]
  own = [host.rows[host.offset[i] : host.offset[i + 1]] for i in live]
  rows = np.concatenate([*own, np.zeros(capacity, host.rows.dtype)])
  return rows[:capacity]


def _power_of_two(count: int) -> int:
  return 1 << max(int(count) - 1, 0).bit_length()


def _placed(slots: Slots, state: Tree, execution: Execution) -> Slots:
  """Slots on the devices: examples on their own, the rest on all."""
  rest = place(slots._replace(state=state, x=(), y=()), execution)
  x, y = (split(blocks, execution) for blocks in (slots.x, slots.y))
  return rest._replace(x=x, y=y)


def _gather_states(states: Tree, ids: np.ndarray) -> Tree:
  return jax.tree.map(lambda a: a[np.minimum(ids, len(a) - 1)], states)


def _write_states(states: Tree, ids: np.ndarray, clients: Tree) -> None:
  if jax.tree.leaves(states):

    def write(array, new):
      live = ids < len(array)
      array[ids[live]] = new[live]

    jax.tree.map(write, states, jax.device_get(clients))
