"""CIFAR-10, ten clients, Dirichlet(alpha): FedDecorr with MobileNetV2.

  python -m experiments.run --config=configs/feddecorr_cifar10.py \
    --config.data.path=cifar10.npz --config.partition.alpha=0.05 \
    --workdir=runs/feddecorr_cifar10

`cifar10.npz` holds x_train, y_train, x_test and y_test, images uint8.  FedAvg
is `feddecorr_cifar10.py:fedavg`; alphas: 0.05, 0.1, 0.5 and partition.kind=iid
(the paper's grid, as remembered and not checked).

Shi, Liang, Zhang, Tan, Bai. Towards understanding and mitigating dimensional
collapse in heterogeneous federated learning. ICLR 2023 (arXiv 2210.00226).  Ten
clients, all taking part, 10 local epochs on batches of 64 at learning rate 0.01
with momentum 0.9 and weight decay 1e-5, 100 rounds; the coefficient is 0.1 in
the authors' code, whose scale is used here; crops after padding by 4 and flips.

published: the paper's tables were not at hand.
measured: nothing yet.
cost: an accelerator is needed.

Differs from the authors' code in: images are in [0, 1], not standardized (set
data.mean and data.std)."""

import fedjax_ls as fl
from fedjax_ls import config


def get_config(method: str = 'feddecorr') -> fl.Config:
  """100 rounds of 10 local epochs on batches of 64."""
  settings = fl.algorithms.find(method).settings()
  if method == 'feddecorr':
    settings.coefficient, settings.scale = 0.1, 'code'
  return fl.Config(
    rounds=100,
    data=config.Data(name='npz', path='cifar10.npz', crop_padding=4, flip=True),
    partition=config.Partition(
      kind='dirichlet', num_clients=10, alpha=0.05, min_size=10, balance=True
    ),
    model=config.Model(
      name='mobilenetv2',
      norm='bn',
      norm_before=True,
      norm_affine=True,
      use_bias=True,
      initializer='torch',
    ),
    algorithm=settings,
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
