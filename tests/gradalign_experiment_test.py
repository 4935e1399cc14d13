"""The study of GradAlign on mini-batches, in small."""

import numpy as np
import pytest

from experiments import gradalign, gradalign_report
from fedjax_ls import build, samples
from fedjax_ls.validate import validate


@pytest.mark.parametrize('method', gradalign.MULTIPLES)
def test_all_take_as_many_updates(method):
  config = validate(gradalign.configuration(method, 0.5, 0.1, 3))
  sizes = [len(rows) for rows in samples.read(config).partition.train]
  assert sum(sizes) == 287
  client = config.client
  steps = client.amount
  if client.unit == 'epochs':
    steps *= -(-sizes[0] // client.batch_size)
  assert steps * config.rounds == 900


def test_gradalign_without_displacement_is_the_large_batch(
  monkeypatch, tmp_path
):
  monkeypatch.setattr(gradalign, 'SEEDS', (0,))
  found = {}
  for method in ('large batch', 'GradAlign'):
    config = gradalign.configuration(method, 0.0, 0.3, 0)
    config.rounds, config.eval_every = 4, 2
    workers = {
      0: build.prepare(gradalign.configuration('large batch', 0, 1, 0))
    }
    found[method] = gradalign.sweep([config], workers)
  for name, values in found['large batch'].items():
    np.testing.assert_allclose(
      found['GradAlign'][name], values, rtol=1e-4, atol=1e-6
    )

  def gridded(a):
    return a[..., None, None]

  grids = {
    method: {name: gridded(a) for name, a in arrays.items()}
    for method, arrays in found.items()
  }
  grids['sequential'] = grids['large batch']
  multiples = dict.fromkeys(grids, (0.5,))
  study = gradalign_report.Study(grids, multiples, (0.3,), 1, 2)
  assert gradalign_report.table(study).count('*') == 3
  gradalign_report.draw(study, tmp_path / 'a.png')
  assert (tmp_path / 'a.png').read_bytes()[:4] == b'\x89PNG'
