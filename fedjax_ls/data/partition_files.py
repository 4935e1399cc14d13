"""Partition files of other simulators: read, written, and used.

JSON (`.json`), `{"0": [5, 1], "1": [2]}`: client number to train rows.  It is
`net_dataidx_map` of NIID-Bench, a dictionary inside its program, written with
`json.dump`; and the property `partition_id_to_indices` of a partitioner of
Flower Datasets, written alike (that package has no partition file of its own;
let its `FederatedDataset(shuffle=False)`, or its rows are those of a shuffled
set).  NumPy integers must be made Python's for `json.dump`.

Text (`.txt`), the file of NIID-Bench's relatives with `hetero-fix`: the same
dictionary as lines, one of rows between a line `0: [` and a line `],`.

Row numbers count the train set in its published order, so that the data must
be read in that order.  For PFLlib, which stores no row numbers but the
clients' samples, see `fedjax_ls.data.pfllib`.

References:
  Li, Diao, Chen, He 2022, https://github.com/Xtra-Computing/NIID-Bench
  He et al. 2020 (FedML), https://arxiv.org/abs/2007.13518
  https://flower.ai/docs/datasets
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_ls.data import checks, deal
from fedjax_ls.data.dataset import Dataset
from fedjax_ls.data.partition import Partition, cut_alike, statistics

_ENTRY = re.compile(r'(\d+)\s*:\s*\[([\d,\s]*)\]')


def read_rows(path: str) -> list[np.ndarray]:
  """Reads the train rows of every client.

  Args:
    path: name of a `.json` or `.txt` file.

  Returns:
    One ascending int64 array a client, in the order of their numbers.

  Raises:
    ValueError: the file is missing, unreadable, or not such a dictionary with
      the clients 0..C-1, or gives a row twice.
  """
  table = _parsed(path)
  checks.require(
    sorted(table) == list(range(len(table))) and len(table) > 0,
    f'partition.path = {path!r} has the clients {sorted(table)[:5]}..; '
    'number them 0, 1, 2, ..',
  )
  parts = [
    np.sort(np.array(table[client], np.int64)) for client in sorted(table)
  ]
  rows, times = np.unique(np.concatenate(parts), return_counts=True)
  checks.require(
    bool((times == 1).all()),
    f'partition.path = {path!r} gives row {rows[np.argmax(times)]} '
    f'{times.max(initial=0)} times; give each row to one client',
  )
  return parts


def write_rows(path: str, parts: Sequence[np.ndarray]) -> None:
  """Writes the train rows of every client, as `.json` or `.txt`.

  Args:
    path: name of the file, whose ending names the format.
    parts: rows of every client, such as `Partition.train`.

  Raises:
    ValueError: another ending.
  """
  table = {client: part.tolist() for client, part in enumerate(parts)}
  if _ending(path) == 'json':
    text = json.dumps(table)
  else:
    lines = [
      f'{client}: [\n{", ".join(map(str, rows))}\n],\n'
      for client, rows in table.items()
    ]
    text = '{\n' + ''.join(lines) + '}\n'
  with open(path, 'w') as file:
    file.write(text)


def from_file(path: str, dataset: Dataset, seed: int) -> Partition:
  """The partition of a file, for a data set.

  An `.npz` file is what `Partition.save` wrote and holds test rows, too.  The
  other formats hold train rows, and the test set is cut in proportion: class
  by class where a row has one class number, else by the clients' sizes.

  Args:
    path: name of the file.
    dataset: what the rows count.
    seed: of the cut of the test set.

  Returns:
    The partition.

  Raises:
    ValueError: an unreadable file, a row that does not exist, or a client
      without train rows.
  """
  if path.endswith('.npz'):
    partition = Partition.load(path)
  else:
    parts = read_rows(path)
    _check_rows(path, parts, len(dataset.y_train))
    partition = Partition(parts, _cut(parts, dataset, seed))
  _check_rows(path, partition.train, len(dataset.y_train))
  for rows in partition.test:
    _check_range(path, rows, len(dataset.y_test), 'test')
  return partition


def _cut(
  parts: list[np.ndarray], dataset: Dataset, seed: int
) -> list[np.ndarray]:
  rng = np.random.RandomState(seed)
  if dataset.num_classes and dataset.y_train.ndim == 1:
    counts = statistics(parts, dataset.y_train, dataset.num_classes)
    return cut_alike(counts, dataset.y_test, rng)
  size = np.array([[len(part)] for part in parts])
  rows = np.array([len(dataset.y_test)])
  one_class = np.zeros(len(dataset.y_test), int)
  owner = deal.owners(one_class, deal.shares(size, rows), rng)
  return deal.group(owner, len(parts))


def _check_rows(path: str, parts: Sequence[np.ndarray], num_rows: int) -> None:
  for client, rows in enumerate(parts):
    checks.require(
      len(rows) > 0,
      f'partition.path = {path!r}: client {client} has no train rows; leave '
      'it out and number the clients anew',
    )
    _check_range(path, rows, num_rows, 'train')


def _check_range(
  path: str, rows: np.ndarray, num_rows: int, split: str
) -> None:
  checks.require(
    not len(rows) or (rows.min() >= 0 and rows.max() < num_rows),
    f'partition.path = {path!r} has {split} row {rows.max(initial=-1)} but '
    f'the data set has {num_rows} {split} rows; use the data set that the '
    'file was made for',
  )


def _ending(path: str) -> str:
  ending = path.rpartition('.')[2]
  if ending not in ('json', 'txt'):
    raise ValueError(
      f'partition.path = {path!r} has an unknown ending; name a .json, .txt '
      'or .npz file'
    )
  return ending


def _parsed(path: str) -> dict[int, list[int]]:
  ending = _ending(path)
  try:
    with open(path) as file:
      text = file.read()
    return _from_json(text) if ending == 'json' else _from_text(text)
  except FileNotFoundError as error:
    raise ValueError(
      f'partition.path = {path!r} does not exist; give the path of a '
      'partition file'
    ) from error
  except (OSError, UnicodeDecodeError, ValueError) as error:
    raise ValueError(
      f'partition.path = {path!r} cannot be read ({error}); write client '
      'numbers and lists of rows, such as {"0": [5, 1], "1": [2]}'
    ) from error


def _from_json(text: str) -> dict[int, list[int]]:
  tree: Any = json.loads(text)
  if isinstance(tree, list):
    tree = dict(enumerate(tree))
  checks.require(isinstance(tree, dict), 'it is no dictionary')
  checks.require(
    all(
      isinstance(rows, list) and all(type(row) is int for row in rows)
      for rows in tree.values()
    ),
    'a value is no list of whole numbers',
  )
  return {int(client): rows for client, rows in tree.items()}


def _from_text(text: str) -> dict[int, list[int]]:
  entries = _ENTRY.findall(text)
  checks.require(
    not re.sub(r'[\s,{}]', '', _ENTRY.sub('', text)), 'it has other text'
  )
  return {
    int(client): [int(row) for row in rows.split(',') if row.strip()]
    for client, rows in entries
  }
