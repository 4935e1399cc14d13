"""Who owns what: a table of a configuration's partition, and its picture.

python -m experiments.partition --config=configs/FILE.py[:METHOD]
  [--out=DIR] [--config.FIELD=VALUE ...]

Prints one line a client (their spread alone beyond 50): rows, classes,
effective classes (exp of the label entropy) and the total-variation distance
to all clients' label distribution.  With `--out`, writes `partition.png`, the
heat map; `partition.npz`, train and test rows, for `partition.kind = file`;
and `partition.json`, train rows for other simulators.

Exits with 2 if the command line or the configuration is wrong.
"""

import pathlib

import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import commandline
from fedjax_ls import data
from fedjax_ls.data import partition_files, skew
from fedjax_ls.samples import Samples, read
from fedjax_ls.validate import validate

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Configuration, FILE.py or FILE.py:METHOD.'
)
_OUT = flags.DEFINE_string('out', '', 'Folder for the picture and the files.')


def main() -> None:
  """Prints the table, or says in one sentence what is wrong."""
  samples = read(validate(_CONFIG.value))
  counts = class_counts(samples)
  print(skew.table(skew.measure(counts)))
  print(summary(samples))
  if _OUT.value:
    for path in write(samples.partition, counts, pathlib.Path(_OUT.value)):
      print(path)


def class_counts(samples: Samples) -> np.ndarray:
  """`[C, Y]` class counts; one class where targets are real numbers."""
  dataset, partition = samples.dataset, samples.partition
  if not dataset.num_classes:
    return np.array([[len(rows)] for rows in partition.train])
  return data.statistics(partition.train, dataset.y_train, dataset.num_classes)


def summary(samples: Samples) -> str:
  """What the table leaves out."""
  dataset, partition = samples.dataset, samples.partition
  owned = sum(map(len, partition.train))
  tested = [len(rows) for rows in partition.test]
  lines = [
    f'{len(partition.train)} clients own {owned} of '
    f'{len(dataset.y_train)} train rows and {sum(tested)} of '
    f'{len(dataset.y_test)} test rows; {tested.count(0)} have no test rows',
    f'hash {partition.hash[:12]}',
  ]
  if dataset.left_out:
    lines.insert(1, f'{dataset.left_out} clients with too few samples left out')
  if samples.group.max() > 0:
    sizes = np.bincount(samples.group)
    lines.insert(1, f'groups of {", ".join(map(str, sizes))} clients')
  return '\n'.join(lines)


def write(
  partition: data.Partition, counts: np.ndarray, folder: pathlib.Path
) -> list[pathlib.Path]:
  """Writes the picture and the partition; returns the files."""
  folder.mkdir(parents=True, exist_ok=True)
  paths = [folder / f'partition.{end}' for end in ('png', 'npz', 'json')]
  data.partition_heatmap(counts, str(paths[0]))
  partition.save(str(paths[1]))
  partition_files.write_rows(str(paths[2]), partition.train)
  return paths


if __name__ == '__main__':
  commandline.run(main, needs_workdir=False)
