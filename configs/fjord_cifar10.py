"""CIFAR-10, a hundred IID clients of five widths: FjORD with ResNet-18.

  python -m experiments.run --config=configs/fjord_cifar10.py \
    --config.data.path=cifar10.npz --workdir=runs/fjord_cifar10
  python -m experiments.run --config=configs/fjord_cifar10.py \
    --config.data.path=cifar10.npz --config.algorithm.distillation=true \
    --workdir=runs/fjord_cifar10_kd

`cifar10.npz` holds x_train [50000, 32, 32, 3] uint8, y_train, x_test, y_test.

Horvath, Laskaridis, Almeida, Leontiadis, Venieris, Lane. FjORD: fair and
accurate federated learning under heterogeneous targets with ordered dropout.
NeurIPS 2021.  The settings are those of the authors' implementation in Flower's
baselines: ten clients a round, one epoch on batches of 32, 20 clients of each
width.  Its other schedule, a tenth of the learning rate after half and three
quarters of the rounds: --config.client.schedule=step --config.client.decay=0.1
--config.client.milestones=250,375.

published:
  paper: multiply-accumulates 23M, 91M, 203M, 360M, 555M and parameters 456K,
  2M, 4M, 7M, 11M for p = 0.2, 0.4, 0.6, 0.8, 1; accuracies are in plots
  the authors' run, read off its plot to 0.1 (test accuracy in %, 500 rounds,
  p = 0.2 to 1): 83.9 85.6 86.2 85.7 84.8, distilled 83.7 86.1 86.6 86.5 85.9
measured: nothing; this has not been run.
cost: an accelerator is needed.  Parameters for p = 1 to 0.2 11,173,962,
  7,175,586, 4,049,352, 1,803,314, 457,578; a client's round takes 3.7e11,
  2.5e11, 1.6e11, 8.6e10, 3.5e10 multiply-accumulates on average over the widths
  that it draws, with distillation 1.2e12, 7.9e11, 4.6e11, 2.2e11, 6.9e10; all
  rounds 9.0e14 and 2.8e15.
"""

import fedjax_ls as fl
from fedjax_ls import config


def get_config(method: str = 'fjord') -> fl.Config:
  """500 rounds of a local epoch on batches of 32, ten clients each."""
  return fl.Config(
    rounds=500,
    eval_every=10,
    data=config.Data(
      name='npz',
      path='cifar10.npz',
      crop_padding=4,
      flip=True,
      mean=(0.4914, 0.4822, 0.4465),
      std=(0.2023, 0.1994, 0.2010),
    ),
    partition=config.Partition(kind='iid', num_clients=100),
    model=config.Model(
      name='resnet18',
      norm='bn',
      norm_before=True,
      norm_affine=True,
      use_bias=True,
      initializer='torch',
    ),
    algorithm=fl.algorithms.find(method).settings(),
    client=fl.Client(
      learning_rate=0.1,
      weight_decay=1e-4,
      batch_size=32,
      unit='epochs',
      amount=1,
    ),
    sampler=fl.Sampler(name='uniform', cohort_size=10),
  )
