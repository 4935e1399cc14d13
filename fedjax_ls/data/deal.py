"""Dealing rows to clients: the arithmetic behind the kinds of partition.

`owner` is `[N]`: the client that owns each row, -1 for a row left out.
`counts` is `[C, Y]`: rows of each class that each client owns.
"""

import bisect

import numpy as np


def group(owner: np.ndarray, num_clients: int) -> list[np.ndarray]:
  """Rows of every client, ascending.

  >>> [rows.tolist() for rows in group(np.array([1, -1, 0, 1]), 2)]
  [[2], [0, 3]]
  """
  order = np.argsort(owner, kind='stable')
  cuts = np.searchsorted(owner[order], np.arange(num_clients + 1))
  return np.split(order, cuts)[1:-1]


def count(
  owner: np.ndarray, y: np.ndarray, num_clients: int, num_classes: int
) -> np.ndarray:
  """`[C, Y]` counts of the pairs (owner, class); every row has an owner."""
  cell = owner * num_classes + y
  counts = np.bincount(cell, minlength=num_clients * num_classes)
  return counts.reshape(num_clients, num_classes)


def shares(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Cuts each class in proportion to integer weights.

  The cuts are the rounded running sums, so that no row is lost, a weight of 0
  gives 0 rows, and equal weights give rows that differ by one at most.

  Args:
    weights: `[C, Y]` integers >= 0.
    rows: `[Y]` rows of each class.

  Returns:
    `[C, Y]` counts that sum to `rows` where a class has any weight.

  >>> shares(np.array([[1, 0], [1, 0], [1, 2]]), np.array([4, 5]))
  array([[1, 0],
         [2, 0],
         [1, 5]])
  """
  running = np.cumsum(weights, 0, dtype=np.int64)
  total = np.maximum(running[-1], 1)
  cuts = (running * rows + total // 2) // total
  return np.diff(cuts, axis=0, prepend=0)


def owners(
  y: np.ndarray, counts: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
  """Shuffles each class and hands it out by `counts`.

  Args:
    y: `[N]` class numbers.
    counts: `[C, Y]` rows of each class for each client.
    rng: shuffles.

  Returns:
    `[N]` owners; -1 where `counts` hands out fewer rows than there are.
  """
  owner = np.full(len(y), -1)
  clients = np.arange(len(counts))
  for label, column in enumerate(counts.T):
    rows = rng.permutation(np.flatnonzero(y == label))
    owner[rows[: column.sum()]] = np.repeat(clients, column)
  return owner


def holders(
  capacity: np.ndarray, total: int, rng: np.random.RandomState
) -> np.ndarray:
  """`[Y]` holders of each class: as even as `capacity` allows, sum `total`."""
  number = np.zeros_like(capacity)
  while left := total - int(number.sum()):
    open_ = np.flatnonzero(number < capacity)
    if left < len(open_):
      open_ = rng.permutation(open_)[:left]
    share = left // len(open_)
    number[open_] = np.minimum(number[open_] + share, capacity[open_])
  return number


def draw_classes(
  number: np.ndarray, num_clients: int, rng: np.random.RandomState
) -> np.ndarray:
  """Draws which classes each client holds.

  With m clients to come, a class with m holders left is drawn for sure.  At
  most n classes are such, because the holders left sum to m n, and never are
  more than m left; so every client finds n classes.

  Args:
    number: `[Y]` holders of each class, at most C each, sum C n.
    num_clients: number of clients C.
    rng: draws.

  Returns:
    `[C, Y]` zeros and ones, n ones a row, `number` ones a column.
  """
  left = number.copy()
  per_client = int(number.sum()) // num_clients
  holds = np.zeros((num_clients, len(number)), np.int64)
  for client in range(num_clients):
    # The smallest of exponentials with rates `left` come first: a weighted
    # draw without replacement.
    time = rng.standard_exponential(len(left)) / np.maximum(left, 1)
    time[left == 0] = np.inf
    time[left == num_clients - client] = -1
    chosen = np.argsort(time)[:per_client]
    holds[client, chosen] = 1
    left[chosen] -= 1
  return holds


def draw_dirichlet(
  rows: np.ndarray,
  num_clients: int,
  alpha: float,
  balance: bool,
  rng: np.random.RandomState,
) -> np.ndarray:
  """`[C, Y]` counts with shares `q ~ Dir(alpha 1_C)` of each class.

  Gamma variables are drawn as logarithms, `log Gamma(alpha) = log
  Gamma(alpha + 1) + log(U) / alpha` in distribution, since for small alpha
  they underflow.
  """
  counts = np.zeros((num_clients, len(rows)), np.int64)
  size = np.zeros(num_clients, np.int64)
  for label in np.flatnonzero(rows):
    log_q = np.log(rng.standard_gamma(alpha + 1, num_clients))
    log_q += np.log1p(-rng.random_sample(num_clients)) / alpha
    if balance:
      log_q[size * num_clients >= rows.sum()] = -np.inf
    running = np.cumsum(np.exp(log_q - log_q.max()))
    cuts = np.rint(running / running[-1] * rows[label]).astype(np.int64)
    counts[:, label] = np.diff(cuts, prepend=0)
    size += counts[:, label]
  return counts


def top_up(
  owner: np.ndarray,
  num_clients: int,
  min_size: int,
  rng: np.random.RandomState,
) -> np.ndarray:
  """Moves rows from the largest clients to those below `min_size`.

  Args:
    owner: `[N]` owners, N >= C * min_size.
    num_clients: number of clients C.
    min_size: fewest rows of a client.
    rng: draws the rows that a donor gives.

  Returns:
    `[N]` owners; only rows of clients above the common level have moved.
  """
  size = np.bincount(owner, minlength=num_clients)
  need = np.maximum(min_size - size, 0)
  give = _cut_down(size, int(need.sum()))
  shuffled = rng.permutation(len(owner))
  order = shuffled[np.argsort(owner[shuffled], kind='stable')]
  start = np.cumsum(size) - size
  rank = np.arange(len(owner)) - start[owner[order]]
  moved = order[rank < give[owner[order]]]
  owner = owner.copy()
  owner[moved] = np.repeat(np.arange(num_clients), need)
  return owner


def _cut_down(size: np.ndarray, total: int) -> np.ndarray:
  """`[C]` rows to take, `total` in all, so that the largest stays smallest.

  >>> _cut_down(np.array([1, 9, 5, 7]), 5)
  array([0, 3, 0, 2])
  """
  level = (
    bisect.bisect_right(
      range(int(size.max()) + 1),
      -total,
      key=lambda level: -int(np.maximum(size - level, 0).sum()),
    )
    - 1
  )
  give = np.maximum(size - level, 0)
  surplus = int(give.sum()) - total
  give[np.flatnonzero(give)[:surplus]] -= 1
  return give
