"""MNIST, a hundred clients with two classes each: HeteroFL.

  python -m experiments.run --config=configs/heterofl_mnist.py \
    --config.data.path=mnist.npz --workdir=runs/heterofl_mnist
  python -m experiments.run --config=configs/heterofl_mnist.py \
    --config.data.path=mnist.npz --config.partition.kind=iid \
    --config.rounds=200 --config.client.milestones=100 \
    --workdir=runs/heterofl_mnist_iid

`mnist.npz` holds x_train [60000, 28, 28] uint8, y_train, x_test and y_test.  As
`heterofl_cifar10.py`, with four convolutions of 64 to 512 channels.

Diao, Ding, Tarokh. HeteroFL: computation and communication efficient federated
learning for heterogeneous clients. ICLR 2021.

published (test accuracy in %; the paper's table was not at hand):
  the authors' slides, a-e, non-IID, local and global: no norm, Scaler or mask
  96.8, 96.9; static BatchNorm with mask 99.8, 98.0; with Scaler 99.8, 98.2
  a third party's run (Flower): IID, local, global
  a              99.47 99.82 98.87
  a-e            99.49 99.86 98.9
  a-b-c-d-e      99.23 99.84 98.5
  e              98.46 99.53 96.5
measured: nothing; this has not been run.
cost: an accelerator is needed.  Parameters of a to e 1,556,874, 391,370,
  98,922, 25,274, 6,594; a client's round takes 3.6e11, 9.1e10, 2.3e10, 6.1e9,
  1.6e9 multiply-accumulates; all rounds 3.8e14.

Differs from the authors' code as `heterofl_cifar10.py` does.
"""

import fedjax_ls as fl
from configs import heterofl_cifar10
from fedjax_ls import config


def get_config(method: str = 'heterofl') -> fl.Config:
  """400 rounds of five local epochs on batches of 10, ten clients each."""
  made = heterofl_cifar10.get_config(method)
  made.rounds = 400
  made.data = config.Data(
    name='npz', path='mnist.npz', mean=(0.1307,), std=(0.3081,)
  )
  made.model.name = 'pooled_cnn'
  made.client.learning_rate, made.client.milestones = 0.01, (200,)
  return made
