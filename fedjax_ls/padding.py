"""How much of the memory and of the work is padding."""

from typing import Any

import numpy as np

from fedjax_ls import local
from fedjax_ls import round as round_lib
from fedjax_ls.hyper import Client


def padded_index(sizes: np.ndarray) -> float:
  """Share of padding when each client's rows take as much as the largest's.

  >>> padded_index(np.array([1, 1, 4]))
  0.5
  """
  return 1 - float(np.sum(sizes)) / (len(sizes) * int(np.max(sizes)))


def padded_work(
  client: Client, sizes: np.ndarray, devices: int, chunk: int
) -> float:
  """Share of the examples that local steps compute for nothing.

  That is, if all clients take part: a chunk takes as many steps as its largest
  client, and each step a whole batch.

  Args:
    client: what a client does.
    sizes: `[C]` rows of each client.
    devices: number of devices.
    chunk: clients vectorized at a time on each.

  >>> work = Client(batch_size=4, unit='epochs', amount=1)
  >>> padded_work(work, np.array([4, 8, 8]), devices=1, chunk=1)
  0.0
  >>> padded_work(work, np.array([4, 4, 8, 2]), devices=1, chunk=2)
  0.25
  """
  order, _ = round_lib.by_size(sizes, devices, chunk)
  size: Any = np.where(order < len(sizes), sizes[order % len(sizes)], 0)
  steps = np.broadcast_to(local.num_steps(client, size), size.shape)
  a_step = size / np.maximum(-(-size // client.batch_size), 1)
  if client.last_batch == 'dropped':
    a_step = client.batch_size * (size > 0)
  longest = steps.reshape(-1, chunk).max(1)
  computed = chunk * client.batch_size * int(longest.sum())
  return 1 - float(np.sum(steps * a_step)) / computed


def note(
  client: Client, sizes: np.ndarray, devices: int, chunk: int, indexed: bool
) -> str:
  """One line where more than half is padding, else nothing.

  Args:
    client: as in `padded_work`, like the next three.
    sizes: `[C]`.
    devices: number of devices.
    chunk: clients vectorized at a time on each.
    indexed: whether rows are stored padded, which they are on the device.
  """
  work = padded_work(client, sizes, devices, chunk)
  index = padded_index(sizes) if indexed else 0.0
  parts = []
  if work > 0.5:
    parts.append(
      f'{work:.0%} of the local work, which a smaller client.batch_size '
      f'(now {client.batch_size}) or execution.chunk (now {chunk}) lowers'
    )
  if index > 0.5:
    parts.append(
      f'{index:.0%} of the row numbers on the device, which execution.data = '
      'host leaves out'
    )
  return 'padding: ' + ', and '.join(parts) if parts else ''
