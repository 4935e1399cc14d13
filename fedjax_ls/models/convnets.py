"""Small convolutional networks of published experiments."""

import flax.linen as nn
import jax

from fedjax_ls.models.base import Outputs, Width
from fedjax_ls.models.conv import max_pool2
from fedjax_ls.models.nets import CNN, Call, Net, flattened, images

Array = jax.Array


def lenet(num_classes: int, **options) -> CNN:
  """LeNet for 32 x 32 images: convolutions of 6 and 16, layers of 120 and 84.

  With biases it has 62,006 parameters for 10 classes on 3 channels.

  Args:
    num_classes: number of logits.
    **options: attributes of `CNN`.
  """
  return CNN(num_classes, channels=(6, 16), hidden=(120, 84), **options)


def emnist_cnn(num_classes: int, **options) -> CNN:
  """The EMNIST network of Dandi et al.: no hidden layer, feature 1024.

  Two 5 x 5 convolutions of 32 and 64 on 28 x 28 images; with biases 100,271
  parameters for 47 classes.

  Args:
    num_classes: number of logits.
    **options: attributes of `CNN`.

  References:
    Dandi, Barba, Jaggi. Implicit gradient alignment in distributed and
    federated learning. AAAI 2022.
  """
  return CNN(num_classes, channels=(32, 64), hidden=(), **options)


def cfl_cnn(num_classes: int, **options) -> CNN:
  """The network of CFL's notebook: convolutions of 6 and 16, no hidden layer.

  With biases it has 18,506 parameters for 62 classes on 28 x 28 images.

  Args:
    num_classes: number of logits.
    **options: attributes of `CNN`.

  References:
    Sattler, Mueller, Samek. Clustered federated learning: model-agnostic
    distributed multitask optimization under privacy constraints. IEEE TNNLS
    2020.
  """
  return CNN(num_classes, channels=(6, 16), hidden=(), **options)


def femnist_cnn(num_classes: int, **options) -> CNN:
  """The CNN of the FedAvg paper and, by writers, of FEMNIST experiments.

  Two padded 5 x 5 convolutions of 32 and 64 and a layer of 512 on 28 x 28
  images; with biases 1,663,370 parameters for 10 classes, 1,690,046 for 62.

  Args:
    num_classes: number of logits.
    **options: attributes of `CNN`.

  References:
    McMahan et al. Communication-efficient learning of deep networks from
    decentralized data. AISTATS 2017.
    Caldas et al. LEAF: a benchmark for federated settings. 2018.

  Differs from LEAF's code in: its linear layer has 2048 units.
  """
  return CNN(
    num_classes, channels=(32, 64), hidden=(512,), padding='SAME', **options
  )


class PflCNN(Net):
  """The CIFAR-10 network of pfl-research: two convolutions, dropout.

  3 x 3 convolution, ReLU, 3 x 3 convolution, ReLU, 2 x 2 max pooling, dropout,
  linear layer, ReLU, dropout, classifier; nothing is padded.  With biases
  1,626,442 parameters for 10 classes on 32 x 32 x 3 images.

  Attributes:
    channels: channels of the convolutions.
    hidden: size of the linear layer.
    dropout: share dropped of the pooled map and of the linear layer, in
      [0, 1); training draws from the key `dropout`.

  References:
    Granqvist et al. pfl-research: simulation framework for accelerating
    research in private federated learning. NeurIPS 2024.

  Differs from the authors' code in: there the weights start uniform as
  Glorot and Bengio's, here as `initializer` says.
  """

  channels: tuple[int, ...] = (32, 64)
  hidden: int = 128
  dropout: tuple[float, float] = (0.25, 0.5)

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool = False,
    mask: Array | None = None,
    width: Width | None = None,
  ) -> Outputs:
    """Maps images `[B, H, W, C]` or `[B, H, W]` to logits `[B, num_classes]`.

    Args:
      x: images of at least 6 x 6.
      train: whether `bn` uses the statistics of this batch and dropout drops.
      mask: `[B]`, False for padded examples.
      width: share of the hidden channels in use, None for all.

    Returns:
      Logits, and features `[B, hidden]`.
    """
    call = Call(train, mask, width)
    x = images(x)
    for layer, size in enumerate(self.channels):
      x = self._conv(x, size, f'conv{layer}', bias=self.use_bias)
      x = self._activated(x, f'norm{layer}', call)
    x = nn.Dropout(self.dropout[0], deterministic=not train)(max_pool2(x))
    x = self._dense(flattened(x), self.hidden, 'dense0')
    x = self._activated(x, f'norm{len(self.channels)}', call, last=True)
    x = nn.Dropout(self.dropout[1], deterministic=not train)(x)
    return self._classified(x)

  def slim(self, width: Width) -> 'PflCNN':
    """The network whose hidden layers have the active channels only."""
    return self.clone(
      channels=tuple(map(width.active, self.channels)),
      hidden=width.active(self.hidden),
    )


class PooledCNN(Net):
  """The MNIST network of HeteroFL: padded convolutions and a global mean.

  Each 3 x 3 convolution is followed by ReLU and norm and, but for the last,
  by 2 x 2 max pooling; the feature is the mean over positions.  HeteroFL's has
  biases and `norm_before` its ReLU a `bn` that learns scale and bias:
  1,556,874 parameters for 10 classes on one channel.

  Attributes:
    channels: channels of the convolutions.

  References:
    Diao, Ding, Tarokh. HeteroFL: computation and communication efficient
    federated learning for heterogeneous clients. ICLR 2021.
  """

  channels: tuple[int, ...] = (64, 128, 256, 512)

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool = False,
    mask: Array | None = None,
    width: Width | None = None,
  ) -> Outputs:
    """Maps images `[B, H, W, C]` or `[B, H, W]` to logits `[B, num_classes]`.

    Args:
      x: images of at least 8 x 8 (for four convolutions).
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.
      width: share of the hidden channels in use, None for all.

    Returns:
      Logits, and features `[B, channels[-1]]`.
    """
    call = Call(train, mask, width)
    x = images(x)
    for layer, size in enumerate(self.channels):
      x = x if layer == 0 else max_pool2(x)
      x = self._conv(x, size, f'conv{layer}', padding=1, bias=self.use_bias)
      x = self._activated(x, f'norm{layer}', call)
    return self._classified(self._feature_norm(x.mean((1, 2)), call))

  def slim(self, width: Width) -> 'PooledCNN':
    """The network whose hidden layers have the active channels only."""
    return self.clone(channels=tuple(map(width.active, self.channels)))

  @property
  def stages(self) -> int:
    """Number of convolutions."""
    return len(self.channels)

  def shallow(self, depth: int) -> 'PooledCNN':
    """The network of the first convolutions."""
    return self.clone(channels=self.channels[:depth])
