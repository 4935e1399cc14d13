"""FedPAQ on scikit-learn's digits: 50 clients, 25 a round, quantized updates.

  python -m experiments.run --config=configs/fedpaq_digits.py \
    --config.uplink.levels=5 --workdir=runs/fedpaq_digits

Reisizadeh, Mokhtari, Hassani, Jadbabaie, Pedarsani. FedPAQ: a
communication-efficient federated learning method with periodic averaging and
quantization. AISTATS 2020.  FedPAQ is FedAvg with a partial cohort, clients
that count alike, and updates quantized by QSGD; the paper has 50 clients and
levels of 1, 5 and 10 on other data.  `uplink.links=float32` sends full
precision and counts it.

measured: about 10 s each on 2 busy CPU cores (2026-11-21, seed 0); bits are per
client and round, of 4810 parameters:
  uplink                bits   test accuracy at round 20   50   100
  float32             153920                        .917 .953  .961
  bfloat16             76960                        .917 .953  .961
  qsgd, levels 10      24082                        .914 .953  .964
  qsgd, levels 5       19272                        .914 .953  .967
  qsgd, levels 1        9652                        .906 .956  .958
published: the paper shows curves over simulated time and no table.
"""

import fedjax_ls as fl
from fedjax_ls import config


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
  )
