"""CIFAR-10, 100 clients with three classes each: Split-Mix.

  python -m experiments.run --config=configs/splitmix_cifar10.py \
    --config.data.path=cifar10.npz --workdir=runs/splitmix_cifar10

`cifar10.npz` holds x_train [50000, 32, 32, 3] uint8, y_train, x_test, y_test.

Hong, Wang, Wang, Zhou. Efficient split-mix federated learning for on-demand
and in-situ customization. ICLR 2022.  PreResNet-18 as eight networks of an
eighth of its width; the first quarter of the clients trains one of them a
round, the next ones two, four and all.  400 rounds of 5 epochs on batches of
128 at learning rate 0.01, a tenth of it from round 150 and a hundredth from
round 250, momentum 0.9 and weight decay 5e-4, everybody taking part; a tenth of
the train rows are for validation.  These, the crops and flips, images that are
not normalized and logits of absent classes that are 0 are from the authors'
code and sweep files.  Read `test/accuracy/client_mean` and `test/accuracy@1/4`.

With attacks (seven steps of PGD, eps = 8/255, half of the loss), which need
tracked statistics of BatchNorm:

  python -m experiments.run --config=configs/splitmix_cifar10.py \
    --config.data.path=cifar10.npz --workdir=runs/splitmix_cifar10_attacks \
    --config.adversarial.steps=7 --config.algorithm.batch_statistics=false \
    --config.algorithm.rescale=false --config.algorithm.scaler=false

Read `test/accuracy@mix=1/2` and `test/accuracy@mix=1/2,pgd`.  The authors' own
sweep with attacks has clients that are alike: partition.kind=iid,
loss.calibration=none, client.learning_rate=0.1, client.milestones=200,300.

published: accuracy by width in the paper's Table 1 and figures, under attacks
  in its Figure 9; they were not read, so that no number stands here.
measured: nothing, it has not been run.
cost: a base network has 176,178 parameters and 8.9 million multiply-accumulates
  an image, the eight 1,409,424 and 71.0 million, PreResNet-18 itself 11,172,170
  and 555 million.  90 million images, each through 3.75 networks on average,
  are 1e16 multiply-accumulates with their gradients, and 7e16 with attacks: an
  accelerator is needed.

Differs from the authors' code in: the logits that are 0 are of classes that a
client lacks, not a batch; BatchNorm normalizes 1024 test images of all classes
at once, not a client's own; with attacks the statistics and parameters of
BatchNorm are averaged, which the authors' sweep leaves with the clients.
"""

import fedjax_ls as fl
from fedjax_ls import config
from fedjax_ls.algorithms.splitmix import SplitMix


def get_config(method: str = 'splitmix') -> fl.Config:
  """400 rounds of 5 epochs on batches of 128."""
  settings = fl.algorithms.find(method).settings()
  if method == 'splitmix':
    settings = SplitMix(
      rates=('1/8', '1/4', '1/2', '1'),
      base='1/8',
      rescale=True,
      scaler=True,
      batch_statistics=True,
    )
  return fl.Config(
    rounds=400,
    data=config.Data(
      name='npz',
      path='cifar10.npz',
      validation=0.1,
      crop_padding=4,
      flip=True,
    ),
    partition=config.Partition(
      kind='classes', num_clients=100, classes_per_client=3
    ),
    tiers=config.Tiers(kind='in_order'),
    model=config.Model(
      name='preresnet18',
      norm='bn',
      norm_before=True,
      norm_affine=True,
      use_bias=True,
      initializer='torch',
    ),
    algorithm=settings,
    client=fl.Client(
      learning_rate=0.01,
      schedule='step',
      decay=0.1,
      milestones=(150, 250),
      optimizer='momentum',
      momentum=0.9,
      weight_decay=5e-4,
      batch_size=128,
      unit='epochs',
      amount=5,
    ),
    loss=fl.Loss(calibration='zero'),
  )
