"""Data: sources of samples, partitions over clients, federations.

dataset = load('digits')
partition = make_partition('classes', dataset, num_clients=10)
federation = federate(dataset.x_train, dataset.y_train, partition.train)
"""

from fedjax_ls.data.dataset import Dataset, split_validation
from fedjax_ls.data.federation import Federation, federate
from fedjax_ls.data.fingerprint import fingerprint
from fedjax_ls.data.groups import assign_groups, transform_groups
from fedjax_ls.data.images import shrink
from fedjax_ls.data.kinds import KINDS, make_partition, natural
from fedjax_ls.data.label_skew import classes, dirichlet, shards
from fedjax_ls.data.partition import Partition, statistics
from fedjax_ls.data.plots import partition_heatmap
from fedjax_ls.data.size_skew import iid, log_normal, power_law
from fedjax_ls.data.sources import SOURCES, load
from fedjax_ls.data.tiers import assign_tiers

__all__ = [
  'KINDS',
  'SOURCES',
  'Dataset',
  'Federation',
  'Partition',
  'assign_groups',
  'assign_tiers',
  'classes',
  'dirichlet',
  'federate',
  'fingerprint',
  'iid',
  'load',
  'log_normal',
  'make_partition',
  'natural',
  'partition_heatmap',
  'power_law',
  'shards',
  'shrink',
  'split_validation',
  'statistics',
  'transform_groups',
]
