"""From a configuration to the samples of a run and who owns them."""

from typing import Any, NamedTuple

import numpy as np

from fedjax_ls import config as config_lib
from fedjax_ls import data
from fedjax_ls.config import Config, as_config_error
from fedjax_ls.data import Dataset, Partition


class Samples(NamedTuple):
  """What a configuration trains and tests on.

  Attributes:
    dataset: the samples.
    partition: rows of every client, train and test.
    tests: `{name: (data set whose test rows count, rows of every client)}`.
    group: `[C]` group of each client, 0 for all without groups.
  """

  dataset: Dataset
  partition: Partition
  tests: dict[str, tuple[Dataset, list[np.ndarray]]]
  group: np.ndarray


def read(config: Config) -> Samples:
  """Reads the data and makes the clients.

  Args:
    config: a configuration from `validate`.

  Returns:
    Who trains and is tested on what.

  Raises:
    ConfigError: the configuration does not fit the data.
  """
  return as_config_error(_read, config)


def kind(dataset: Dataset) -> dict[str, Any]:
  """What a network has to know of the data, for JSON.

  Args:
    dataset: the samples.

  Returns:
    Type and shape of one input and one label, and the number of classes.

  >>> kind(data.load('digits'))
  {'x': ['float32', [8, 8, 1]], 'y': ['int32', []], 'num_classes': 10}
  """
  x, y = dataset.x_train, dataset.y_train
  return {
    'x': [str(x.dtype), list(x.shape[1:])],
    'y': [str(y.dtype), list(y.shape[1:])],
    'num_classes': dataset.num_classes,
  }


def of_kind(found: dict[str, Any]) -> Dataset:
  """One blank sample of what `kind` found, in place of the data."""
  x, y = (
    np.zeros((1, *shape), dtype) for dtype, shape in (found['x'], found['y'])
  )
  none = np.zeros(0, np.int64)
  return Dataset(x, y, x, y, none, none, found['num_classes'])


def _read(config: Config) -> Samples:
  settings = config.partition
  seed = config_lib.seeds(config)['partition']
  dataset = data.load(
    config.data.name,
    config.data.path,
    sequence_length=config.data.sequence_length,
    target=config.data.target,
    alpha=config.data.alpha,
    beta=config.data.beta,
    num_clients=settings.num_clients,
    seed=seed,
  )
  dataset = data.shrink(dataset, config.data.shrink)

  def cut(dataset: Dataset) -> Partition:
    return data.make_partition(
      settings.kind,
      dataset,
      num_clients=settings.num_clients,
      classes_per_client=settings.classes_per_client,
      alpha=settings.alpha,
      min_size=settings.min_size,
      balance=settings.balance,
      iid_share=settings.iid_share,
      exponent=settings.exponent,
      sigma=settings.sigma,
      path=settings.path,
      seed=seed,
    )

  held_out = {}
  if config.data.validation:
    dataset, held = _validation(dataset, config.data.validation, seed)
    held_out['validation'] = held, cut(held)
  partition = cut(dataset)
  group = data.assign_groups(len(partition.train), settings.num_groups, seed)

  def transformed(dataset: Dataset, partition: Partition) -> Dataset:
    return data.transform_groups(
      dataset, partition, group, settings.transform, seed
    )

  dataset = transformed(dataset, partition)
  tests = {'test': (dataset, partition.test)}
  for name, (held, parts) in held_out.items():
    tests[name] = transformed(held, parts), parts.test
  return Samples(dataset, partition, tests, group)


def _validation(
  dataset: Dataset, share: float, seed: int
) -> tuple[Dataset, Dataset]:
  """The data set without the validation rows, and with them for a test set."""
  numbered = dataset._replace(x_train=np.arange(len(dataset.y_train)))
  _, rows, y = data.split_validation(numbered, share, seed)
  rest, x, _ = data.split_validation(dataset, share, seed)
  owners = dataset.client_train
  held = rest._replace(
    x_test=x, y_test=y, client_test=owners[rows] if len(owners) else owners
  )
  return rest, held
