"""Partitions by the name of their kind."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fedjax_ls.data import checks, deal
from fedjax_ls.data.dataset import Dataset
from fedjax_ls.data.label_skew import classes, dirichlet, shards
from fedjax_ls.data.partition import Partition
from fedjax_ls.data.partition_files import from_file
from fedjax_ls.data.size_skew import iid, log_normal, power_law


def make_partition(
  kind: str,
  dataset: Dataset,
  *,
  num_clients: int,
  classes_per_client: int = 1,
  alpha: float = 0.1,
  min_size: int = 1,
  balance: bool = False,
  iid_share: float = 0.0,
  exponent: float = 1.5,
  sigma: float = 1.0,
  path: str = '',
  seed: int = 0,
) -> Partition:
  """Partitions a data set by the name of the kind.

  Args:
    kind: a key of `KINDS`, the field `partition.kind`.
    dataset: what to partition.
    num_clients: number of clients C; `natural` and `file` count their own.
    classes_per_client: for `classes`.
    alpha: for `dirichlet`.
    min_size: for `dirichlet`, `power_law` and `log_normal`.
    balance: for `dirichlet`.
    iid_share: for `shards`.
    exponent: for `power_law`.
    sigma: for `log_normal`.
    path: for `file`.
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
    'iid_share': iid_share,
    'exponent': exponent,
    'sigma': sigma,
    'path': path,
    'seed': seed,
  }
  return KINDS[kind](dataset, settings)


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
  'shards': lambda data, s: shards(
    data.y_train, s['num_clients'], s['iid_share'], s['seed'], data.y_test
  ),
  'power_law': lambda data, s: power_law(
    len(data.y_train),
    s['num_clients'],
    s['exponent'],
    s['min_size'],
    s['seed'],
    len(data.y_test),
  ),
  'log_normal': lambda data, s: log_normal(
    len(data.y_train),
    s['num_clients'],
    s['sigma'],
    s['min_size'],
    s['seed'],
    len(data.y_test),
  ),
  'natural': lambda data, s: natural(data.client_train, data.client_test),
  'file': lambda data, s: from_file(s['path'], data, s['seed']),
}
