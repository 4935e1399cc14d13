"""Partitions in which clients differ in their labels."""

import numpy as np

from fedjax_ls.data import checks, deal
from fedjax_ls.data.partition import (
  Partition,
  check_class_numbers,
  check_clients,
  cut_alike,
)

# A skewed draw rarely reaches the minimum size by luck when clients are many,
# so a few draws are enough before rows are moved.
DRAWS = 10


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

  References:
    Zhang, Beitollahi, Bie, Chen 2024 (LN), https://arxiv.org/abs/2308.09565

  Differs from the authors' code in: there each class is cut into C n / Y equal
  stretches in the order of the file, clients draw among the classes not used
  up, all alike, and the draw may fail.

  >>> parts = classes(np.array([0, 0, 1, 1, 2, 2]), 3, 2, seed=0).train
  >>> [part.tolist() for part in parts]
  [[1, 5], [0, 2], [3, 4]]
  """
  check_class_numbers('classes', y)
  check_clients(num_clients, len(y))
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
  return Partition(train, cut_alike(counts, y_test, rng))


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

  Differs from the authors' code in: shares are cut at rounded running sums;
  the LN paper's code gives each client the whole part of its share and the
  rest of the class to one client at random, and knows no smallest size.
  NIID-Bench draws until all clients have their rows, for ever if need be.
  """
  check_class_numbers('dirichlet', y)
  check_clients(num_clients, len(y))
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
  return Partition(train, cut_alike(counts, y_test, rng))


def shards(
  y: np.ndarray,
  num_clients: int,
  iid_share: float,
  seed: int,
  y_test: np.ndarray | None = None,
) -> Partition:
  """Sorts rows by label and cuts them into one stretch a client.

  A share p of the shuffled rows is spread evenly instead, so that p = 0 is
  the pure sort and p = 1 is iid.  Sizes differ by one at most: of the
  `S_c = floor(c N / C)` rows of the first c clients, `floor(p' S_c)` are of
  the even part, where `p' N = floor(p N)`.

  Args:
    y: `[N]` class numbers of the train rows.
    num_clients: number of clients C.
    iid_share: share p of the rows spread evenly, in [0, 1].
    seed: seed of the shuffle.
    y_test: `[M]` class numbers of the test rows.

  Returns:
    A partition that uses every train row.

  Raises:
    ValueError: the share is out of range or there are more clients than rows.

  References:
    Barba, Dandi 2021 (GradAlign), https://arxiv.org/abs/2106.13897

  Differs from the authors' code in: the last rows go to clients where N is no
  multiple of C, instead of an error.

  >>> y = np.array([0, 1, 1, 0, 2, 2])
  >>> [y[rows].tolist() for rows in shards(y, 3, 0.0, seed=0).train]
  [[0, 0], [1, 1], [2, 2]]
  """
  check_class_numbers('shards', y)
  check_clients(num_clients, len(y))
  checks.require(
    0 <= iid_share <= 1,
    f'partition.iid_share = {iid_share} is out of range; choose it in [0, 1]',
  )
  rng = np.random.RandomState(seed)
  order = rng.permutation(len(y))
  even = int(iid_share * len(y))
  spread, rest = order[:even], order[even:]
  rest = rest[np.argsort(y[rest], kind='stable')]
  ends = np.arange(num_clients + 1) * len(y) // num_clients
  even_ends = ends * even // len(y)
  owner = np.empty(len(y), np.int64)
  clients = np.arange(num_clients)
  owner[spread] = np.repeat(clients, np.diff(even_ends))
  owner[rest] = np.repeat(clients, np.diff(ends - even_ends))
  counts = deal.count(owner, y, num_clients, int(y.max()) + 1)
  return Partition(
    deal.group(owner, num_clients), cut_alike(counts, y_test, rng)
  )
