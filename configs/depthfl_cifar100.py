"""CIFAR-100, a hundred clients of four depths: DepthFL with ResNet-18.

  python -m experiments.run --config=configs/depthfl_cifar100.py \
    --config.data.path=cifar100.npz --workdir=runs/depthfl_cifar100
  python -m experiments.run --config=configs/depthfl_cifar100.py \
    --config.data.path=cifar100.npz --config.partition.kind=dirichlet \
    --workdir=runs/depthfl_cifar100_dirichlet

`cifar100.npz` holds x_train [50000, 32, 32, 3] uint8, y_train, x_test, y_test.

Kim, Yu, Kim, Moon. DepthFL: depthwise federated learning for heterogeneous
clients. ICLR 2023.  Ten clients a round, five epochs on batches of 50, a
quarter of the clients of each depth, FedDyn and distillation; IID, or
Dirichlet(0.5).
Without FedDyn --config.algorithm.feddyn=false, without distillation
--config.algorithm.distillation=false.

published (test accuracy in %, round 1000, the first author's run of his
implementation in Flower's baselines; `accuracy@exit1` to `@exit4`, `accuracy`):
                              1/4    2/4    3/4    4/4  together
  IID                       71.74  73.35  73.57  73.55     76.06
  IID, no distillation      70.13  69.63  68.92  68.92     74.48
  Dirichlet(0.5)            70.33  71.88  72.43  72.34     74.92
  Dirichlet, no distillation
                            67.94  68.68  68.46  67.78     73.18
  IID, neither              66.18  67.56  67.97  68.01     72.67
  exclusive (one depth for those who can), with FedDyn and distillation:
                            69.68  73.21  70.29  60.32
  HeteroFL's widths 1/4 to 1: 51.08 55.89 58.29 57.61
measured: nothing; this has not been run.
cost: an accelerator is needed.  Parameters of the depths 4 to 1 12,283,344,
  3,838,316, 1,347,336, 479,652; a client's round takes 4.4e12, 3.4e12, 2.3e12,
  1.3e12 multiply-accumulates; all rounds 2.8e16.

Differs from the authors' code in: convolutions start as PyTorch's do, theirs
normal with variance 2 / fan-out.
"""

import fedjax_ls as fl
from fedjax_ls import config


def get_config(method: str = 'depthfl') -> fl.Config:
  """1000 rounds of five local epochs on batches of 50, ten clients each."""
  return fl.Config(
    rounds=1000,
    eval_every=10,
    data=config.Data(
      name='npz',
      path='cifar100.npz',
      crop_padding=4,
      flip=True,
      mean=(0.5071, 0.4867, 0.4408),
      std=(0.2675, 0.2565, 0.2761),
    ),
    partition=config.Partition(
      kind='iid', num_clients=100, alpha=0.5, min_size=10, balance=True
    ),
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
      schedule='exponential',
      decay=0.998,
      weight_decay=1e-3,
      batch_size=50,
      unit='epochs',
      amount=5,
    ),
    server=fl.Server(weights='uniform'),
    sampler=fl.Sampler(name='uniform', cohort_size=10),
  )
