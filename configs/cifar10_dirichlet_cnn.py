"""CIFAR-10, ten clients, Dirichlet(0.1): the CNN of the LN paper.

  python -m experiments.run --config=configs/cifar10_dirichlet_cnn.py \
    --config.data.path=cifar10.npz --config.model.norm=ln \
    --workdir=runs/cifar10_dirichlet_cnn_ln

`cifar10.npz` holds x_train, y_train, x_test and y_test, images uint8.  Other
rows of the table:
FN is model.norm=fn model.norm_where=last, FedYogi server.optimizer=yogi
server.learning_rate=0.01 server.tau=0.001 server.v0=1e-6, and :feddecorr,
:fedlc, :fedrs, :fedprox, :scaffold after the file's name are the methods.

Zhang, Beitollahi, Bie, Chen. Understanding the role of layer normalization in
label-skewed federated learning. TMLR 2024 (arXiv 2308.09565).
Settings as in `cifar10_one_class_cnn.py`.  Every client can fill a batch of 32,
on less than which the authors' loop never ends: clients are drawn up to ten
times, then rows are moved to those that have fewer.

published (test accuracy in %, mean over clients, last round, Table 10, E = 10):
  FedAvg 73.06, FedProx 72.85, SCAFFOLD 72.38, FedLC 70.25, FedDecorr 74.58,
  FedRS 70.60, FedYogi 79.35, FN 78.13, LN 78.27
measured: nothing yet.
"""

import fedjax_ls as fl
from configs import cifar10_one_class_cnn
from fedjax_ls import config


def get_config(method: str = 'fedavg') -> fl.Config:
  """As with one class a client, but Dirichlet(0.1)."""
  made = cifar10_one_class_cnn.get_config(method)
  made.partition = config.Partition(
    kind='dirichlet', num_clients=10, alpha=0.1, min_size=32
  )
  return made
