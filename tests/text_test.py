"""Characters of speakers, cut into windows."""

import os
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_ls import data


def _write(path, roles):
  text = np.frombuffer(''.join(roles).encode(), np.uint8)
  offset = np.cumsum([0, *map(len, roles)]).astype(np.int32)
  np.savez(path, text=text, offset=offset)
  return str(path)


@given(
  st.lists(st.text('abcde \n', max_size=60), min_size=1, max_size=6),
  st.integers(1, 7),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_those_of_a_plain_loop(tmp_path_factory, roles, length):
  path = _write(tmp_path_factory.getbasetemp() / 'roles.npz', roles)
  symbols = sorted(set(''.join(roles)))
  rows = {'train': [], 'test': []}
  used = 0
  for role in roles:
    cut = len(role) * 4 // 5
    parts = {'train': role[:cut], 'test': role[cut:]}
    if len(parts['train']) <= length:
      continue
    for split, part in parts.items():
      for i in range(0, len(part) - length, length):
        window = [symbols.index(c) for c in part[i : i + length + 1]]
        rows[split].append((used, window[:-1], window[1:]))
    used += 1
  if not rows['test']:
    with pytest.raises(ValueError, match=r'data\.sequence_length ='):
      data.load('text', path, sequence_length=length)
    return
  every = data.load('text', path, sequence_length=length)
  last = data.load('text', path, sequence_length=length, target='last')
  assert every.left_out == len(roles) - used
  assert every.num_classes == len(symbols)
  for split, expected in rows.items():
    client, x, y = zip(*expected, strict=True)
    assert getattr(every, f'client_{split}').tolist() == list(client)
    assert getattr(every, f'x_{split}').tolist() == list(x)
    assert getattr(every, f'y_{split}').tolist() == list(y)
    assert getattr(last, f'y_{split}').tolist() == [row[-1] for row in y]
  assert every.x_train.dtype == every.y_train.dtype == np.int32


def test_settings_are_checked(tmp_path):
  path = _write(tmp_path / 'roles.npz', ['abcde' * 10])
  with pytest.raises(ValueError, match=r'data\.sequence_length = 0 is out'):
    data.load('text', path, sequence_length=0)
  with pytest.raises(ValueError, match=r"data\.target = 'next' is unknown"):
    data.load('text', path, target='next')
  with pytest.raises(ValueError, match='leaves no test window of the 1 client'):
    data.load('text', path, sequence_length=20)


@pytest.mark.parametrize(
  'changes',
  [
    {'offset': np.array([0, 9])},
    {'offset': np.array([3, 0])},
    {'offset': np.array([0])},
    {'offset': np.array([0.0, 5.0])},
    {'text': np.zeros(5)},
  ],
)
def test_arrays_that_are_no_roles(tmp_path, changes):
  arrays = {'text': np.zeros(5, np.uint8), 'offset': np.array([0, 5])}
  np.savez(tmp_path / 'roles.npz', **arrays | changes)
  with pytest.raises(ValueError, match=r'data\.path = .*(ascending|as uint8)'):
    data.load('text', str(tmp_path / 'roles.npz'))


def test_shakespeare_roles():
  folder = os.environ.get('FEDJAX_LS_DATA', '')
  path = pathlib.Path(folder, 'shakespeare', 'shakespeare_roles.npz')
  if not folder or not path.exists():
    pytest.skip('FEDJAX_LS_DATA names no folder with shakespeare_roles.npz')
  dataset = data.load('text', str(path), sequence_length=80)
  assert dataset.num_classes == 76
  partition = data.make_partition('natural', dataset, num_clients=0)
  assert len(partition.train) + dataset.left_out == 1340
  # Windows overlap by the one character that is both label and input.
  np.testing.assert_array_equal(dataset.x_train[:, 1:], dataset.y_train[:, :-1])
  with np.load(path) as archive:
    text, symbols = archive['text'], np.unique(archive['text'])
  first = bytes(text[:80])
  assert bytes(symbols[dataset.x_train[0]]) == first
