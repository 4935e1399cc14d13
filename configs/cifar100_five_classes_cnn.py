"""CIFAR-100, 20 clients with five classes each: the CNN of the LN paper.

  python -m experiments.run --config=configs/cifar100_five_classes_cnn.py \
    --config.data.path=cifar100.npz --config.model.norm=ln \
    --workdir=runs/cifar100_five_classes_cnn_ln

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
  FedAvg 36.22, FedProx 36.59, SCAFFOLD 36.57, FedLC 18.17, FedDecorr 32.94,
  FedRS 24.88, FedYogi 44.08, FN 45.41, LN 46.22
measured: nothing yet.
"""

import fedjax_ls as fl
from configs import cifar10_one_class_cnn
from fedjax_ls import config


def get_config(method: str = 'fedavg') -> fl.Config:
  """20 clients with five classes each, learning rate 0.1."""
  made = cifar10_one_class_cnn.get_config(method)
  made.data.path = 'cifar100.npz'
  made.partition = config.Partition(
    kind='classes', num_clients=20, classes_per_client=5
  )
  made.client.learning_rate = 0.1
  return made
