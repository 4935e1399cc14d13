"""Residual networks for small images, with the norm in three places.

References:
  He, Zhang, Ren, Sun. Deep residual learning for image recognition. CVPR 2016.
  He, Zhang, Ren, Sun. Identity mappings in deep residual networks. ECCV 2016.
  Zhang et al. Understanding the role of layer normalization in label-skewed
  federated learning. TMLR 2024 (arXiv:2308.09565).
"""

from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_ls.data.checks import require, unknown
from fedjax_ls.models.base import Outputs, Width
from fedjax_ls.models.nets import Call, Net, images

Array = jax.Array

SHORTCUTS = ('conv', 'pad')


class ResNet(Net):
  """A residual network of two 3 x 3 convolutions a block, ResNet-18 by default.

  A stem of one 3 x 3 convolution, stages of blocks, the mean over positions,
  the classifier; every stage but the first halves the map.  With a the ReLU,
  n the norm and s the shortcut (the identity where the shape stays), a block
  is

    n(a(s(x) + conv(n(a(conv(x))))))       norm after the activation: the
                                           layer-normalization paper's
    a(n(s(x)) + n(conv(a(n(conv(x))))))    `norm_before`: the usual one, in
                                           which an identity has no norm

  `norm_where='last'` normalizes the pooled feature only, as the paper's FN
  does; 'layers' leaves the pooled feature as it is, as its LN does.

  Attributes:
    channels: channels of the stages.
    blocks: blocks of each stage.
    shortcut: where the shape changes, 'conv' is a 1 x 1 convolution without
      bias, 'pad' takes every other position and adds channels of zeros behind,
      without a norm.

  Differs from the layer-normalization paper's code in: there an image larger
  than 32 x 32 leaves several positions, all of which are features.
  """

  channels: tuple[int, ...] = (64, 128, 256, 512)
  blocks: tuple[int, ...] = (2, 2, 2, 2)
  shortcut: str = 'conv'

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
      x: images.
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.
      width: share of the hidden channels in use, None for all.

    Returns:
      Logits, and features `[B, channels[-1]]`.

    Raises:
      ValueError: `shortcut` is neither of the two, or `channels` are not one
        a stage.
    """
    if self.shortcut not in SHORTCUTS:
      raise unknown('shortcut', self.shortcut, SHORTCUTS)
    call = Call(train, mask, width)
    x = self._conv(images(x), self.channels[0], 'stem', padding=1)
    x = self._body(x, call).mean((1, 2))
    return self._classified(self._feature_norm(x, call))

  def slim(self, width: Width) -> 'ResNet':
    """The network whose hidden layers have the active channels only."""
    return self.clone(channels=tuple(map(width.active, self.channels)))

  @property
  def stages(self) -> int:
    """Number of stages of blocks."""
    return len(self.blocks)

  def shallow(self, depth: int) -> 'ResNet':
    """The network of the first stages."""
    return self.clone(
      channels=self.channels[:depth], blocks=self.blocks[:depth]
    )

  def _plan(self) -> Iterator[tuple[str, int, int]]:
    """Name, channels and stride of the blocks."""
    require(
      len(self.channels) == len(self.blocks),
      f'model.channels = {self.channels} are for {len(self.channels)} stages '
      f'but the network has {len(self.blocks)}; give one number a stage',
    )
    stages = zip(self.channels, self.blocks, strict=True)
    for stage, (features, blocks) in enumerate(stages):
      for block in range(blocks):
        stride = 2 if stage > 0 and block == 0 else 1
        yield f'stage{stage}_block{block}', features, stride

  def _body(self, x, call):
    x = self._activated(x, 'stem_norm', call)
    for name, features, stride in self._plan():
      x = self._block(x, name, features, stride, call)
    return x

  def _block(self, x, name, features, stride, call):
    h = self._conv(x, features, f'{name}_conv0', stride=stride, padding=1)
    h = self._activated(h, f'{name}_norm0', call)
    h = self._conv(h, features, f'{name}_conv1', padding=1)
    if self.norm_before:
      h = self._norm(self._scaled(h, call), f'{name}_norm1', call)
      return nn.relu(self._short(x, features, stride, name, call) + h)
    h = self._short(x, features, stride, name) + h
    return self._activated(h, f'{name}_norm1', call)

  def _short(self, x, features, stride, name, call=None):
    """The shortcut around a block, with a norm if `call` is given."""
    if x.shape[-1] == features and stride == 1:
      return x
    if self.shortcut == 'pad':
      x = x[:, ::stride, ::stride]
      return jnp.pad(x, ((0, 0),) * 3 + ((0, features - x.shape[-1]),))
    x = self._conv(x, features, f'{name}_short', 1, stride)
    if call is None:
      return x
    return self._norm(self._scaled(x, call), f'{name}_short_norm', call)


class PreResNet(ResNet):
  """A residual network whose blocks start with the activation.

  With f the activation and its norm, in the order of `norm_before`, a block is

    h = f(x);   s(x) + conv(f(conv(h)))

  where s is the identity or, where the shape changes, a 1 x 1 convolution of
  h.  HeteroFL's network has `norm_before`, a `bn` that learns scale and bias,
  and blocks (2, 2, 2, 2); its published CIFAR-10 results are of (1, 1, 1, 2).

  References:
    Diao, Ding, Tarokh. HeteroFL: computation and communication efficient
    federated learning for heterogeneous clients. ICLR 2021.
  """

  def _body(self, x, call):
    for name, features, stride in self._plan():
      h = self._activated(x, f'{name}_norm0', call)
      same = x.shape[-1] == features and stride == 1
      x = x if same else self._short(h, features, stride, name)
      h = self._conv(h, features, f'{name}_conv0', stride=stride, padding=1)
      h = self._activated(h, f'{name}_norm1', call)
      x = x + self._conv(h, features, f'{name}_conv1', padding=1)
    return self._activated(x, 'body_norm', call)


def preresnet10(
  num_classes: int,
  channels: tuple[int, ...] = PreResNet.channels,
  **options,
) -> PreResNet:
  """The pre-activation network of HeteroFL's published results."""
  return PreResNet(
    num_classes, channels=channels, blocks=(1, 1, 1, 2), **options
  )


def resnet20(num_classes: int, **options) -> ResNet:
  """ResNet-20 for 32 x 32 images, feature 64, shortcuts without parameters."""
  return ResNet(
    num_classes,
    channels=(16, 32, 64),
    blocks=(3, 3, 3),
    shortcut='pad',
    **options,
  )
