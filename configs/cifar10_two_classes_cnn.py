"""CIFAR-10, ten clients with two classes each: the CNN of the LN paper.

  python -m experiments.run --config=configs/cifar10_two_classes_cnn.py \
    --config.data.path=cifar10.npz --config.model.norm=ln \
    --workdir=runs/cifar10_two_classes_cnn_ln

`cifar10.npz` holds x_train, y_train, x_test and y_test, images uint8.  Other
rows of the table:
FN is model.norm=fn model.norm_where=last, FedYogi server.optimizer=yogi
server.learning_rate=0.01 server.tau=0.001 server.v0=1e-6, and :feddecorr,
:fedlc, :fedrs, :fedprox, :scaffold after the file's name are the methods.

Zhang, Beitollahi, Bie, Chen. Understanding the role of layer normalization in
label-skewed federated learning. TMLR 2024 (arXiv 2308.09565).
Settings as in `cifar10_one_class_cnn.py`.

published (test accuracy in %, mean over clients, last round, Table 10, E = 10):
  FedAvg 71.83, FedProx 71.86, SCAFFOLD 71.88, FedLC 62.01, FedDecorr 70.88,
  FedRS 63.26, FedYogi 78.97, FN 76.67, LN 77.52
The paper's SCAFFOLD rows are close to FedAvg's; its released code never updates
the control variates.
measured: nothing yet.
"""

import fedjax_ls as fl
from configs import cifar10_one_class_cnn
from fedjax_ls import config


def get_config(method: str = 'fedavg') -> fl.Config:
  """As with one class a client, but two."""
  made = cifar10_one_class_cnn.get_config(method)
  made.partition = config.Partition(
    kind='classes', num_clients=10, classes_per_client=2
  )
  return made
