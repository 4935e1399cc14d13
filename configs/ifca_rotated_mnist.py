"""Rotated MNIST, 1,200 clients in four groups: IFCA.

  python -m experiments.run --config=configs/ifca_rotated_mnist.py \
    --config.data.path=mnist_4.npz --workdir=runs/ifca_rotated_mnist

Ghosh, Chung, Yin, Ramchandran. An efficient framework for clustered federated
learning. NeurIPS 2020.  Settings of the authors' code: an MLP 784-200-10 of
159,010 parameters, all clients every round, 10 full-batch steps at learning
rate 0.1, 300 rounds, pixels in [0, 1].  Each of the 60,000 images is there in
all four orientations, so that 1,200 clients hold 200 each (2,400: 100, with
`--config.partition.num_clients=2400 --config.client.batch_size=100`); make the
file with four copies of each, which the groups of clients turn:

  d = np.load('mnist.npz')
  np.savez('mnist_4.npz', **{k: np.concatenate([d[k]] * 4) for k in d.files})

Here a group is dealt its 60,000 at random, so that a group may lack an image
that another one has twice.  `:fedavg` is one model for all;
`--config.rounds=1 --config.fine_tune=1000 --config.server.learning_rate=1e-9`
with it is each client alone.

published, unverified: for 1,200, 2,400 and 4,800 clients IFCA has 95.25, 95.05
and 94.20 %, one model 89.73, 88.65 and 86.74, each client alone 80.05, 73.66
and 63.32; there, a test client's model is the one that fits its test labels.
measured: not run.
cost: 7e14 operations, some hours on 2 cores; an accelerator is needed.
"""

import fedjax_ls as fl
from fedjax_ls import config


def get_config(method: str = 'ifca') -> fl.Config:
  """300 rounds of 10 full-batch steps, all of 1,200 clients."""
  settings = fl.algorithms.find(method).settings()
  if method == 'ifca':
    settings.clusters = 4
  return fl.Config(
    rounds=300,
    eval_every=10,
    data=config.Data(name='npz', path='mnist_4.npz'),
    partition=config.Partition(
      kind='iid', num_clients=1200, transform='rotation', num_groups=4
    ),
    model=config.Model(name='mlp', hidden=(200,), use_bias=True),
    algorithm=settings,
    client=fl.Client(
      learning_rate=0.1, batch_size=200, unit='steps', amount=10
    ),
    server=fl.Server(weights='uniform'),
  )
