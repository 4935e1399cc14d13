"""How many points run at a time, and which together."""

import math
from typing import NamedTuple

from fedjax_ls import config as config_lib
from fedjax_ls.sweep.groups import Group
from fedjax_ls.sweep.point import Point
from fedjax_ls.sweep.programs import Layout

Pack = list[Point]
# A point and where in the grid it is.
Place = tuple[Point, tuple[int, int]]


class Batch(NamedTuple):
  """Points that run together.

  Attributes:
    packs: those of each pack, as many as the layout has room for or fewer.
  """

  packs: list[Pack]

  @property
  def points(self) -> list[Point]:
    """All of them."""
    return [point for pack in self.packs for point in pack]

  def grid(self, layout: Layout) -> list[list[Point]]:
    """`[G][V]` points; the last ones again where there is room left."""
    num_packs, width = layout.grid
    full = [pack + pack[-1:] * (width - len(pack)) for pack in self.packs]
    return full + full[-1:] * (num_packs - len(full))

  def places(self) -> list[Place]:
    """Each point once, with its place in the grid."""
    return [
      (point, (g, v))
      for g, pack in enumerate(self.packs)
      for v, point in enumerate(pack)
    ]


def choose(sizes: list[int], devices: int, at_once: int, mixed: bool) -> Layout:
  """The layout for sets of points that may share a pack.

  Args:
    sizes: points in each set.
    devices: most devices to use.
    at_once: most points at a time on one device.
    mixed: whether a device may run several packs at a time.

  >>> choose([8, 8, 8, 8], 2, 8, mixed=False)
  Layout(devices=2, packs=1, points=8, clients=1)
  >>> choose([8], 2, 8, mixed=False)
  Layout(devices=2, packs=1, points=4, clients=1)
  >>> choose([1, 1, 1, 1], 1, 8, mixed=True)
  Layout(devices=1, packs=4, points=1, clients=1)
  """
  devices = min(devices, sum(sizes))
  width = min(at_once, max(sizes))

  def count(width: int) -> int:
    return sum(math.ceil(size / width) for size in sizes)

  while count(width) < devices:
    width -= 1
  # As narrow as gives the same number of packs: less is filled up.
  width = max(math.ceil(s / math.ceil(s / width)) for s in sizes)
  packs = 1
  if mixed:
    packs = min(at_once // width, math.ceil(count(width) / devices))
    rounds = math.ceil(count(width) / (devices * packs))
    packs = math.ceil(count(width) / (devices * rounds))
  return Layout(devices, packs, width)


def deal(group: Group, layout: Layout) -> list[Batch]:
  """The batches of a group, the same whatever of them has run already."""
  packs = [
    members[at : at + layout.points]
    for members in _alike(group)
    for at in range(0, len(members), layout.points)
  ]
  room = layout.grid[0]
  return [Batch(packs[at : at + room]) for at in range(0, len(packs), room)]


def sizes(group: Group) -> list[int]:
  """How many points may share packs, for `choose`."""
  return [len(members) for members in _alike(group)]


def _alike(group: Group) -> list[list[Point]]:
  """Points with the same clients and the same training seed."""
  found: dict[tuple[int, int], list[Point]] = {}
  for point in group.points:
    seed = config_lib.seeds(point.config)['train']
    found.setdefault((group.own[point.id], seed), []).append(point)
  return list(found.values())
