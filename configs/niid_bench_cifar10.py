"""CIFAR-10, ten clients: the label-skew settings of NIID-Bench.

  python -m experiments.run --config=configs/niid_bench_cifar10.py \
    --config.data.path=cifar10.npz --workdir=runs/niid_bench

`cifar10.npz` holds x_train, y_train, x_test and y_test, images uint8.
Dirichlet 0.5 by default; two labels a client: partition.kind=classes
partition.classes_per_client=2.  Methods after the file's name: :fedprox,
:scaffold, :fednova.

Li, Diao, Chen, He. Federated learning on non-IID data silos: an experimental
study. ICDE 2022.  Ten clients, all taking part, 10 local epochs on batches of
64 at learning rate 0.01 with momentum 0.9 and weight decay 1e-5, 50 rounds.

published (test accuracy in %, mean of three):
  two labels: FedProx 50.7, FedAvg 49.8, SCAFFOLD 49.1, FedNova 46.5
  Dir 0.5:    SCAFFOLD 69.8, FedAvg 68.2, FedProx 67.9, FedNova 66.8
Flower's rerun at Dir 0.5 (best round): FedAvg 62.5, SCAFFOLD 68.1, FedProx
65.6,
  FedNova 63.9
measured: nothing yet.
cost: 25 million examples of a small CNN.
"""

import fedjax_ls as fl
from fedjax_ls import config


def get_config(method: str = 'fedavg') -> fl.Config:
  """50 rounds of 10 local epochs on batches of 64."""
  return fl.Config(
    rounds=50,
    data=config.Data(name='npz', path='cifar10.npz'),
    partition=config.Partition(
      kind='dirichlet', num_clients=10, alpha=0.5, min_size=10, balance=True
    ),
    model=config.Model(name='lenet', use_bias=True, initializer='torch'),
    algorithm=fl.algorithms.find(method).settings(),
    server=fl.Server(weights='size'),
    client=fl.Client(
      learning_rate=0.01,
      optimizer='momentum',
      momentum=0.9,
      weight_decay=1e-5,
      batch_size=64,
      unit='epochs',
      amount=10,
    ),
  )
