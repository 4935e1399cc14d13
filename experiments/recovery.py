"""How well the clusters that runs found are the groups that were planted.

python -m experiments.recovery --workdir=DIR[,DIR] [--config=configs/FILE.py]

Reads the last checkpoints of finished runs, or of a study's points, whose
clients are in groups (`partition.num_groups`) and whose method tells clusters
(IFCA, CFL), and prints for each row of the study how many clusters have clients
and the adjusted Rand index of clusters and groups, mean and standard deviation
over seeds: 1 if they are the same, about 0 if they have nothing in common.  A
config file's ROWS and COLUMNS name the rows and columns, as in
`experiments.report`.

Exits with 2 if the command line or a folder is wrong.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import commandline
from fedjax_ls import build, report, saved, study
from fedjax_ls import config as config_lib
from fedjax_ls.config import ConfigError
from fedjax_ls.report.tables import NONE, labels, markdown
from fedjax_ls.study import Record
from fedjax_ls.types import context_of
from fedjax_ls.writers import Folder


def main() -> None:
  """Prints the table, or says in one sentence what is wrong."""
  given = flags.FLAGS
  print(markdown(table(given.workdir, given.config)))


def table(workdirs: Sequence[str], config: str = '') -> report.Table:
  """Clusters and their recovery, row by row.

  Args:
    workdirs: of studies or runs.
    config: file with ROWS and COLUMNS, empty for none.

  Raises:
    ConfigError: no run has groups and clusters.
    ValueError: a folder holds no run.
  """
  named = commandline.labels_of(config) if config else {}
  records = study.read(*workdirs)
  cells = report.cells(records, named.get('ROWS'), named.get('COLUMNS'))
  found = {
    (cell.row, cell.column): [
      _score(*pair) for pair in map(clusters, cell.runs) if pair is not None
    ]
    for cell in cells
  }
  if not any(found.values()):
    raise ConfigError(
      f'--workdir={",".join(workdirs)} has no finished run with '
      'partition.num_groups above 1 and a method that tells clusters; give '
      'runs of ifca or cfl'
    )
  rows, columns = labels(cells)
  header = [
    f'{column} {what}'.lstrip()
    for column in columns
    for what in ('clusters', 'adjusted Rand index')
  ]
  texts = [
    [row, *(t for c in columns for t in _texts(found.get((row, c), [])))]
    for row in rows
    if any(found.get((row, c)) for c in columns)
  ]
  return report.Table(['', *header], texts)


def clusters(record: Record) -> tuple[np.ndarray, np.ndarray] | None:
  """Clusters and groups of the clients of a run, `[C]` each.

  Returns:
    None if the run has none.

  Raises:
    ConfigError: its data are not here, or it has no checkpoint.
  """
  if record.fields['partition.num_groups'] < 2:
    return None
  content = Folder(record.path).read('config.json')
  config = config_lib.from_dict(content['config'])
  experiment = build.prepare(config, content['resolved'])
  cluster = experiment.job.algorithm.cluster
  if cluster is None:
    return None
  folder = Folder(record.path).checkpoints
  like = experiment.state.server
  server = config_lib.as_config_error(saved.server_of, folder, like)
  server = jax.tree.map(jnp.asarray, server)
  hyper, federation = experiment.job.hyper, experiment.job.federation

  def one(own):
    number, state = own
    now = experiment.state.round
    return cluster(hyper, context_of(federation, number, server, state, now))

  own = np.arange(len(federation.size)), experiment.state.clients
  found = jax.jit(lambda own: jax.lax.map(one, own))(own)
  return np.asarray(found), np.asarray(experiment.samples.group)


def _score(found: np.ndarray, planted: np.ndarray) -> tuple[int, float]:
  """How many clusters have clients, and the adjusted Rand index."""
  from sklearn import metrics

  index = metrics.adjusted_rand_score(planted, found)
  return len(np.unique(found)), float(index)


def _texts(scores: Sequence[tuple[int, float]]) -> list[str]:
  if not scores:
    return [NONE, NONE]
  numbers, indices = np.array(scores).T
  spread = f' ± {indices.std(ddof=1):.2f}' if len(indices) > 1 else ''
  used = ', '.join(f'{n:g}' for n in np.unique(numbers))
  return [used, f'{indices.mean():.2f}{spread}']


if __name__ == '__main__':
  flags.DEFINE_list('workdir', [], 'Folders of a study or of runs.')
  flags.DEFINE_string('config', '', 'File with ROWS and COLUMNS.')
  commandline.run(main, needs_config=False, wrong=ValueError)
