"""A run's programs for many points at a time.

Points lie in a grid: G packs of V points.  The points of a pack have the same
clients and the same training seed, hence the same cohorts and batches, which
are gathered once, and numbers that all points of a group share have no batch
axis, so that narrow clients choose their network without one; the packs are
spread over the devices, and over the memory of each.  Where each point spreads
its clients too (`execution.devices`), the devices are a mesh of points x
clients.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_ls import build, loop
from fedjax_ls.data import Federation
from fedjax_ls.sweep.groups import Group
from fedjax_ls.types import State

Tree = Any


class Layout(NamedTuple):
  """How many points run at a time.

  Attributes:
    devices: number of devices, or of groups of `clients` devices.
    packs: packs on each.
    points: points of a pack.
    clients: devices that each point spreads its clients over.
  """

  devices: int = 1
  packs: int = 1
  points: int = 1
  clients: int = 1

  @property
  def grid(self) -> tuple[int, int]:
    """Packs in all, and points of each."""
    return self.devices * self.packs, self.points

  @property
  def mesh(self) -> jax.sharding.Mesh | None:
    """The devices that points spread over, None for a single one."""
    if self.devices == 1:
      return None
    axes = {'points': self.devices}
    if self.clients > 1:
      axes['clients'] = self.clients
    auto = (jax.sharding.AxisType.Auto,) * len(axes)
    some = jax.devices()[: self.devices * self.clients]
    return jax.make_mesh(tuple(axes.values()), tuple(axes), auto, devices=some)

  def job(self, group: Group) -> loop.Job:
    """The job of a point, its clients on their axis of the mesh."""
    if self.devices == 1 or self.clients == 1:
      return group.job
    execution = group.job.execution._replace(mesh=self.mesh)
    return group.job._replace(execution=execution)


class Common(NamedTuple):
  """What all points read: examples, and test sets by name."""

  x: Any
  y: Any
  tests: dict[str, tuple[Any, Any]]


class Pack(NamedTuple):
  """What the points of a pack share, `[G, ...]`.

  Attributes:
    federation: without `x` and `y`.
    tests: without those of `Common`.
    seed: of the training randomness.
  """

  federation: Federation
  tests: dict[str, Federation]
  seed: Any


class Own(NamedTuple):
  """What is left of a `State` for each point, `[G, V, ...]`."""

  server: Tree
  clients: Tree
  sampler: Tree
  tally: Tree


class Programs(NamedTuple):
  """The compiled parts of a group's runs.

  Attributes:
    advance: `(common, now, pack, hyper, own, rounds) -> own`; uses up `own`.
    judge: `(common, now, pack, hyper, own) -> (metrics, healthy)`, each
      `[G, V]`.
    seconds: what compiling took.
    memory: bytes that a block of rounds needs with its arguments, 0 if the
      backend does not say.
  """

  advance: Callable[..., Own]
  judge: Callable[..., tuple[dict[str, jax.Array], jax.Array]]
  seconds: float
  memory: int


class Arguments(NamedTuple):
  """All that `Programs` read but the number of rounds; `now` is the round."""

  common: Common
  now: Any
  pack: Pack
  hyper: Tree
  own: Own


def compile_group(
  group: Group, layout: Layout, arguments: Arguments
) -> Programs:
  """Compiles a block of rounds and the evaluation.

  Args:
    group: whose job to compile.
    layout: of the points.
    arguments: only shapes and types are read.

  Raises:
    fedjax_ls.loop.OutOfMemory: they do not fit a device.
  """
  begin = time.perf_counter()
  job = layout.job(group)
  block, judge = loop.block(job), loop.judgement(job)

  def advance(common, now, pack, hyper, own, rounds):
    federation, state, _ = _assembled(common, now, pack, own)
    state = block(hyper, federation, state, rounds)
    return Own(*state[:4])

  def judged(common, now, pack, hyper, own):
    federation, state, tests = _assembled(common, now, pack, own)
    return judge(hyper, federation, state, tests)

  shapes = [
    jax.tree.map(lambda a, s=s: _shape(a, s), value)
    for value, s in zip(arguments, _shardings(group, layout), strict=True)
  ]
  axes = _axes(group)
  advancing = jax.jit(_spread(advance, layout, axes), donate_argnums=4)
  judging = jax.jit(_spread(judged, layout, axes))
  with loop.memory_named(group.job):
    compiled = advancing.lower(*shapes, shapes[1]).compile()
    evaluates = judging.lower(*shapes).compile()
  taken = time.perf_counter() - begin
  return Programs(compiled, evaluates, taken, _bytes(compiled))


def place(arguments: Arguments, group: Group, layout: Layout) -> Arguments:
  """Puts the arguments on the devices; what is there already stays."""
  return Arguments(*map(jax.device_put, arguments, _shardings(group, layout)))


def put_common(common: Common, group: Group, layout: Layout) -> Common:
  """The examples, on the devices."""
  return jax.device_put(common, _shardings(group, layout)[0])


def put_number(value: int, group: Group, layout: Layout) -> jax.Array:
  """A number that all points share, on the devices."""
  return jax.device_put(np.int32(value), _shardings(group, layout)[1])


def put_own(tree: Tree, group: Group, layout: Layout) -> Tree:
  """Arrays `[G, V, ...]` of the points, on the devices."""
  return jax.device_put(tree, _shardings(group, layout)[4])


def _shardings(group: Group, layout: Layout) -> list[jax.sharding.Sharding]:
  """Where each of the arguments is."""
  mesh = layout.mesh or group.job.execution.mesh
  if mesh is None:
    alone = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return [alone] * len(Arguments._fields)
  split = ('points',) if layout.mesh else ()
  specs = (), (), split, split, split
  return [
    jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    for spec in specs
  ]


def _shape(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  shape, dtype = np.shape(array), np.asarray(array).dtype
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _assembled(
  common: Common, now: Any, pack: Pack, own: Own
) -> tuple[Federation, State, dict[str, Federation]]:
  """The arguments of a single run."""
  federation = pack.federation._replace(x=common.x, y=common.y)
  state = State(*own, seed=pack.seed, round=now)
  tests = {
    name: test._replace(x=common.tests[name][0], y=common.tests[name][1])
    if name in common.tests
    else test
    for name, test in pack.tests.items()
  }
  return federation, state, tests


def _axes(group: Group) -> Tree:
  """For each number 0, or None if all points have the same."""
  numbers = [build.settings(point.config) for point in group.points]
  return jax.tree.map(lambda *v: 0 if len(set(v)) > 1 else None, *numbers)


def _spread(function: Callable, layout: Layout, axes: Tree) -> Callable:
  """`function` of one point for the whole grid.

  The first two arguments and those after the fifth are the same for all, the
  third is each pack's, the fourth and the fifth are each point's; `axes` are
  of the fourth.
  """

  def local(common, now, pack, hyper, own, *rest):
    def of_pack(pack, hyper, own):
      def of_point(hyper, own):
        return function(common, now, pack, hyper, own, *rest)

      if layout.points == 1:
        return _each(of_point, 1)(hyper, own)
      hyper = jax.tree.map(
        lambda axis, a: a[0] if axis is None else a,
        axes,
        hyper,
        is_leaf=lambda axis: axis is None,
      )
      return jax.vmap(of_point, in_axes=(axes, 0))(hyper, own)

    return _each(of_pack, layout.packs)(pack, hyper, own)

  if layout.mesh is None:
    return local
  whole, split = (jax.sharding.PartitionSpec(*s) for s in ((), ('points',)))

  def sharded(common, now, pack, hyper, own, *rest):
    # No axis is summed over, so there is nothing for types to tell.
    return jax.shard_map(
      local,
      mesh=layout.mesh,
      in_specs=(whole, whole, split, split, split, *[whole] * len(rest)),
      out_specs=split,
      axis_names={'points'},
      check_vma=False,
    )(common, now, pack, hyper, own, *rest)

  return sharded


def _each(function: Callable, size: int) -> Callable:
  """Maps over the first axis; without a batch axis where it has length 1.

  Matrix products then stay plain and loops end when they are done.
  """
  if size > 1:
    return jax.vmap(function)

  def single(*args):
    out = function(*jax.tree.map(lambda a: a[0], args))
    return jax.tree.map(lambda a: a[None], out)

  return single


def _bytes(compiled: Any) -> int:
  found = compiled.memory_analysis()
  if found is None:
    return 0
  return found.temp_size_in_bytes + found.argument_size_in_bytes
