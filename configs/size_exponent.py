"""Is the loss of a client with more data worth more, where clients are narrow?

  python -m experiments.sweep --config=configs/size_exponent.py \
    --config.data.path=fashion_mnist.npz --workdir=runs/size_exponent
  python -m experiments.report --config=configs/size_exponent.py \
    --workdir=runs/size_exponent --reference='pow_d, e = 0' \
    --out=configs/size_exponent

`fashion_mnist.npz` holds x_train, y_train, x_test and y_test, images uint8.
HeteroFL with an MLP 784-64-10 and widths 1, 1/2, 1/4; 100 clients of very
unequal size, whose data are alike (log-normal, sigma 1.2) or skewed (Dirichlet
0.1).  Power-of-Choice takes the 5 of 20 candidates, drawn in proportion to n_k,
with the largest loss times n_k^e.  The wide networks go to the large clients,
to anybody, or to the small ones.  Losses are of the whole network, for narrow
clients too.  100 rounds of 10 steps on batches of 32, ten seeds; the round is
chosen on validation data.

measured: `configs/size_exponent/README.md` (2026-11-21, 2 cores of an AMD EPYC
that other jobs used: 36 minutes, 17 of them the program's own on one core).
Answer: not as such.  Where width has nothing to do with size, no exponent
is told from 0: e = 1 gains 0.3 points [-0.5, +1.1] with alike clients and loses
1.9 [-6.6, +2.8] with skewed ones, intervals that contain 0 as do those of 0.5
and -0.5.  Where width goes with size, the exponent chooses widths: with the
large clients wide, e = 0.5 gains 0.3 [0.0, 0.5] (alike) and 3.1 [1.1, 5.2]
(skewed); with the large clients narrow it loses 16.3 [11.0, 21.6] and 32.1
[25.4, 38.9], and e = -0.5 gains 1.8 [0.9, 2.6] and 11.0 [6.5, 15.5].  So the
loss of a wide client is worth more, whoever has the data.  Drawing in
proportion to n_k, without any losses, is as good as e = 0 in all columns.
24 differences at 95 % each: of the gains only those of e = -0.5 would survive a
correction for that.  Of the collapse with large narrow clients: in one run with
e = 1 the network of width 1/4 had .756 where the whole one had .640, whose wide
channels hardly anybody trains (alike), but .314 and .319 (skewed).
"""

import fedjax_ls as fl
from fedjax_ls import config, sweep

# {row of the table: what it sets}
ROWS = {
  'proportional': {'sampler.name': 'proportional'},
  **{
    f'pow_d, e = {e:g}': {
      'sampler.name': 'pow_d',
      'sampler.candidates': 20,
      'sampler.size_exponent': e,
    }
    for e in (-0.5, 0.0, 0.5, 1.0)
  },
}

KINDS = {'alike': 'log_normal', 'skewed': 'dirichlet'}
TIERS = {
  'large are wide': 'by_size',
  'width at random': 'random',
  'small are wide': 'inverse_size',
}

# {column of the table: what it sets}
COLUMNS = {
  f'{data}, {who}': {'partition.kind': kind, 'tiers.kind': tiers}
  for data, kind in KINDS.items()
  for who, tiers in TIERS.items()
}


def get_config(method: str = 'heterofl') -> fl.Config:
  """100 rounds of 10 local steps on batches of 32, 5 of 100 clients."""
  settings = fl.algorithms.find(method).settings()
  if method == 'heterofl':
    settings.rates = ('1', '1/2', '1/4')
  return fl.Config(
    rounds=100,
    eval_every=10,
    data=config.Data(name='npz', path='fashion_mnist.npz', validation=0.1),
    partition=config.Partition(
      kind='log_normal', num_clients=100, sigma=1.2, alpha=0.1, min_size=10
    ),
    model=config.Model(name='mlp', hidden=(64,), use_bias=True),
    algorithm=settings,
    client=fl.Client(learning_rate=0.1, batch_size=32, unit='steps', amount=10),
    server=fl.Server(weights='uniform'),
    sampler=config.Sampler(name='proportional', cohort_size=5),
  )


def get_sweep() -> sweep.Sweep:
  """Five rows x six columns x ten seeds."""
  return sweep.product(
    list(ROWS.values()),
    list(COLUMNS.values()),
    sweep.axis('seed', range(10)),
  )
