"""GradAlign in its distributed setting: iid mini-batches of digits as workers.

  python -m experiments.run --config=configs/gradalign_digits.py \
    --workdir=runs/gradalign

Each of 18 workers holds one mini-batch of 15 or 16 of the 287 train rows (the
other 1150 are for validation) and takes one step a round.  The same with
`gradalign_digits.py:fedavg` is SGD on the large batch of all workers.  One
client with all rows that trains for an epoch a round is sequential SGD on
small batches: `--config.partition.num_clients=1 --config.client.unit=epochs
--config.rounds=50 --config.eval_every=5`.  `experiments.gradalign` compares
the three.

measured: `experiments/gradalign_results/README.md`.
"""

import fedjax_ls as fl
from fedjax_ls import config
from fedjax_ls.algorithms.fedga import FedGA


def get_config(method: str = 'fedga') -> fl.Config:
  """900 updates, as many as 50 epochs of sequential SGD take."""
  algorithm = fl.algorithms.find(method).settings()
  if isinstance(algorithm, FedGA):
    algorithm = FedGA(beta=0.3, displace='gradient')
  return fl.Config(
    rounds=900,
    eval_every=90,
    data=config.Data(name='digits', validation=0.8),
    partition=config.Partition(kind='iid', num_clients=18),
    model=config.Model(name='mlp', hidden=(64,), use_bias=True),
    algorithm=algorithm,
    client=fl.Client(learning_rate=0.3, batch_size=16, amount=1),
    server=fl.Server(weights='uniform'),
  )
