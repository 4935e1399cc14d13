"""Partitions whose clients are alike, or differ in their sizes alone."""

import numpy as np

from fedjax_ls.data import checks, deal
from fedjax_ls.data.partition import Partition, check_clients


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
  check_clients(num_clients, num_rows)
  rng = np.random.RandomState(seed)
  train, test = (
    rng.permutation(np.arange(n) % num_clients) for n in (num_rows, num_test)
  )
  return Partition(
    deal.group(train, num_clients), deal.group(test, num_clients)
  )


def power_law(
  num_rows: int,
  num_clients: int,
  exponent: float,
  min_size: int,
  seed: int,
  num_test: int = 0,
) -> Partition:
  """Iid rows, sizes from a power law: `P(size > s) ~ s^-exponent`.

  Weights are `w = U^(-1 / exponent)` with U uniform on (0, 1]; every client
  gets `min_size` rows and the others in proportion to its weight.

  Args:
    num_rows: number of train rows.
    num_clients: number of clients C.
    exponent: of the tail, > 0; smaller is more uneven, and from 1 down few
      clients own nearly everything.
    min_size: fewest train rows of a client, at least 1.
    seed: seed of the draw.
    num_test: number of test rows, cut in the same proportion.

  Returns:
    A partition that uses every train and test row.

  Raises:
    ValueError: the exponent is out of range or the rows do not suffice.

  >>> [len(rows) for rows in power_law(100, 5, 1.2, 2, seed=0).train]
  [19, 26, 21, 18, 16]
  """
  checks.require(
    0 < exponent < np.inf,
    f'partition.exponent = {exponent} is no exponent of a tail; choose it '
    "above 0 and finite, or partition.kind = 'iid'",
  )
  rng = np.random.RandomState(seed)
  log_weights = -np.log1p(-rng.random_sample(max(num_clients, 0))) / exponent
  return _sized(num_rows, log_weights, num_clients, min_size, num_test, rng)


def log_normal(
  num_rows: int,
  num_clients: int,
  sigma: float,
  min_size: int,
  seed: int,
  num_test: int = 0,
) -> Partition:
  """Iid rows, log-normal sizes.

  Weights are `w = exp(sigma Z)` with Z standard normal; every client gets
  `min_size` rows and the others in proportion to its weight.

  Args:
    num_rows: number of train rows.
    num_clients: number of clients C.
    sigma: standard deviation of the logarithm, >= 0.
    min_size: fewest train rows of a client, at least 1.
    seed: seed of the draw.
    num_test: number of test rows, cut in the same proportion.

  Returns:
    A partition that uses every train and test row.

  Raises:
    ValueError: sigma is out of range or the rows do not suffice.

  >>> [len(rows) for rows in log_normal(100, 5, 1.0, 2, seed=0).train]
  [22, 8, 11, 34, 25]
  """
  checks.require(
    0 <= sigma < np.inf,
    f'partition.sigma = {sigma} is no standard deviation; choose 0 or more',
  )
  rng = np.random.RandomState(seed)
  log_weights = sigma * rng.standard_normal(max(num_clients, 0))
  return _sized(num_rows, log_weights, num_clients, min_size, num_test, rng)


def _sized(
  num_rows: int,
  log_weights: np.ndarray,
  num_clients: int,
  min_size: int,
  num_test: int,
  rng: np.random.RandomState,
) -> Partition:
  """Deals shuffled rows by size, and test rows in proportion to the sizes."""
  check_clients(num_clients, num_rows)
  checks.require(
    min_size >= 1 and min_size * num_clients <= num_rows,
    f'partition.min_size = {min_size} for {num_clients} clients is impossible '
    f'with {num_rows} train rows; choose 1..{num_rows // num_clients}',
  )
  running = np.cumsum(np.exp(log_weights - log_weights.max()))
  spare = num_rows - min_size * num_clients
  cuts = np.rint(running / running[-1] * spare).astype(np.int64)
  size = min_size + np.diff(cuts, prepend=0)
  test_size = deal.shares(size[:, None], np.array([num_test]))[:, 0]
  train, test = (
    rng.permutation(np.repeat(np.arange(num_clients), sizes))
    for sizes in (size, test_size)
  )
  return Partition(
    deal.group(train, num_clients), deal.group(test, num_clients)
  )
