"""Who owns which row: partitions of a data set over clients.

A partition is made once, on the host, from a NumPy `RandomState` (whose
streams are frozen across NumPy versions), so that a seed means the same
clients on every machine.  Internally each kind decides one number a train
row, its owner; the test set is cut so that every client's share of a class is
the same as in the train set.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_ls.data import checks, deal
from fedjax_ls.data.sources import Dataset, read_arrays

# A skewed draw rarely reaches the minimum size by luck when clients are many,
# so a few draws are enough before rows are moved.
DRAWS = 10


class Partition(NamedTuple):
  """Rows of every client.

  Attributes:
    train: one ascending int64 array of train rows a client, none empty.
    test: one ascending int64 array of test rows a client, may be empty.
  """

  train: list[np.ndarray]
  test: list[np.ndarray]

  @property
  def hash(self) -> str:
    """Sha256 (hex) of who owns what; a file's name or time do not enter.

    >>> iid(4, 2, seed=0).hash[:8]
    '9a43b507'
    """
    digest = hashlib.sha256()
    for array in self._arrays().values():
      digest.update(np.int64(len(array)).astype('<i8').tobytes())
      digest.update(array.astype('<i8').tobytes())
    return digest.hexdigest()

  def save(self, path: str) -> None:
    """Writes the partition as an .npz file of four int64 arrays."""
    with open(path, 'wb') as file:
      np.savez(file, **self._arrays())  # type: ignore[arg-type]

  @classmethod
  def load(cls, path: str) -> 'Partition':
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is missing, unreadable or no partition.
    """
    names = [f'{s}_{a}' for s in ('train', 'test') for a in ('rows', 'offsets')]
    arrays = read_arrays('partition file', path, tuple(names))
    train, test = (
      np.split(arrays[f'{split}_rows'], arrays[f'{split}_offsets'][1:])[:-1]
      for split in ('train', 'test')
    )
    return cls(train, test)

  def _arrays(self) -> dict[str, np.ndarray]:
    """Rows of all clients in a line, and where each client's begin."""
    arrays = {}
    for split, parts in (('train', self.train), ('test', self.test)):
      rows = np.concatenate(parts) if parts else np.zeros(0)
      offsets = np.cumsum([0, *map(len, parts)])
      arrays[f'{split}_rows'] = rows.astype(np.int64)
      arrays[f'{split}_offsets'] = offsets.astype(np.int64)
    return arrays


def make_partition(
  kind: str,
  dataset: Dataset,
  *,
  num_clients: int,
  classes_per_client: int = 1,
  alpha: float = 0.1,
  min_size: int = 1,
  balance: bool = False,
  seed: int = 0,
) -> Partition:
  """Partitions a data set by the name of the kind.

  Args:
    kind: a key of `KINDS`, the field `partition.kind`.
    dataset: what to partition.
    num_clients: number of clients C; `natural` counts its own.
    classes_per_client: for `classes`.
    alpha: for `dirichlet`.
    min_size: for `dirichlet`.
    balance: for `dirichlet`.
    seed: seed of the partition.

  Returns:
    The partition; every client owns at least one train row.

  Raises:
    ValueError: one sentence on an unknown kind or an impossible partition.
  """
  if kind not in KINDS:
    raise checks.unknown('partition.kind', kind, KINDS)
  settings = {
    'num_clients': num_clients,
    'classes_per_client': classes_per_client,
    'alpha': alpha,
    'min_size': min_size,
    'balance': balance,
    'seed': seed,
  }
  return KINDS[kind](dataset, settings)


def iid(
  num_rows: int, num_clients: int, seed: int, num_test: int = 0
) -> Partition:
  """Shuffles the rows and deals them out; sizes differ by one at most.

  Args:
    num_rows: number of train rows.
    num_clients: number of clients C.
    seed: seed of the shuffle.
    num_test: number of test rows.

  Returns:
    A partition in which every train and test row is used once.

  Raises:
    ValueError: there are more clients than rows.
  """
  _check_clients(num_clients, num_rows)
  rng = np.random.RandomState(seed)
  train, test = (
    rng.permutation(np.arange(n) % num_clients) for n in (num_rows, num_test)
  )
  return Partition(
    deal.group(train, num_clients), deal.group(test, num_clients)
  )


def classes(
  y: np.ndarray,
  num_clients: int,
  classes_per_client: int,
  seed: int,
  y_test: np.ndarray | None = None,
) -> Partition:
  """Every client holds exactly n classes; a class is cut evenly.

  Each class gets nearly `C n / Y` holders (fewer where it has fewer rows).
  Clients then draw their classes one after the other, a class being as likely
  as it has holders left; a class that needs every client still to come is
  drawn for sure, so the draw never fails.

  Args:
    y: `[N]` class numbers of the train rows.
    num_clients: number of clients C.
    classes_per_client: n, number of distinct classes of every client.
    seed: seed of the draw.
    y_test: `[M]` class numbers of the test rows.

  Returns:
    A partition that uses every train row of every class with a holder, which
    is every class if C n is at least the number of classes.  A client's test
    rows are of its own classes.

  Raises:
    ValueError: there are not enough classes or rows.

  >>> parts = classes(np.array([0, 0, 1, 1, 2, 2]), 3, 2, seed=0).train
  >>> [part.tolist() for part in parts]
  [[1, 5], [0, 2], [3, 4]]
  """
  _check_class_numbers('classes', y)
  _check_clients(num_clients, len(y))
  rng = np.random.RandomState(seed)
  rows = np.bincount(y)
  total = num_clients * classes_per_client
  capacity = np.minimum(rows, num_clients)
  present = int((rows > 0).sum())
  checks.require(
    1 <= classes_per_client <= present,
    f'partition.classes_per_client = {classes_per_client} is impossible with '
    f'{present} classes; choose 1..{present}',
  )
  checks.require(
    int(capacity.sum()) >= total,
    f'partition.num_clients = {num_clients} times partition.classes_per_client '
    f'= {classes_per_client} needs {total} shares of a class but the rows '
    f'make only {capacity.sum()}; lower one of them',
  )
  number = deal.holders(capacity, total, rng)
  counts = deal.shares(deal.draw_classes(number, num_clients, rng), rows)
  train = deal.group(deal.owners(y, counts, rng), num_clients)
  return Partition(train, _cut_alike(counts, y_test, rng))


def dirichlet(
  y: np.ndarray,
  num_clients: int,
  alpha: float,
  min_size: int,
  seed: int,
  y_test: np.ndarray | None = None,
  *,
  balance: bool = False,
) -> Partition:
  """Class by class, shares `q ~ Dir(alpha 1_C)` of the rows go to the clients.

  The draw is repeated up to ten times until all clients own `min_size` rows.
  After that, the largest clients are cut down to a common level and the rows
  taken from one, drawn at random, fill up the smallest clients one after the
  other: these get the class mix of their donor.

  Args:
    y: `[N]` class numbers of the train rows.
    num_clients: number of clients C.
    alpha: concentration > 0; small is skewed, infinity is iid.
    min_size: fewest train rows of a client, at least 1.
    seed: seed of the draw.
    y_test: `[M]` class numbers of the test rows.
    balance: a client that owns N / C rows or more gets nothing of the classes
      still to come, which evens out the sizes (NIID-Bench, and the methods
      that follow it; the LN paper's clients are drawn without).

  Returns:
    A partition that uses every train row.

  Raises:
    ValueError: alpha is not positive or the rows do not suffice.

  References:
    Hsu, Qi, Brown 2019, https://arxiv.org/abs/1909.06335
    Li, Diao, Chen, He 2022 (NIID-Bench), https://arxiv.org/abs/2102.02079
    Zhang, Beitollahi, Bie, Chen 2024 (LN), https://arxiv.org/abs/2308.09565
  """
  _check_class_numbers('dirichlet', y)
  _check_clients(num_clients, len(y))
  checks.require(
    0 < alpha < np.inf,
    f'partition.alpha = {alpha} is no concentration; choose it above 0 and '
    "finite, or partition.kind = 'iid'",
  )
  checks.require(
    1 <= min_size * num_clients <= len(y),
    f'partition.min_size = {min_size} for {num_clients} clients is impossible '
    f'with {len(y)} train rows; choose 1..{len(y) // num_clients}',
  )
  rng = np.random.RandomState(seed)
  rows = np.bincount(y)
  for _ in range(DRAWS):
    counts = deal.draw_dirichlet(rows, num_clients, alpha, balance, rng)
    if counts.sum(1).min() >= min_size:
      break
  owner = deal.owners(y, counts, rng)
  owner = deal.top_up(owner, num_clients, min_size, rng)
  counts = deal.count(owner, y, num_clients, len(rows))
  train = deal.group(owner, num_clients)
  return Partition(train, _cut_alike(counts, y_test, rng))


def natural(
  clients: np.ndarray, clients_test: np.ndarray | None = None
) -> Partition:
  """The data's own clients, in the order of their ids.

  Args:
    clients: `[N]` integer ids of the train rows' owners, gaps allowed.
    clients_test: `[M]` ids of the test rows' owners.

  Returns:
    A partition that uses every train and test row.

  Raises:
    ValueError: there are no ids, or a client has test rows only.

  >>> [part.tolist() for part in natural(np.array([7, 3, 7])).train]
  [[1], [0, 2]]
  """
  checks.require(
    len(clients) > 0,
    "partition.kind = 'natural' needs client ids but the data set has none; "
    'store client_train and client_test or choose another kind',
  )
  ids, owner = np.unique(clients, return_inverse=True)
  tested = clients[:0] if clients_test is None else clients_test
  strangers = np.setdiff1d(tested, ids)
  checks.require(
    not len(strangers),
    f'client {min(strangers, default=0)} has test rows but no train rows; '
    'drop its test rows',
  )
  test = np.searchsorted(ids, tested)
  return Partition(deal.group(owner, len(ids)), deal.group(test, len(ids)))


def statistics(
  parts: Sequence[np.ndarray], y: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts every client's classes.

  Args:
    parts: rows of every client, `Partition.train` or `Partition.test`.
    y: `[N]` class numbers.
    num_classes: number of classes Y.

  Returns:
    `[C, Y]` int64 counts.

  >>> statistics([np.array([0, 1]), np.array([2])], np.array([1, 1, 0]), 2)
  array([[0, 2],
         [1, 0]])
  """
  owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
  rows = np.concatenate(parts)
  return deal.count(owner, y[rows], len(parts), num_classes)


def _cut_alike(
  counts: np.ndarray, y_test: np.ndarray | None, rng: np.random.RandomState
) -> list[np.ndarray]:
  """Test rows of every client, in proportion to its train `counts`.

  Test rows of a class that nobody trains on are left out.
  """
  if y_test is None:
    return [np.zeros(0, np.int64) for _ in counts]
  rows = np.bincount(y_test, minlength=counts.shape[1])[: counts.shape[1]]
  return deal.group(
    deal.owners(y_test, deal.shares(counts, rows), rng), len(counts)
  )


def _check_clients(num_clients: int, num_rows: int) -> None:
  checks.require(
    1 <= num_clients <= num_rows,
    f'partition.num_clients = {num_clients} is impossible with {num_rows} '
    f'train rows; choose 1..{num_rows}',
  )


def _check_class_numbers(kind: str, y: np.ndarray) -> None:
  checks.require(
    y.dtype.kind in 'iu' and y.ndim == 1 and bool((y >= 0).all()),
    f'partition.kind = {kind!r} needs one class number a row but y is '
    f'{y.dtype}{list(y.shape)}; choose iid or natural',
  )


Settings = dict[str, Any]
KINDS: dict[str, Callable[[Dataset, Settings], Partition]] = {
  'iid': lambda data, s: iid(
    len(data.y_train), s['num_clients'], s['seed'], len(data.y_test)
  ),
  'classes': lambda data, s: classes(
    data.y_train,
    s['num_clients'],
    s['classes_per_client'],
    s['seed'],
    data.y_test,
  ),
  'dirichlet': lambda data, s: dirichlet(
    data.y_train,
    s['num_clients'],
    s['alpha'],
    s['min_size'],
    s['seed'],
    data.y_test,
    balance=s['balance'],
  ),
  'natural': lambda data, s: natural(data.client_train, data.client_test),
}
