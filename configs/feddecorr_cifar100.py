"""CIFAR-100, ten clients, Dirichlet(alpha): FedDecorr with MobileNetV2.

  python -m experiments.run --config=configs/feddecorr_cifar100.py \
    --config.data.path=cifar100.npz --config.partition.alpha=0.05 \
    --workdir=runs/feddecorr_cifar100

`cifar100.npz` holds x_train, y_train, x_test and y_test, images uint8.  FedAvg
is `feddecorr_cifar100.py:fedavg`; alphas: 0.05, 0.1, 0.5 and partition.kind=iid
(the paper's grid, as remembered and not checked).

Shi, Liang, Zhang, Tan, Bai. Towards understanding and mitigating dimensional
collapse in heterogeneous federated learning. ICLR 2023 (arXiv 2210.00226).  Ten
clients, all taking part, 10 local epochs on batches of 64 at learning rate 0.01
with momentum 0.9 and weight decay 1e-4, 100 rounds; the coefficient is 0.05 in
the authors' code, whose scale is used here; crops after padding by 4 and flips.

published: the paper's tables were not at hand.
measured: nothing yet.
cost: an accelerator is needed.

Differs from the authors' code in: no AutoAugment; images are in [0, 1], not
standardized (set data.mean and data.std).
"""

import fedjax_ls as fl
from configs import feddecorr_cifar10


def get_config(method: str = 'feddecorr') -> fl.Config:
  """As for CIFAR-10, with another coefficient and weight decay."""
  made = feddecorr_cifar10.get_config(method)
  made.data.path = 'cifar100.npz'
  made.client.weight_decay = 1e-4
  if method == 'feddecorr':
    made.algorithm.coefficient = 0.05
  return made
