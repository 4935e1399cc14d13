"""Points that share a program: their clients as arrays of one shape."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_ls import build, loop
from fedjax_ls.data import Federation
from fedjax_ls.sweep import axes
from fedjax_ls.sweep.point import Point


class Clients(NamedTuple):
  """Who owns what, for the points of one partition.

  Attributes:
    plan: of the first of these points.
    federation: without `x` and `y`, which all share; `index` is padded to the
      longest of the group and counts in the shared rows.
    tests: as in `Job`, without `x` and `y` where all share them.
  """

  plan: build.Plan
  federation: Federation
  tests: dict[str, Federation]


class Group(NamedTuple):
  """Points that differ in numbers and in the contents of arrays only.

  Attributes:
    points: at least one.
    job: of the first point, arrays on the host.
    x: `[N, ...]` the examples of all points.
    y: `[N, ...]` their labels or targets.
    tests: `(x, y)` of the test sets that are the same for all points.
    clients: one for each partition.
    own: `{id of a point: place of its clients in that list}`.
  """

  points: list[Point]
  job: loop.Job
  x: np.ndarray
  y: np.ndarray
  tests: dict[str, tuple[np.ndarray, np.ndarray]]
  clients: list[Clients]
  own: dict[str, int]

  def clients_of(self, point: Point) -> Clients:
    """The clients of one of the points."""
    return self.clients[self.own[point.id]]

  @property
  def padded_rows(self) -> float:
    """Share of the row numbers that only make the shapes equal."""
    longest = self.clients[0].federation.index.shape[1]
    lengths = [c.plan.job.federation.index.shape[1] for c in self.clients]
    return 1 - sum(lengths) / (longest * len(lengths))


def structures(points: list[Point]) -> list[list[Point]]:
  """The points of each structure, in the order of the first ones."""
  found: dict[str, list[Point]] = {}
  for point in points:
    found.setdefault(axes.structure(point.config), []).append(point)
  return list(found.values())


def prepare(
  points: list[Point], stored: dict[str, Any] | None = None
) -> list[Group]:
  """Reads the clients of points of one structure.

  Args:
    points: of one structure.
    stored: what an earlier start of one of them resolved to.

  Returns:
    One group, or more where the arrays cannot have the same shapes.

  Raises:
    ConfigError: a configuration does not fit the data or the machine.
  """
  plans: dict[str, build.Plan] = {}
  members: dict[str, list[Point]] = {}
  for point in points:
    key = axes.samples(point.config)
    if key not in plans:
      plans[key] = build.plan(point.config, stored)
    members.setdefault(key, []).append(point)
  shapes: dict[Any, list[str]] = {}
  for key, plan in plans.items():
    shapes.setdefault(_shape(plan.job), []).append(key)
  return [
    group([plans[key] for key in keys], [members[key] for key in keys])
    for keys in shapes.values()
  ]


def group(plans: list[build.Plan], members: list[list[Point]]) -> Group:
  """Joins the clients of several partitions into arrays of one shape.

  Args:
    plans: one a partition, whose arrays may have the same shapes.
    members: the points of each.

  Returns:
    The group, its arrays on the host; examples that several partitions have
    are there once.
  """
  jobs = [plan.job for plan in plans]
  x, y, offsets = _joined([job.federation for job in jobs])
  names = list(jobs[0].tests)
  held = {name: [job.tests[name] for job in jobs] for name in names}
  same = {
    name: (tests[0].x, tests[0].y)
    for name, tests in held.items()
    if all(_same(tests[0], test) for test in tests)
  }
  clients = []
  for i, plan in enumerate(plans):
    federation = plan.job.federation
    index = _widened([job.federation for job in jobs], i) + offsets[i]
    own = federation._replace(x=None, y=None, index=index)
    tests = {}
    for name in names:
      test = held[name][i]._replace(index=_widened(held[name], i))
      tests[name] = test._replace(x=None, y=None) if name in same else test
    clients.append(Clients(plan, own, tests))
  owns = {p.id: i for i, group in enumerate(members) for p in group}
  points = [point for group in members for point in group]
  return Group(points, jobs[0], x, y, same, clients, owns)


def _shape(job: loop.Job) -> Any:
  """What must be equal for arrays to share a program."""

  def shape(a: Any) -> Any:
    return np.shape(a), str(np.asarray(a).dtype)

  def kind(federation: Federation) -> Any:
    x, y = federation.x, federation.y
    return (
      shape(x[:0]), shape(y[:0]), shape(federation.labels),
      federation.index.shape[1] > 0,
    )  # fmt: skip

  tests = {name: (kind(test), len(test.x)) for name, test in job.tests.items()}
  return kind(job.federation), tuple(sorted(tests.items()))


def _joined(
  federations: list[Federation],
) -> tuple[np.ndarray, np.ndarray, list[int]]:
  """All examples, those that are the same once, and where each begins."""
  different: list[Federation] = []
  which = []
  for federation in federations:
    found = [i for i, f in enumerate(different) if _same(f, federation)]
    which.append(found[0] if found else len(different))
    different += [] if found else [federation]
  begins = np.cumsum([0, *(len(f.x) for f in different)])
  if len(different) == 1:
    return different[0].x, different[0].y, [0] * len(which)
  x = np.concatenate([f.x for f in different])
  y = np.concatenate([f.y for f in different])
  return x, y, [int(begins[i]) for i in which]


def _same(a: Federation, b: Federation) -> bool:
  return np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y)


def _widened(federations: list[Federation], i: int) -> np.ndarray:
  """Row numbers of one, as wide as the widest; nobody reads what is added."""
  longest = max(f.index.shape[1] for f in federations)
  index = federations[i].index
  return np.pad(index, ((0, 0), (0, longest - index.shape[1])))
