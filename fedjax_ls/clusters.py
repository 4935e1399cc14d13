"""Clients in groups: the best split in two, and the tree of all splits."""

import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls.types import Array, Tree


class Clusters(NamedTuple):
  """Which clients are in which cluster, and how the clusters came about.

  M is the largest number of clusters; cluster m > 0 came off another one, and
  has what is told about that split in row m of the arrays below.

  Attributes:
    of: `[C]` each client's cluster.
    num: number of clusters so far.
    rounds: rounds so far.
    parent: `[M]` the cluster that was split, -1 for none.
    born: `[M]` rounds done at the split.
    node: `[M, ...]` parameters and statistics of the model at the split.
    stay: `[M, ...]` mean direction of the updates of those who stayed.
    go: `[M, ...]` mean direction of the updates of those who left.
  """

  of: Array
  num: Array
  rounds: Array
  parent: Array
  born: Array
  node: tuple[Tree, Tree]
  stay: Tree
  go: Tree


def one_cluster(population: int, params: Tree, stats: Tree) -> Clusters:
  """All clients together.

  Args:
    population: number of clients C.
    params: `[M, ...]` the clusters' models.
    stats: `[M, ...]` their statistics.
  """
  most = len(jax.tree.leaves(params)[0])
  return Clusters(
    of=jnp.zeros(population, jnp.int32),
    num=jnp.ones((), jnp.int32),
    rounds=jnp.zeros((), jnp.int32),
    parent=jnp.full(most, -1, jnp.int32),
    born=jnp.zeros(most, jnp.int32),
    node=optax.tree.zeros_like((params, stats)),
    stay=optax.tree.zeros_like(params),
    go=optax.tree.zeros_like(params),
  )


def bipartition(similarity: Array, member: Array) -> tuple[Array, Array]:
  """Splits members in two so that the largest similarity across is least.

  Exact: it cuts the weakest edge of the maximum spanning tree, which is single
  linkage.  Each of K steps costs K operations, so it stays within `jit`.

  Args:
    similarity: `[K, K]`, symmetric.
    member: `[K]` whom to split; at least two.

  Returns:
    `[K]` bool, True for one of the sides and False for the other and for who
    is no member, and the largest similarity between the sides.

  >>> s = jnp.array([[1., .2, .9], [.2, 1., .1], [.9, .1, 1.]])
  >>> side, across = bipartition(s, jnp.ones(3, bool))
  >>> print(side, across)
  [False  True False] 0.2
  """
  size = len(member)
  lowest = jnp.asarray(-jnp.inf, similarity.dtype)
  root = jnp.argmax(member)

  def grow(i, carry):
    """Adds the member that is most similar to somebody in the tree."""
    inside, link, parent, order = carry
    open_ = member & ~inside
    v = jnp.argmax(jnp.where(open_, link, lowest))
    there = jnp.any(open_)
    order = order.at[i].set(jnp.where(there, v, root))
    nearer = there & ~inside & (similarity[v] > link)
    nearer = nearer.at[v].set(False)
    link = jnp.where(nearer, similarity[v], link)
    parent = jnp.where(nearer, v, parent)
    return inside.at[v].set(inside[v] | there), link, parent, order

  ids = jnp.arange(size)
  carry = (
    ids == root,
    similarity[root],
    jnp.full(size, root),
    jnp.full(size, root),
  )
  _, link, parent, order = jax.lax.fori_loop(0, size - 1, grow, carry)
  branch = member & (ids != root)
  top = jnp.argmin(jnp.where(branch, link, jnp.inf))

  def follow(i, side):
    """Who hangs on the cut edge; parents come before their children."""
    v = order[i]
    below = (v == top) | side[parent[v]]
    return side.at[v].set(jnp.where(v == root, False, below))

  side = jax.lax.fori_loop(0, size - 1, follow, jnp.zeros(size, bool))
  return side & member, link[top]


def walk(clusters: Clusters, change_of: Callable[[Tree, Tree], Tree]) -> int:
  """The cluster of a new client, which follows the splits from the first one.

  At each split that concerns it, it trains the model of that time, and goes
  with those whose updates are more similar to its own, on average.

  Args:
    clusters: of a state between two rounds.
    change_of: `(params, stats) -> change of the parameters` by the client's
      training.

  Returns:
    The number of the cluster.
  """
  at = 0
  for new in range(1, int(clusters.num)):
    if int(clusters.parent[new]) != at:
      continue
    node, stay, go = jax.tree.map(
      lambda a, new=new: a[new], (clusters.node, clusters.stay, clusters.go)
    )
    change = change_of(*node)
    if optax.tree.vdot(change, go) > optax.tree.vdot(change, stay):
      at = new
  return at


def draw(clusters: Clusters, path: str | os.PathLike) -> None:
  """Writes a PNG of the tree: who split from whom, and at which round.

  Args:
    clusters: of a state between two rounds.
    path: the file.
  """
  from matplotlib import figure

  place = {m: x for x, m in enumerate(_in_order(clusters, 0))}
  end = int(clusters.rounds)
  fig = figure.Figure((1.6 + 0.8 * len(place), 3.2), dpi=120)
  fig.set_layout_engine('constrained')
  axes = fig.subplots()
  for m, x in place.items():
    born, size = int(clusters.born[m]), int((clusters.of == m).sum())
    axes.plot([x, x], [born, end], color='C0')
    if m:
      axes.plot([place[int(clusters.parent[m])], x], [born, born], color='C0')
    axes.annotate(f'{m}\n{size} clients', (x, end), va='top', ha='center')
  axes.set(ylabel='round', xlim=(-0.6, len(place) - 0.4), xticks=[])
  axes.set_ylim(1.25 * max(end, 1), 0)
  fig.savefig(path, format='png')


def _in_order(clusters: Clusters, m: int) -> list[int]:
  """Cluster m and all that came off it, no lines crossing."""
  found = [m]
  for new in reversed(range(1, int(clusters.num))):
    if clusters.parent[new] == m:
      found += _in_order(clusters, new)
  return found
