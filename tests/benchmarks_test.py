"""The benchmarks: both sides do the same work, and the numbers add up."""

import jax
import numpy as np
import pytest

from experiments.benchmarks import benchmark, growth, harness, problems, sides
from fedjax_ls import round as round_lib
from fedjax_ls import shuffle


def small(name: str, **net) -> problems.Problem:
  """The problem with 4 clients of about 9 examples, and without dropout."""
  problem = problems.PROBLEMS[name]
  kind, options = problem.partition
  if 'min_size' in options:
    options = {**options, 'min_size': 3}
  return problem._replace(
    net=(problem.net[0], {**problem.net[1], **net}),
    num_clients=4,
    mean_size=9,
    partition=(kind, options),
    client=problems._epoch(4, 0.05),
  )


def as_torch(params) -> list[np.ndarray]:
  """Kernels and biases, layer by layer, as the PyTorch twin orders them."""
  made = []
  layers = ('conv0', 'conv1', 'dense0', 'classifier')
  for layer in (params[name] for name in layers if name in params):
    kernel = np.asarray(layer['kernel'])
    axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    made += [kernel.transpose(axes), np.asarray(layer['bias'])]
  return made


@pytest.mark.parametrize(
  ('name', 'net', 'twin'),
  [
    ('cifar10_cnn', {'dropout': (0.0, 0.0)}, {'dropout': (0.0, 0.0)}),
    ('femnist_ragged', {}, {}),
    ('mnist_lr', {}, {}),
    ('small_cnn', {}, {}),
  ],
)
def test_a_round_is_the_same_in_pytorch(monkeypatch, name, net, twin):
  torch = pytest.importorskip('torch')
  from experiments.benchmarks import torch_loop

  monkeypatch.setattr(shuffle, 'permute_by', lambda chosen, at, size: at)
  problem = small(name, **net)
  data = problems.federation(problem)
  cohort = np.array([[2, 0, 3]], np.int32)
  job = sides.job(problem, data, cohort, chunk=1)
  state = round_lib.init(
    job.algorithm, job.hyper, job.federation, jax.random.key(0), 0
  )
  rival = torch_loop.Loop(
    torch_loop.NETS[name](**twin),
    data.x,
    data.y,
    [rows[:size] for rows, size in zip(data.index, data.size, strict=True)],
    batch_size=4,
    epochs=1,
    learning_rate=0.05,
    order=lambda client, epoch: np.arange(data.size[client]),
  )
  start = as_torch(state.server.params)
  rival.load([torch.tensor(a) for a in start])
  state = jax.jit(round_lib.round_step, static_argnums=0)(
    job.algorithm, job.hyper, job.federation, state
  )
  rival.round(cohort[0])
  ours = as_torch(state.server.params)
  for before, a, b in zip(start, ours, rival.params, strict=True):
    apart = np.abs(a - b.detach().numpy()).max()
    assert apart < min(1e-4, 1e-2 * np.abs(a - before).max())
  taken = -(-data.size[cohort[0]] // 4)
  assert rival.steps == taken.sum()
  assert rival.examples == state.tally['train/loss'][1]


def test_sides_take_turns_on_the_same_rounds():
  problem = small('mnist_lr')
  data = problems.federation(problem)
  table = problems.cohorts(4, 2, 3)
  rounds, _ = sides.rounds_of(problem, data, table, chunk=1)
  expected = [data.size[table[i % 3]].sum() for i in range(5)]
  assert rounds(0, 1) == expected[0]
  assert rounds(1, 4) == sum(expected[1:])


def test_operations_of_logistic_regression():
  got = benchmark.operations_per_example(problems.PROBLEMS['mnist_lr'])
  # Two matrix products, and what lies between them.
  assert got == pytest.approx(2 * 2 * 784 * 10, rel=0.1)


def test_padding_of_devices_is_that_of_the_one_with_most_to_do():
  sizes = np.array([[40, 30, 20, 10]])
  assert problems.padded_share(sizes, 10, 1, 2) == 0
  assert problems.padded_share(sizes, 10, 2, 1) == 1 - 100 / 120
  assert problems.padded_share(sizes, 10, 4, 1) == 1 - 100 / 160
  assert problems.padded_share(sizes[:, :3], 10, 1, 2) == 1 - 90 / 100


def test_growth_draws_its_figures(tmp_path):
  measured = {'cohort': [(1, 0.1), (2, 0.2)], 'devices': [(1, 0.2), (2, 0.1)]}
  paths = growth.draw(measured, tmp_path)
  assert [p.name for p in paths] == ['cohort.png', 'devices.png']
  assert all(p.stat().st_size > 1000 for p in paths)


def test_table_and_file(tmp_path, capsys):
  path = tmp_path / 'a' / 'b.json'
  harness.write(path, {'x': 1})
  assert path.read_text() == '{\n  "x": 1\n}\n'
  assert str(path) in capsys.readouterr().out
