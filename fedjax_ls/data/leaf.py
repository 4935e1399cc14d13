"""Folders of LEAF: clients of their own, in JSON.

`train/*.json` and `test/*.json` hold `users`, `num_samples` and `user_data`,
which maps a user to its `x` and `y`.

References:
  Caldas et al. 2018, https://arxiv.org/abs/1812.01097
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from fedjax_ls.data import checks

# LEAF numbers Shakespeare's characters in this order.
SYMBOLS = (
  '\n !"&\'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]'
  'abcdefghijklmnopqrstuvwxyz}'
)
_NUMBER = np.full(129, -1)
_NUMBER[[ord(symbol) for symbol in SYMBOLS]] = np.arange(len(SYMBOLS))

Samples = dict[str, tuple[np.ndarray, np.ndarray]]


def read(path: str) -> dict[str, Any]:
  """Reads a data folder, such as LEAF's `data/femnist/data`.

  Numbers become float32; 784 of them an image `[28, 28, 1]` (FEMNIST), stored
  as uint8 where all values are multiples of 1/255.  Strings become symbol
  numbers `[N, T]` int32 with the next character as label (Shakespeare).  Users
  are numbered in alphabetical order.  Where the split is by user (`-t user`),
  so that no test user has train samples, test rows belong to nobody.

  Args:
    path: folder with `train` and `test`.

  Returns:
    The arrays; users without train samples are left out and counted.

  Raises:
    ValueError: a missing folder, a broken file, other kinds of samples, an
      unknown character, or test users of whom only some have train samples.
  """
  train, test = (_folder(path, split) for split in ('train', 'test'))
  used = sorted(user for user, (_, y) in train.items() if len(y))
  tested = sorted(user for user, (_, y) in test.items() if len(y))
  strangers = sorted(set(tested) - set(used))
  checks.require(
    bool(used) and bool(tested),
    f'data.path = {path!r} holds no samples; run preprocess.sh again',
  )
  checks.require(
    len(strangers) in (0, len(tested)),
    f'data.path = {path!r}: user {strangers and strangers[0]!r} has test '
    'samples but no train samples; split with preprocess.sh -t sample',
  )
  number = {user: client for client, user in enumerate(used)}
  x_train, y_train = _joined(path, train, used)
  x_test, y_test = _joined(path, test, tested)
  arrays: dict[str, Any] = {
    'x_train': x_train,
    'y_train': y_train,
    'x_test': x_test,
    'y_test': y_test,
    'client_train': _owners(train, used, number),
    'left_out': len(train) - len(used),
  }
  if not strangers:
    arrays['client_test'] = _owners(test, tested, number)
  if x_train.dtype == np.int32:
    arrays['num_classes'] = len(SYMBOLS)
  elif _are_bytes(x_train) and _are_bytes(x_test):
    for name in ('x_train', 'x_test'):
      arrays[name] = np.rint(arrays[name] * 255).astype(np.uint8)
  return arrays


def _owners(
  samples: Samples, users: list[str], number: dict[str, int]
) -> np.ndarray:
  owners = [number[user] for user in users]
  return np.repeat(owners, [len(samples[user][1]) for user in users])


def _joined(
  path: str, samples: Samples, users: list[str]
) -> tuple[np.ndarray, np.ndarray]:
  """All users' samples in a line, images as such."""
  shapes = {samples[u][0].shape[1:]: u for u in users}
  checks.require(
    len(shapes) == 1,
    f'data.path = {path!r} has samples of shapes {sorted(shapes)}, one of '
    f'user {next(reversed(shapes.values()))!r}; store all alike',
  )
  x = np.concatenate([samples[user][0] for user in users])
  y = np.concatenate([samples[user][1] for user in users])
  is_image = x.shape[1:] == (784,) and x.dtype == np.float32
  return x.reshape(-1, 28, 28, 1) if is_image else x, y


def _are_bytes(x: np.ndarray) -> bool:
  """Whether images are multiples of 1/255 in [0, 1]; a client at a time."""
  if x.shape[1:] != (28, 28, 1):
    return False
  for start in range(0, len(x), 4096):
    scaled = x[start : start + 4096] * np.float32(255)
    level = np.rint(scaled)
    close = np.abs(scaled - level) < 1e-3
    if not (close & (level >= 0) & (level <= 255)).all():
      return False
  return True


def _folder(path: str, split: str) -> Samples:
  """`{user: (x, y)}` of all files of a split."""
  files = sorted(pathlib.Path(path, split).glob('*.json'))
  checks.require(
    bool(files),
    f'data.path = {path!r} has no {os.path.join(split, "*.json")}; run '
    "LEAF's preprocess.sh -t sample and give its data folder",
  )
  samples: Samples = {}
  for file in files:
    try:
      samples |= _file(file)
    except ValueError as error:
      raise ValueError(
        f'data.path: {str(file)!r} cannot be read ({error}); run '
        'preprocess.sh again'
      ) from error
  return samples


def _file(file: pathlib.Path) -> Samples:
  """One file; its lists become arrays here, which are far smaller."""
  tree = json.loads(file.read_text())
  checks.require(
    isinstance(tree, dict) and {'users', 'user_data'} <= set(tree),
    'it lacks users or user_data',
  )
  samples = {}
  for user in tree['users']:
    checks.require(user in tree['user_data'], f'user {user!r} has no user_data')
    data = tree['user_data'].pop(user)
    if not data['x'] and not data['y']:
      samples[user] = np.zeros(0), np.zeros(0)
      continue
    x, y = _inputs(user, data['x']), _targets(user, data['y'])
    checks.require(
      len(x) == len(y),
      f'user {user!r} has {len(x)} samples but {len(y)} labels',
    )
    checks.require(
      (x.dtype == np.int32)
      == all(isinstance(label, str) for label in data['y']),
      f'user {user!r} has text with class numbers or the reverse, which is '
      'neither images nor next characters',
    )
    samples[user] = x, y
  return samples


def _inputs(user: str, x: list[Any]) -> np.ndarray:
  if all(isinstance(sample, str) for sample in x):
    lengths = {len(sample) for sample in x}
    checks.require(
      len(lengths) == 1, f'user {user!r} has texts of lengths {lengths}'
    )
    return _numbers(user, ''.join(x)).reshape(len(x), -1)
  try:
    return np.array(x, np.float32)
  except (TypeError, ValueError):
    raise ValueError(
      f'user {user!r} has samples that are neither numbers nor strings'
    ) from None


def _targets(user: str, y: list[Any]) -> np.ndarray:
  if all(isinstance(label, str) for label in y):
    checks.require(
      all(len(label) == 1 for label in y),
      f'user {user!r} has labels of several characters',
    )
    return _numbers(user, ''.join(y))
  labels = np.array(y, np.float64)
  checks.require(
    bool((labels == np.rint(labels)).all()),
    f'user {user!r} has labels that are no class numbers',
  )
  return labels.astype(np.int64)


def _numbers(user: str, text: str) -> np.ndarray:
  """`[len(text)]` int32 symbol numbers."""
  codes = np.frombuffer(text.encode('utf-32-le'), np.uint32)
  numbers = _NUMBER[np.minimum(codes, 128)]
  checks.require(
    bool((numbers >= 0).all()),
    f'user {user!r} has the character {text[int(np.argmin(numbers))]!r}, '
    "which is none of LEAF's symbols",
  )
  return numbers.astype(np.int32)
