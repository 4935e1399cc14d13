"""CIFAR-10, ten clients with one class each: ResNet-18 of the LN paper.

  python -m experiments.run --config=configs/cifar10_one_class_resnet18.py \
    --config.data.path=cifar10.npz --config.model.norm=ln \
    --workdir=runs/cifar10_one_class_resnet18_ln

`cifar10.npz` holds x_train, y_train, x_test and y_test, images uint8.  Other
rows of the table:
FN is model.norm=fn model.norm_where=last, FedYogi server.optimizer=yogi
server.learning_rate=0.01 server.tau=0.001 server.v0=1e-6, and :feddecorr,
:fedlc, :fedrs, :fedprox, :scaffold after the file's name are the methods. Two
classes a client: partition.classes_per_client=2; Dirichlet(0.1):
partition.kind=dirichlet partition.min_size=32.

Zhang, Beitollahi, Bie, Chen. Understanding the role of layer normalization in
label-skewed federated learning. TMLR 2024 (arXiv 2308.09565).
Settings as in `cifar10_one_class_cnn.py`; the norm comes after the activation.
Differs from the authors' code in: their classifier has a bias although the
paper says all are removed, and their stem's norm has eps = 1 by mistake.

published (test accuracy in %, mean over clients, last round, Table 1; one
class, two classes, Dir 0.1):
  FedAvg 55.0 65.6 71.7, FedProx 54.7 66.7 71.4, SCAFFOLD 55.3 67.1 71.1,
  FedLC 10.0 57.9 65.0, FedDecorr 43.9 70.2 69.9, FedRS 10.0 56.7 66.1,
  FedYogi 80.9 80.0 79.2, FN 80.8 82.3 84.2, LN 87.2 88.0 89.1
  three seeds, one class (Table 14): 55.34 +- 0.78 FedAvg, 76.90 +- 2.80
  FedYogi, 80.55 +- 0.17 FN, 83.40 +- 4.90 LN
cost: 0.56 GMACs an example and 3,200 examples a round, 53 PMACs for 10,000
  rounds with the backward pass; an accelerator is needed.
measured: nothing yet.
"""

import fedjax_ls as fl
from configs import cifar10_one_class_cnn
from fedjax_ls import config


def get_config(method: str = 'fedavg') -> fl.Config:
  """As with the CNN, but ResNet-18 without biases."""
  made = cifar10_one_class_cnn.get_config(method)
  made.model = config.Model(name='resnet18', initializer='torch')
  return made
