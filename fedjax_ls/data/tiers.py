"""Resource tiers of the clients: who is fast, and who holds what."""

from collections.abc import Sequence

import numpy as np

from fedjax_ls.data import checks

KINDS = ('random', 'in_order', 'by_size', 'inverse_size', 'by_class')


def assign_tiers(
  kind: str,
  size: np.ndarray,
  labels: np.ndarray,
  proportions: Sequence[float],
  seed: int = 0,
) -> np.ndarray:
  """Puts every client in a tier.

  Clients are lined up and cut in the given proportions, tier 0 first:

  - `random`: in random order;
  - `in_order`: by their numbers, the first clients first;
  - `by_size`: the largest clients first, so that tier 0 holds most rows;
  - `inverse_size`: the smallest first;
  - `by_class`: by the class they hold most of, so that a class lives in one
    tier, or in two where a cut falls inside.

  Ties stand in random order.

  Args:
    kind: one of `KINDS`.
    size: `[C]` rows of each client.
    labels: `[C, Y]` class counts, such as `Federation.labels`; `by_class`
      alone reads them.
    proportions: positive weights of the tiers; `[1] * T` for T equal ones.
    seed: seed of the random order.

  Returns:
    `[C]` int32 tiers; sizes of tiers are off their share by one at most.

  Raises:
    ValueError: an unknown kind, weights that are none, or `by_class` without
      classes.

  >>> assign_tiers('by_size', np.array([9, 1, 5, 3]), np.eye(4), [1, 1])
  array([0, 1, 0, 1], dtype=int32)
  >>> assign_tiers('inverse_size', np.array([9, 1, 5, 3]), np.eye(4), [3, 1])
  array([1, 0, 0, 0], dtype=int32)
  """
  if kind not in KINDS:
    raise checks.unknown('tiers.kind', kind, KINDS)
  weights = np.asarray(proportions, np.float64)
  checks.require(
    weights.ndim == 1
    and len(weights) > 0
    and bool(np.isfinite(weights).all() and (weights > 0).all()),
    f'tiers.proportions = {tuple(proportions)} are no shares; give one '
    'number above 0 a tier',
  )
  checks.require(
    kind != 'by_class' or labels.shape[1] > 0,
    "tiers.kind = 'by_class' needs class numbers but the targets are real "
    'numbers; choose random or by_size',
  )
  chance = np.random.RandomState(seed).permutation(len(size))
  order = np.lexsort((chance, _rank(kind, size, labels)))
  running = np.cumsum(weights)
  ends = np.rint(running / running[-1] * len(size)).astype(np.int64)
  tier = np.empty(len(size), np.int32)
  tier[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
  return tier


def _rank(kind: str, size: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """`[C]` what the clients are lined up by."""
  match kind:
    case 'in_order':
      return np.arange(len(size))
    case 'by_size':
      return -np.asarray(size, np.int64)
    case 'inverse_size':
      return np.asarray(size, np.int64)
    case 'by_class':
      return labels.argmax(1)
  return np.zeros(len(size))
