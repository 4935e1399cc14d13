"""MNIST, forty uneven clients: methods for narrow and shallow ones, a study.

  python -m experiments.sweep --config=configs/uneven_mnist.py \
    --config.data.path=mnist.npz --workdir=runs/uneven_mnist
  python -m experiments.report --config=configs/uneven_mnist.py \
    --workdir=runs/uneven_mnist --out=configs/uneven_mnist \
    --reference='strong clients only'

`mnist.npz` holds x_train [60000, 28, 28] uint8, y_train, x_test and y_test; 2 x
2 pixels become one.  HeteroFL's network with 8, 16, 32 and 64 channels and LN,
200 rounds of 10 local steps on batches of 32, ten of forty clients a round;
Dirichlet(0.3), which gives them 150 to 3200 rows, skewed by class; two seeds;
the learning rate is chosen between two on validation data, a tenth of the
training rows, and the test set is reported for it.

There are four tiers of ten clients.  In one column the clients with most rows
are strong and can train the whole network, in the other those with fewest.
Widths are 1, 1/2, 1/4 and 1/8 of the channels, depths 1, 3/4, 1/2 and 1/4 of
the convolutions:

  network     parameters  multiply-accumulates
  whole           25,034  131,104
  width 1/2        6,474   36,464
  width 1/4        1,730   10,960
  width 1/8          492    3,662
  depth 3/4        6,218  112,352
  depth 1/2        1,418   70,720
  depth 1/4          170   14,192

(DepthFL's further classifiers add up to 590 parameters.)  For comparison, what
one can do without a method: all clients train the smallest network, or the
strong ones train the whole one and the others stay away; and all train the
whole one.

measured: `configs/uneven_mnist/README.md` (2 cores of an AMD EPYC, 2026-11-28,
17 minutes; seeds 0 and 1, so that a few points between small networks are
noise).  Clients count alike under HeteroFL and DepthFL and by their rows under
the others, as in the papers.

What agrees with the papers: DepthFL's finding that HeteroFL is below training
by the strong clients alone (-1.0 and -0.4 points), and that FedDyn helps its
own method (2.3 and 1.3); FjORD's and Split-Mix's that the narrowest networks
gain on HeteroFL's (width 1/8: 61 to 64 % against 44 and 53 %; under HeteroFL
only the weakest tier trains it as a network); that the shallowest network
suffers under InclusiveFL (20 and 19 %, DepthFL 48 and 43 %).

What does not: no method is above the strong clients alone, but for InclusiveFL
by 0.2 where these have 4,400 to 5,200 of 54,000 rows.  They come to 96.1 % even
then on this task, and all ten of them train in each round, where a cohort of
all clients has two or three.  No method's network of width 1/8 reaches the 69 %
that it has when all train it alone.  DepthFL is below HeteroFL and InclusiveFL:
its classifiers read the mean over positions of 8 to 32 channels, without the
bottlenecks of its ResNet; the first comes to less than half, and the mean of
all logits (92.4 and 91.3) is below the last classifier (94.4 and 93.8).
FjORD's whole network is 4 points below HeteroFL's; of as many steps a strong
client takes a quarter on it.  Split-Mix's eight networks of 492 parameters have
together a sixth of the whole one's.  The masks of HeteroFL change nothing
beyond noise, where most clients have nine classes, if few rows of some.
"""

import fedjax_ls as fl
from fedjax_ls import config, sweep

WIDTHS = ('1', '1/2', '1/4', '1/8')
DEPTHS = ('1', '3/4', '1/2', '1/4')

# {row of the table: what it sets}
ROWS = {
  'HeteroFL': {
    'algorithm': 'heterofl', 'algorithm.rates': WIDTHS,
    'algorithm.every_width': True,
  },
  'HeteroFL without masks': {
    'algorithm': 'heterofl', 'algorithm.rates': WIDTHS,
    'algorithm.every_width': True, 'algorithm.absent': 'none',
    'algorithm.owners': False,
  },
  'FjORD': {'algorithm': 'fjord', 'algorithm.rates': WIDTHS},
  'Split-Mix': {'algorithm': 'splitmix', 'algorithm.rates': WIDTHS},
  'DepthFL': {
    'algorithm': 'depthfl', 'algorithm.rates': DEPTHS, 'algorithm.ramp': 60.0,
  },
  'DepthFL with FedAvg': {
    'algorithm': 'depthfl', 'algorithm.rates': DEPTHS, 'algorithm.ramp': 60.0,
    'algorithm.feddyn': False,
  },
  'InclusiveFL': {'algorithm': 'inclusivefl', 'algorithm.rates': DEPTHS},
  'width 1/8 for all': {'algorithm': 'fedavg', 'model.channels': (1, 2, 4, 8)},
  'depth 1/4 for all': {'algorithm': 'fedavg', 'model.channels': (8,)},
  # At full width in every tier, `width` is FedAvg with tiers.
  'strong clients only': {
    'algorithm': 'width', 'algorithm.rates': ('1',) * 4, 'sampler.tiers': (0,),
  },
  'whole network for all': {'algorithm': 'fedavg'},
}  # fmt: skip

# {column of the table: what it sets}
COLUMNS = {
  'strong clients have many rows': {'tiers.kind': 'by_size'},
  'strong clients have few rows': {'tiers.kind': 'inverse_size'},
}


def get_config(method: str = 'heterofl') -> fl.Config:
  """200 rounds of 10 local steps on batches of 32, ten of forty clients."""
  return fl.Config(
    rounds=200,
    eval_every=25,
    data=config.Data(
      name='npz', path='mnist.npz', shrink=2, mean=(0.1307,), std=(0.3081,),
      validation=0.1,
    ),
    partition=config.Partition(
      kind='dirichlet', num_clients=40, alpha=0.3, min_size=32
    ),
    tiers=config.Tiers(kind='by_size'),
    model=config.Model(
      name='pooled_cnn', channels=(8, 16, 32, 64), norm='ln', norm_before=True,
      use_bias=True,
    ),
    algorithm=fl.algorithms.find(method).settings(),
    client=fl.Client(learning_rate=0.1, batch_size=32, unit='steps', amount=10),
    sampler=fl.Sampler(name='uniform', cohort_size=10),
  )  # fmt: skip


def get_sweep() -> sweep.Sweep:
  """All rows x two kinds of tiers x two learning rates x two seeds."""
  return sweep.product(
    list(ROWS.values()),
    list(COLUMNS.values()),
    sweep.axis('client.learning_rate', (0.1, 0.3)),
    sweep.axis('seed', (0, 1)),
  )
