"""Digits that four groups of clients see rotated: CFL, IFCA and one model.

  python -m experiments.run --config=configs/clusters_digits.py:cfl \
    --workdir=runs/clusters_cfl

20 clients with alike shares of the digits, all of them every round; images are
turned by 0, 90, 180 or 270 degrees.  `:ifca` has four models, `:fedavg` one.
Every client is judged on its own rotated test rows.  All rows, five seeds, with
each client alone (1000 steps from the start) and centralized training (one step
a round on two examples of each client: SGD on batches of 40 of all data):

  python -m experiments.sweep --config=configs/clusters_digits.py \
    --workdir=runs/clusters
  python -m experiments.sweep --config=configs/clusters_digits.py:fedavg \
    --workdir=runs/alone --config.rounds=1 --config.fine_tune=1000 \
    --config.server.learning_rate=1e-9 --sweep='seed=0,1,2,3,4'
  python -m experiments.sweep --config=configs/clusters_digits.py:fedavg \
    --workdir=runs/centralized --config.rounds=1000 --config.eval_every=100 \
    --config.client.amount=1 --config.client.batch_size=2 \
    --sweep='seed=0,1,2,3,4'
  python -m experiments.report --config=configs/clusters_digits.py \
    --workdir=runs/clusters,runs/alone,runs/centralized \
    --out=configs/clusters_digits
  python -m experiments.recovery --config=configs/clusters_digits.py \
    --workdir=runs/clusters

measured: `configs/clusters_digits/README.md` (2026-11-21, 2 cores of an AMD
EPYC that other jobs used: 1 minute; clients counted by n_k, which differ by one
row), accuracy over all clients and in the worst tenth of them, at the best
round on test, and how the clusters of the last round agree with the planted
groups:
                          accuracy   worst tenth   adjusted Rand index
  one model                   84.3          67.2
  one model, fine-tuned       86.4          72.8
  IFCA                        93.1          81.7   0.92
  IFCA, own classifiers       92.6          78.9   0.94
  CFL                         93.3          80.6   1.00
  each alone                  84.7          66.1
  centralized                 84.6          68.9
A tenth of the rows taken away for validation is enough for CFL to go on
splitting, to eight clusters in all seeds (index 0.72), as with
`algorithm.eps2=0.3`: its bounds belong to the norms of the updates.
"""

import fedjax_ls as fl
from fedjax_ls import config, sweep

# {row of the table: what it sets}
ROWS = {
  'one model': {'algorithm': 'fedavg'},
  'one model, fine-tuned': {'algorithm': 'fedavg', 'fine_tune': 50},
  'IFCA': {'algorithm': 'ifca'},
  'IFCA, own classifiers': {
    'algorithm': 'ifca',
    'algorithm.own': ('classifier',),
  },
  'CFL': {'algorithm': 'cfl'},
  'each alone': {'algorithm': 'fedavg', 'fine_tune': 1000},
  'centralized': {'algorithm': 'fedavg', 'client.amount': 1},
}
# Rows that take other rounds than the rest, and so commands of their own.
OTHERS = ('each alone', 'centralized')

# {column of a further table: (metric, factor)}
MEASURES = {
  'worst tenth of the clients (%)': ('test/accuracy/client_worst10', 100),
  'best tenth (%)': ('test/accuracy/client_best10', 100),
  'variance over clients (%^2)': ('test/accuracy/client_variance', 1e4),
}


def get_config(method: str = 'cfl') -> fl.Config:
  """100 rounds of 10 local steps on batches of 32."""
  settings = fl.algorithms.find(method).settings()
  if method == 'ifca':
    settings.clusters = 4
  if method == 'cfl':
    settings.clusters, settings.first_split = 8, 20
    settings.eps1, settings.eps2, settings.gamma = 0.3, 0.45, 0.6
  return fl.Config(
    rounds=100,
    eval_every=10,
    data=config.Data(name='digits'),
    partition=config.Partition(
      kind='iid', num_clients=20, transform='rotation', num_groups=4
    ),
    model=config.Model(name='mlp', hidden=(64,)),
    algorithm=settings,
    client=fl.Client(learning_rate=0.1, batch_size=32, unit='steps', amount=10),
  )


def get_sweep() -> sweep.Sweep:
  """All rows but the `OTHERS` x five seeds."""
  rows = [v for row, v in ROWS.items() if row not in OTHERS]
  return sweep.product(rows, sweep.axis('seed', range(5)))
