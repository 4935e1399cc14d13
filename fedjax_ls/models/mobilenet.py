"""MobileNetV2 for small images."""

import flax.linen as nn
import jax

from fedjax_ls.models.base import Outputs, Width
from fedjax_ls.models.nets import Call, Net, images

Array = jax.Array


class MobileNetV2(Net):
  """Inverted residual blocks: expand, convolve each channel, project.

  A stem of one 3 x 3 convolution, the blocks, a 1 x 1 convolution, the mean
  over positions, the classifier.  A block of expansion t on c channels is a
  1 x 1 convolution to t c channels, a 3 x 3 depthwise convolution, and a 1 x 1
  convolution without activation; without a stride its input is added, by way
  of a 1 x 1 convolution where the channels differ.  Every convolution has a
  norm, which stands after the activation unless `norm_before`; the usual
  network has `norm_before` and a `bn` that learns scale and bias: 2,296,922
  parameters for 10 classes, with a bias.

  Attributes:
    stages: expansion, channels, blocks and first stride of each stage.
    stem: channels of the stem.
    feature: size of the feature.
    share: of all hidden channels, what this network keeps.

  References:
    Sandler et al. MobileNetV2: inverted residuals and linear bottlenecks.
    CVPR 2018.
    Shi et al. Towards understanding and mitigating dimensional collapse in
    heterogeneous federated learning. ICLR 2023 (strides for 32 x 32 images).
  """

  stages: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
  )
  stem: int = 32
  feature: int = 1280
  share: Width = Width(1, 1)

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
      Logits, and features `[B, feature]`.
    """
    call = Call(train, mask, width)
    x = self._conv(images(x), self._size(self.stem), 'stem', padding=1)
    x = self._activated(x, 'stem_norm', call)
    inputs = self.stem
    for stage, (expansion, features, blocks, first) in enumerate(self.stages):
      for block in range(blocks):
        sizes = inputs, expansion * inputs, features
        stride = first if block == 0 else 1
        x = self._block(x, sizes, stride, f'stage{stage}_block{block}', call)
        inputs = features
    x = self._conv(x, self._size(self.feature), 'head', 1)
    x = self._activated(x, 'head_norm', call)
    return self._classified(self._feature_norm(x.mean((1, 2)), call))

  def slim(self, width: Width) -> 'MobileNetV2':
    """The network whose hidden layers have the active channels only."""
    return self.clone(share=width)

  def _size(self, channels: int) -> int:
    return self.share.active(channels)

  def _block(self, x, sizes, stride, name, call):
    inputs, expanded, features = sizes
    wide, out = self._size(expanded), self._size(features)
    h = self._conv(x, wide, f'{name}_expand', 1)
    h = self._activated(h, f'{name}_expand_norm', call)
    h = self._conv(
      h, wide, f'{name}_depth', stride=stride, padding=1, depthwise=True
    )
    h = self._activated(h, f'{name}_depth_norm', call)
    h = self._conv(h, out, f'{name}_project', 1)
    h = self._norm(self._scaled(h, call), f'{name}_norm', call)
    if stride > 1:
      return h
    if inputs != features:
      x = self._conv(x, out, f'{name}_short', 1)
      x = self._norm(self._scaled(x, call), f'{name}_short_norm', call)
    return x + h
