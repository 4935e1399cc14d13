"""Digits that four groups of clients see rotated: CFL, IFCA and one model.

  python -m experiments.run --config=configs/clusters_digits.py:cfl \
    --workdir=runs/clusters_cfl

20 clients with alike shares of the digits, all of them every round; images are
turned by 0, 90, 180 or 270 degrees.  `:ifca` has four models, `:fedavg` one.
Every client is judged on its own rotated test rows.

measured: 6 to 9 s each on 2 busy CPU cores (2026-11-21, seed 0); accuracy, and
in brackets that of the worst tenth of the clients:
  round                                     20         50         100
  fedavg                                  .697 (.56) .797 (.64) .839 (.64)
  fedavg, fine_tune=10                    .717 (.58) .811 (.67) .856 (.72)
  fedavg, fine_tune=50                    .806 (.72) .833 (.72) .858 (.72)
  ifca                                    .867 (.72) .878 (.75) .894 (.78)
  ifca, algorithm.own=classifier          .892 (.81) .919 (.83) .925 (.81)
  cfl                                     .697 (.56) .908 (.75) .928 (.78)
Alone, by 1000 steps from the start (rounds=1, fine_tune=1000 and
server.learning_rate=1e-9), clients come to .864 (.72).  CFL splits after rounds
20, 21 and 22 into exactly the four groups; with algorithm.eps2=0.3 it goes on
to split them, to eight clusters.
"""

import fedjax_ls as fl
from fedjax_ls import config


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
