"""Groups of clients whose data differ by a transformation: known clusters.

The rows of the clients of a group are rotated, or relabelled, on the host,
and the federation stays what it was: arrays and who owns them.  It costs one
more copy of the data set while it is made; rows that nobody owns stay as they
are.
"""

import itertools
import math

import numpy as np

from fedjax_ls.data import checks
from fedjax_ls.data.dataset import Dataset
from fedjax_ls.data.partition import Partition

TRANSFORMS = ('none', 'rotation', 'label_permutation')


def assign_groups(num_clients: int, num_groups: int, seed: int) -> np.ndarray:
  """Draws the group of each client; sizes of groups differ by one at most.

  Args:
    num_clients: number of clients C.
    num_groups: number of groups G.
    seed: seed of the draw.

  Returns:
    `[C]` int32 groups.

  Raises:
    ValueError: there are more groups than clients, or none.

  >>> assign_groups(5, 2, seed=0)
  array([0, 0, 1, 1, 0], dtype=int32)
  """
  checks.require(
    1 <= num_groups <= num_clients,
    f'partition.num_groups = {num_groups} is impossible with {num_clients} '
    f'clients; choose 1..{num_clients}',
  )
  group = np.arange(num_clients, dtype=np.int32) % num_groups
  return np.random.RandomState(seed).permutation(group)


def transform_groups(
  dataset: Dataset,
  partition: Partition,
  group: np.ndarray,
  transform: str,
  seed: int = 0,
) -> Dataset:
  """Transforms the rows that the clients of each group own.

  - `rotation`: group g of G = 2 or 4 sees images `[H, W, C]` turned by
    `g 360 / G` degrees, counterclockwise;
  - `label_permutation`: group g calls class y `pi_g(y)`; pi_0 changes nothing
    and the others are different random permutations.

  Args:
    dataset: the samples.
    partition: who owns which; no row has two owners.
    group: `[C]` group of each client, from `assign_groups`.
    transform: one of `TRANSFORMS`.
    seed: of the permutations.

  Returns:
    The data set with transformed train and test rows.

  Raises:
    ValueError: an unknown transformation, one that does not fit the data, or
      a row with two owners.

  References:
    Ghosh, Chung, Yin, Ramchandran 2020 (IFCA),
      https://arxiv.org/abs/2006.04088
    Sattler, Mueller, Samek 2019 (CFL), https://arxiv.org/abs/1910.01991
  """
  if transform not in TRANSFORMS:
    raise checks.unknown('partition.transform', transform, TRANSFORMS)
  if transform == 'none':
    return dataset
  num_groups = int(group.max()) + 1
  train = _row_groups('train', partition.train, group, len(dataset.y_train))
  test = _row_groups('test', partition.test, group, len(dataset.y_test))
  if transform == 'rotation':
    _check_rotation(dataset, num_groups)
    return dataset._replace(
      x_train=_rotated(dataset.x_train, train, num_groups),
      x_test=_rotated(dataset.x_test, test, num_groups),
    )
  table = permutations(dataset.num_classes, num_groups, seed)
  return dataset._replace(
    y_train=_renamed(dataset.y_train, train, table),
    y_test=_renamed(dataset.y_test, test, table),
  )


def permutations(num_classes: int, num_groups: int, seed: int) -> np.ndarray:
  """`[G, Y]` int32 permutations of the classes, all different.

  Args:
    num_classes: number of classes Y.
    num_groups: number of permutations G.
    seed: seed of the draw.

  Returns:
    The permutations, the first being the identity.

  Raises:
    ValueError: there are not so many permutations.

  >>> permutations(3, 2, seed=0)
  array([[0, 1, 2],
         [1, 2, 0]], dtype=int32)
  """
  most = math.factorial(min(num_classes, 13))
  checks.require(
    num_classes > 0 and num_groups <= most,
    f'partition.num_groups = {num_groups} permutations of {num_classes} '
    f'classes are impossible; choose 1..{most} groups and class numbers',
  )
  rng = np.random.RandomState(seed)
  drawn = dict.fromkeys([tuple(range(num_classes))])
  # Nearly all of a few permutations would take long to hit by chance.
  if num_classes <= 5:
    every = list(itertools.permutations(range(num_classes)))[1:]
    picks = rng.permutation(len(every))[: num_groups - 1]
    drawn |= dict.fromkeys(every[pick] for pick in picks)
  while len(drawn) < num_groups:
    drawn[tuple(rng.permutation(num_classes).tolist())] = None
  return np.array(list(drawn), np.int32)


def _row_groups(
  split: str, parts: list[np.ndarray], group: np.ndarray, num_rows: int
) -> np.ndarray:
  """`[N]` group of each row's owner, -1 for a row that nobody owns."""
  rows = np.concatenate(parts)
  owned, times = np.unique(rows, return_counts=True)
  checks.require(
    len(owned) == len(rows),
    f'{split} row {owned[np.argmax(times)] if len(rows) else 0} has two '
    'owners, who may be of different groups; give each row to one client',
  )
  groups = np.full(num_rows, -1)
  groups[rows] = np.repeat(group, [len(part) for part in parts])
  return groups


def _check_rotation(dataset: Dataset, num_groups: int) -> None:
  shape = dataset.x_train.shape[1:]
  checks.require(
    len(shape) == 3,
    "partition.transform = 'rotation' needs images [H, W, C] but samples have "
    f'shape {list(shape)}; choose label_permutation',
  )
  checks.require(
    num_groups in (1, 2, 4),
    f'partition.num_groups = {num_groups} does not fit partition.transform = '
    "'rotation'; choose 1, 2 (half turns) or 4 (quarter turns)",
  )
  checks.require(
    num_groups < 4 or shape[0] == shape[1],
    f"partition.transform = 'rotation' cannot turn images {list(shape)} by a "
    'quarter; choose partition.num_groups = 2',
  )


def _rotated(x: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
  x = x.copy()
  for group in range(1, num_groups):
    rows = groups == group
    x[rows] = np.rot90(x[rows], group * 4 // num_groups, axes=(1, 2))
  return x


def _renamed(
  y: np.ndarray, groups: np.ndarray, table: np.ndarray
) -> np.ndarray:
  y = y.copy()
  for group, names in enumerate(table):
    y[groups == group] = names[y[groups == group]]
  return y
