"""Characters of many speakers: next-character prediction."""

import itertools
from typing import Any

import numpy as np

from fedjax_ls.data import checks
from fedjax_ls.data.dataset import read_arrays

TARGETS = ('every', 'last')


def read(
  path: str, *, sequence_length: int = 80, target: str = 'every'
) -> dict[str, Any]:
  """Reads an archive of `text` `[N]` uint8 and `offset` `[C + 1]`.

  Client c speaks `text[offset[c]:offset[c + 1]]`.  The first 80 % of its
  characters are for training.  Both parts are cut into windows of T
  characters, one after the other, each with the characters that follow; what
  is left at the end of a part is not used.  Characters are numbered in the
  order of their codes, over the whole text.

  Args:
    path: name of the .npz file.
    sequence_length: T, characters of a window.
    target: `every` character of a window has its next one as label, or the
      `last` one only.

  Returns:
    Arrays with x `[windows, T]` int32, y `[windows, T]` or `[windows]`, and
    the clients; those too short for one train window are left out and
    counted, and a short test part gives no test rows.

  Raises:
    ValueError: an unreadable file, offsets that are none, a setting out of
      range, or no client with a test window.
  """
  checks.require(
    sequence_length >= 1,
    f'data.sequence_length = {sequence_length} is out of range; choose 1 or '
    'more',
  )
  if target not in TARGETS:
    raise checks.unknown('data.target', target, TARGETS)
  arrays = read_arrays('data.path', path, ('text', 'offset'))
  text, offset = arrays['text'], arrays['offset']
  _check(path, text, offset)
  symbols, tokens = np.unique(text, return_inverse=True)
  tokens = tokens.astype(np.int32)
  windows: dict[str, list[np.ndarray]] = {'train': [], 'test': []}
  for begin, end in itertools.pairwise(offset.tolist()):
    cut = begin + (end - begin) * 4 // 5
    train = _windows(tokens[begin:cut], sequence_length)
    if len(train):
      windows['train'].append(train)
      windows['test'].append(_windows(tokens[cut:end], sequence_length))
  clients = len(windows['train'])
  checks.require(
    sum(map(len, windows['test'])) > 0,
    f'data.sequence_length = {sequence_length} leaves no test window of the '
    f'{len(offset) - 1} clients; choose a smaller one',
  )
  result: dict[str, Any] = {
    'num_classes': len(symbols),
    'left_out': len(offset) - 1 - clients,
  }
  for split, parts in windows.items():
    whole = np.concatenate(parts)
    result[f'x_{split}'] = whole[:, :-1]
    result[f'y_{split}'] = whole[:, 1:] if target == 'every' else whole[:, -1]
    result[f'client_{split}'] = np.repeat(
      np.arange(clients), [len(part) for part in parts]
    )
  return result


def _windows(tokens: np.ndarray, length: int) -> np.ndarray:
  """`[n, T + 1]` windows, each of which begins with the last one's end.

  >>> _windows(np.arange(8), 3)
  array([[0, 1, 2, 3],
         [3, 4, 5, 6]])
  """
  begin = np.arange(max(len(tokens) - 1, 0) // length) * length
  return tokens[begin[:, None] + np.arange(length + 1)]


def _check(path: str, text: np.ndarray, offset: np.ndarray) -> None:
  checks.require(
    text.dtype == np.uint8 and text.ndim == 1,
    f'data.path = {path!r}: text is {text.dtype}{list(text.shape)}; store the '
    'characters as uint8 in one dimension',
  )
  good = (
    offset.dtype.kind in 'iu'
    and offset.ndim == 1
    and len(offset) > 1
    and offset.min() >= 0
    and offset.max() <= len(text)
    and bool((np.diff(offset.astype(np.int64)) >= 0).all())
  )
  checks.require(
    good,
    f'data.path = {path!r}: offset {offset.dtype}{list(offset.shape)} does '
    f'not cut {len(text)} characters; store C + 1 ascending integers from 0 '
    'to the length of text',
  )
