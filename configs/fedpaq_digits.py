"""FedPAQ on scikit-learn's digits: 50 clients, 25 a round, quantized updates.

  python -m experiments.run --config=configs/fedpaq_digits.py \
    --config.uplink.levels=5 --workdir=runs/fedpaq_digits
  python -m experiments.sweep --config=configs/fedpaq_digits.py \
    --config.data.validation=0.1 --workdir=runs/fedpaq
  python -m experiments.report --config=configs/fedpaq_digits.py \
    --workdir=runs/fedpaq --target=0.94 --out=configs/fedpaq_digits

Reisizadeh, Mokhtari, Hassani, Jadbabaie, Pedarsani. FedPAQ: a
communication-efficient federated learning method with periodic averaging and
quantization. AISTATS 2020.  FedPAQ is FedAvg with a partial cohort, clients
that count alike, and updates quantized by QSGD; the paper has 50 clients and
levels of 1, 5 and 10 on other data.  `uplink.links=float32` sends full
precision and counts it.  The clock has clients of 1e8 multiply-accumulates and
1e5 bytes a second, so that sending a full update takes 13 times as long as
training.

measured: `configs/fedpaq_digits/README.md`, all links, five seeds (2026-11-21,
2 cores of an AMD EPYC that other jobs used: 1 minute), of 4810 parameters:
  to 94 %              bits   rounds   MB sent   simulated s
  float32            153920       44     21.2           9.0
  bfloat16            76960       44     10.6           4.8
  qsgd, levels 10     24082       40      3.0           1.7
  qsgd, levels 5      19272       40      2.4           1.5
  qsgd, levels 1       9652       46      1.4           1.1
  sign, feedback       4842       58      0.9           1.1
  top 5 %, feedback   10845       48      1.6           1.3
No link loses accuracy in the end: differences to float32 are within 0.3 points,
and all intervals contain 0.
published: the paper shows curves over simulated time and no table.
"""

import fedjax_ls as fl
from fedjax_ls import config, sweep

# {row of the table: what it sets}
ROWS = {
  'float32': {'uplink.links': ('float32',)},
  'bfloat16': {'uplink.links': ('bfloat16',)},
  **{
    f'qsgd, {levels:g} levels': {
      'uplink.links': ('qsgd',),
      'uplink.levels': levels,
    }
    for levels in (10.0, 5.0, 1.0)
  },
  'sign': {'uplink.links': ('sign',), 'uplink.error_feedback': True},
  'top 5 %': {
    'uplink.links': ('top_k',),
    'uplink.keep': 0.05,
    'uplink.error_feedback': True,
  },
}

# {column of a further table: (metric, factor)}
MEASURES = {'bits an update': ('uplink/bits', 1)}


def get_config(method: str = 'fedavg') -> fl.Config:
  """100 rounds of 10 local steps on batches of 10."""
  return fl.Config(
    rounds=100,
    eval_every=10,
    data=config.Data(name='digits'),
    partition=config.Partition(kind='iid', num_clients=50),
    model=config.Model(name='mlp', hidden=(64,), use_bias=True),
    algorithm=fl.algorithms.find(method).settings(),
    client=fl.Client(learning_rate=0.1, batch_size=10, unit='steps', amount=10),
    server=fl.Server(weights='uniform'),
    uplink=fl.Uplink(links=('qsgd',), levels=5.0),
    sampler=config.Sampler(name='uniform', cohort_size=25),
    clock=config.Clock(macs_per_second=(1e8,), up=(1e5,)),
  )


def get_sweep() -> sweep.Sweep:
  """Seven rows x five seeds."""
  return sweep.product(list(ROWS.values()), sweep.axis('seed', range(5)))
