"""The three problems: their data, their networks, what a client does."""

from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from fedjax_ls import data
from fedjax_ls.hyper import Client
from fedjax_ls.models import make_net


class Problem(NamedTuple):
  """What both sides of a benchmark train.

  Attributes:
    name: of the benchmark; `torch_loop.NETS` has the network's twin.
    net: name of the network, and its options.
    client: what a client does in a round.
    cohorts: cohort sizes to measure.
    num_clients: of the synthetic data.
    mean_size: examples of a client of the synthetic data, on average.
    shape: of one example.
    num_classes: number of labels.
    partition: kind of partition and its numbers.
  """

  name: str
  net: tuple[str, dict[str, Any]]
  client: Client
  cohorts: tuple[int, ...]
  num_clients: int
  mean_size: int
  shape: tuple[int, ...]
  num_classes: int
  partition: tuple[str, dict[str, Any]]


def _epoch(batch_size: int, learning_rate: float) -> Client:
  return Client(
    learning_rate=learning_rate, batch_size=batch_size, unit='epochs', amount=1
  )


PROBLEMS = {
  'cifar10_cnn': Problem(
    name='cifar10_cnn',
    net=('pfl_cnn', {}),
    client=_epoch(10, 0.1),
    cohorts=(50,),
    num_clients=1000,
    mean_size=50,
    shape=(32, 32, 3),
    num_classes=10,
    partition=('iid', {}),
  ),
  'mnist_lr': Problem(
    name='mnist_lr',
    net=('mlp', {'hidden': ()}),
    client=_epoch(10, 0.03),
    cohorts=(10, 100, 1000),
    num_clients=1000,
    mean_size=60,
    shape=(28, 28, 1),
    num_classes=10,
    partition=('power_law', {'exponent': 1.5, 'min_size': 10}),
  ),
  'femnist_ragged': Problem(
    name='femnist_ragged',
    net=('femnist_cnn', {}),
    client=_epoch(20, 0.03),
    cohorts=(10, 100),
    num_clients=3400,
    mean_size=198,
    shape=(28, 28, 1),
    num_classes=62,
    partition=('log_normal', {'sigma': 0.4, 'min_size': 10}),
  ),
  'small_cnn': Problem(
    name='small_cnn',
    net=(
      'pfl_cnn', {'channels': (8, 16), 'hidden': 32, 'dropout': (0.0, 0.0)}
    ),
    client=_epoch(10, 0.1),
    cohorts=(10,),
    num_clients=100,
    mean_size=50,
    shape=(28, 28, 1),
    num_classes=10,
    partition=('iid', {}),
  ),
}  # fmt: skip


def network(problem: Problem, lowering: str) -> nn.Module:
  """The problem's network, with biases, convolutions as `lowering` says."""
  name, options = problem.net
  return make_net(
    name,
    num_classes=problem.num_classes,
    use_bias=True,
    initializer='torch',
    lowering=lowering,
    **options,
  )


def federation(
  problem: Problem, path: str = '', seed: int = 0
) -> data.Federation:
  """The problem's data.

  Args:
    problem: which.
    path: an npz file with `x_train` and `y_train`, and `client_train` where
      the clients are natural; random pixels and labels when empty.
    seed: of the partition.
  """
  kind, options = problem.partition
  if path:
    dataset = data.load('npz', path)
    kind = 'natural' if len(dataset.client_train) else kind
  else:
    dataset = _random_pixels(problem)
  parts = data.make_partition(
    kind, dataset, num_clients=problem.num_clients, seed=seed, **options
  )
  return data.federate(
    dataset.x_train.reshape(-1, *problem.shape),
    dataset.y_train,
    parts.train,
    num_classes=problem.num_classes,
  )


def cohorts(num_clients: int, cohort_size: int, num_rounds: int) -> np.ndarray:
  """`[R, K]` clients of every round, the same for both sides."""
  random = np.random.default_rng(0)
  rounds = [
    random.choice(num_clients, cohort_size, replace=False)
    for _ in range(num_rounds)
  ]
  return np.stack(rounds).astype(np.int32)


def padded_share(
  sizes: np.ndarray, batch_size: int, chunk: int, devices: int = 1
) -> float:
  """Share of the computed examples that are padding, clients sorted by size.

  A chunk takes as many steps as its largest client, and the devices wait for
  the one that has most to do.

  Args:
    sizes: `[R, K]` examples of the clients of every round.
    batch_size: examples a step.
    chunk: clients vectorized at a time.
    devices: number of devices.

  >>> round(padded_share(np.array([[10, 25, 30]]), 10, 1), 3)
  0.071
  >>> round(padded_share(np.array([[10, 25, 30]]), 10, 3), 3)
  0.278
  """
  steps = np.sort(-(-sizes // batch_size))[:, ::-1]
  padding = -steps.shape[1] % (chunk * devices)
  steps = np.pad(steps, ((0, 0), (0, padding)))
  longest = steps.reshape(len(steps), -1, devices, chunk).max(-1)
  longest[:, 1::2] = longest[:, 1::2, ::-1].copy()
  slowest = longest.sum(1).max(-1).sum()
  return float(1 - sizes.sum() / (slowest * devices * chunk * batch_size))


def _random_pixels(problem: Problem) -> data.Dataset:
  random = np.random.default_rng(0)
  rows = problem.num_clients * problem.mean_size
  x = random.integers(0, 256, (rows, *problem.shape), np.uint8)
  y = random.integers(0, problem.num_classes, rows, np.int32)
  none = np.zeros(0, np.int64)
  return data.Dataset(x, y, x[:0], y[:0], none, none, problem.num_classes)
