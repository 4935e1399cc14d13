"""The ablations of the LN paper: where to normalize, and how.

  python -m experiments.sweep --config=configs/ln_ablations.py \
    --config.data.path=cifar10.npz --workdir=runs/ln_ablations

CIFAR-10 and the CNN of `cifar10_one_class_cnn.py`; two classes a client:
--config.partition.classes_per_client=2.

Zhang, Beitollahi, Bie, Chen. Understanding the role of layer normalization in
label-skewed federated learning. TMLR 2024 (arXiv 2308.09565).

published (test accuracy in %, E = 10; one class, two classes, Dirichlet 0.1):
  without biases (Table 3): FedAvg 56.82 71.83 73.06
    FN layer-wise 77.05 76.60 77.27, last layer 77.14 76.67 78.14
    LN layer-wise 77.16 78.09 78.71, reduced 77.71 77.65 79.94
  with biases: FedAvg 58.57 72.0 73.17
    FN layer-wise 77.70 76.29 76.50, last layer 74.46 76.27 76.78
    LN layer-wise 77.75 76.73 78.36, reduced 76.89 76.74 77.26
  Table 4: GN of two groups 77.15 77.54 79.15
    BN averaged 9.63 24.64 58.80; FedBN 10.00 19.90 41.25
  Table 6, LN: learned gain 78.04 77.52 78.27, static 77.17 78.41 78.27,
    before the activation 77.04 78.08 78.27
  Table 12, with FedYogi: FN 80.47 78.83 80.35, LN 79.27 79.16 80.46
In the authors' code the norms of clients are those of one network that all were
copied from: learned gains never receive a gradient, and BN's statistics are
common to all clients and go on changing during evaluation, which the rows of BN
and FedBN may be an artefact of.
measured: nothing yet.
cost: 17 points of 32 million images each; an accelerator is needed.
"""

import fedjax_ls as fl
from configs import cifar10_one_class_cnn
from fedjax_ls import sweep

YOGI = {
  'server.optimizer': 'yogi', 'server.learning_rate': 0.01, 'server.tau': 1e-3,
  'server.v0': 1e-6,
}  # fmt: skip


def get_config(method: str = 'fedavg') -> fl.Config:
  """10,000 rounds of 10 local steps on batches of 32."""
  return cifar10_one_class_cnn.get_config(method)


def get_sweep() -> sweep.Sweep:
  """Tables 3, 4, 6 and 12 of the paper."""
  norms = [
    {'model.norm': norm, 'model.norm_where': where}
    for norm, where in (
      ('none', 'layers'), ('fn', 'layers'), ('fn', 'last'), ('ln', 'layers'),
      ('ln', 'reduced'),
    )
  ]  # fmt: skip
  return sweep.chain(
    sweep.product(norms, sweep.axis('model.use_bias', (False, True))),
    [
      {'model.norm': 'gn', 'model.norm_groups': 2},
      {'model.norm': 'bn'},
      {'model.norm': 'bn', 'algorithm': 'fedbn'},
      {'model.norm': 'ln', 'model.norm_affine': True},
      {'model.norm': 'ln', 'model.norm_before': True},
      {'model.norm': 'fn', 'model.norm_where': 'last', **YOGI},
      {'model.norm': 'ln', **YOGI},
    ],
  )
