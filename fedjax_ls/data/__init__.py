"""Data: sources of samples, partitions over clients, federations.

dataset = load('digits')
partition = make_partition('classes', dataset, num_clients=10)
federation = federate(dataset.x_train, dataset.y_train, partition.train)
"""

from fedjax_ls.data.federation import Federation, federate
from fedjax_ls.data.fingerprint import fingerprint
from fedjax_ls.data.partition import (
  KINDS,
  Partition,
  classes,
  dirichlet,
  iid,
  make_partition,
  natural,
  statistics,
)
from fedjax_ls.data.plots import partition_heatmap
from fedjax_ls.data.sources import SOURCES, Dataset, load, split_validation

__all__ = [
  'KINDS',
  'SOURCES',
  'Dataset',
  'Federation',
  'Partition',
  'classes',
  'dirichlet',
  'federate',
  'fingerprint',
  'iid',
  'load',
  'make_partition',
  'natural',
  'partition_heatmap',
  'split_validation',
  'statistics',
]
