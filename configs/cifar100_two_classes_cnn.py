"""CIFAR-100, 50 clients with two classes each: the CNN of the LN paper.

  python -m experiments.run --config=configs/cifar100_two_classes_cnn.py \
    --config.data.path=cifar100.npz --config.model.norm=ln \
    --workdir=runs/cifar100_two_classes_cnn_ln

`cifar100.npz` holds x_train, y_train, x_test and y_test, images uint8.  Other
rows of the table:
FN is model.norm=fn model.norm_where=last, FedYogi server.optimizer=yogi
server.learning_rate=0.01 server.tau=0.001 server.v0=1e-6, and :feddecorr,
:fedlc, :fedrs, :fedprox, :scaffold after the file's name are the methods.

Zhang, Beitollahi, Bie, Chen. Understanding the role of layer normalization in
label-skewed federated learning. TMLR 2024 (arXiv 2308.09565).
Settings as in `cifar10_one_class_cnn.py` but learning rate 0.1: the paper's
table of settings says so, its text gives 0.1 for one local step only.

published (test accuracy in %, mean over clients, last round, Table 11, E = 10):
  FedAvg 32.33, FedProx 32.39, SCAFFOLD 32.30, FedLC 6.04, FedDecorr 29.21,
  FedRS 10.73, FedYogi 44.60, FN 40.32, LN 46.59
measured: nothing yet.
"""

import fedjax_ls as fl
from configs import cifar10_one_class_cnn
from fedjax_ls import config


def get_config(method: str = 'fedavg') -> fl.Config:
  """50 clients with two classes each, learning rate 0.1."""
  made = cifar10_one_class_cnn.get_config(method)
  made.data.path = 'cifar100.npz'
  made.partition = config.Partition(
    kind='classes', num_clients=50, classes_per_client=2
  )
  made.client.learning_rate = 0.1
  return made
