"""EMNIST, 47 clients with one label each: FedGA of the GradAlign paper.

  python -m experiments.run --config=configs/gradalign_emnist.py \
    --config.data.path=DATA_DIR --workdir=runs/gradalign_emnist

Reads `emnist/balanced` of TensorFlow Datasets, prepared once under DATA_DIR
(the error says how when it is missing); FedAvg is `gradalign_emnist.py:fedavg`.

Dandi, Barba, Jaggi. Implicit gradient alignment in distributed and federated
learning. AAAI 2022.  Settings of the authors' README: 10 of 47 clients a round,
10 full-batch local steps (2,400 examples) at learning rate 0.05 with weight
decay 0.001, beta = 0.025 (half the learning rate), 2,001 rounds.

published: no table was at hand; the abstract claims accuracy above FedAvg's.
measured: nothing yet.
cost: 5e8 examples in all; an accelerator is needed.
"""

import fedjax_ls as fl
from fedjax_ls import config


def get_config(method: str = 'fedga') -> fl.Config:
  """2,001 rounds of 10 full-batch steps, 10 of 47 clients."""
  settings = fl.algorithms.find(method).settings()
  if method == 'fedga':
    settings.beta = 0.025
  return fl.Config(
    rounds=2001,
    data=config.Data(name='tfds:emnist/balanced'),
    partition=config.Partition(
      kind='classes', num_clients=47, classes_per_client=1
    ),
    model=config.Model(name='emnist_cnn', use_bias=True, initializer='torch'),
    algorithm=settings,
    client=fl.Client(
      learning_rate=0.05,
      weight_decay=1e-3,
      batch_size=2400,
      unit='steps',
      amount=10,
    ),
    sampler=config.Sampler(name='uniform', cohort_size=10),
  )
