"""What the networks share, an MLP and the CNN of the layer-norm paper.

Every network may be run at a fraction of its width: hidden channels beyond
the first `width.active(C)` of `C` are exactly 0 after the norm, so a network
with all its weights and a `width` computes what the small network made of the
leading slices of its weights does, and the other weights get gradient 0.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_ls.data.checks import require, unknown
from fedjax_ls.models.base import Outputs, Width
from fedjax_ls.models.conv import Conv, initializers, max_pool2
from fedjax_ls.models.norms import Norm

Array = jax.Array

PLACES = ('layers', 'last', 'reduced')


class Call(NamedTuple):
  """How a network is called.

  Attributes:
    train: whether `bn` uses the statistics of this batch, and dropout drops.
    mask: `[B]`, False for padded examples, None for no padding.
    width: share of the hidden channels in use, None for all.
  """

  train: bool = False
  mask: Array | None = None
  width: Width | None = None

  def active(self, channels: int) -> Any:
    """Number of channels in use out of `channels`; None for all."""
    return None if self.width is None else self.width.active(channels)


class Net(nn.Module):
  """What the networks share: norms, convolutions and linear layers.

  Attributes:
    num_classes: number of logits.
    norm: kind of norm, see `fedjax_ls.models.norms.Norm`.
    norm_where: 'layers' normalizes every hidden layer, 'last' only the last
      one, 'reduced' (for `ln`) shifts the inner layers to mean zero and
      normalizes the last one.  The last hidden layer's outputs are the
      features, but with a `projector` they are its inputs, and the features
      are not normalized.
    norm_before: whether the norm comes before the activation, not after.
    norm_affine: whether norms learn a scale and a bias per channel.
    norm_groups: number of groups of `gn`.
    norm_eps: eps of the norms.
    use_bias: whether convolutions and linear layers have biases; the
      convolutions of residual networks never have.
    projector: sizes of linear layers between the last hidden layer and the
      classifier, with ReLU in between; the last one's outputs are the
      features, which no norm follows.  MOON's are (d, 256) for d inputs.
      Narrow versions keep their sizes.
    initializer: 'lecun' or 'torch', see `fedjax_ls.models.conv.initializers`.
    lowering: of the convolutions, 'native' or 'matmul'.
    dtype: type of the computation, None for the inputs'; parameters, norms and
      the classifier stay float32.
    scaler: in training, outputs of hidden layers are divided by this share
      times the `width` in use (HeteroFL's Scaler); None to leave them.
  """

  num_classes: int
  norm: str = 'none'
  norm_where: str = 'layers'
  norm_before: bool = False
  norm_affine: bool = False
  norm_groups: int = 2
  norm_eps: float = 1e-5
  use_bias: bool = False
  projector: tuple[int, ...] = ()
  initializer: str = 'lecun'
  lowering: str = 'native'
  dtype: Any = None
  scaler: Width | None = None

  def _kind(self, last: bool) -> str:
    if self.norm_where not in PLACES:
      raise unknown('model.norm_where', self.norm_where, PLACES)
    require(
      self.norm_where != 'reduced' or self.norm == 'ln',
      f"model.norm_where = 'reduced' does not fit model.norm = {self.norm!r}; "
      "use norm = 'ln' or norm_where = 'layers'",
    )
    inner = {'layers': self.norm, 'last': 'none', 'reduced': 'shift'}
    return self.norm if last else inner[self.norm_where]

  def _norm(self, x, name, call, last=False):
    """The norm called `name`, cut to the width."""
    norm = Norm(
      self._kind(last),
      self.norm_groups,
      self.norm_affine,
      self.norm_eps,
      name=name,
    )
    active = call.active(x.shape[-1])
    return norm(x, train=call.train, mask=call.mask, active=active)

  def _scaled(self, x, call):
    """A hidden layer's output as it enters its norm."""
    if self.scaler is None or not call.train:
      return x
    num, den = self.scaler
    if call.width is not None:
      num, den = num * call.width.num, den * call.width.den
    return x * (jnp.asarray(den, x.dtype) / jnp.asarray(num, x.dtype))

  def _activated(self, x, name, call, last=False):
    """ReLU and norm of a hidden layer, cut to the width."""
    x = self._scaled(x, call)
    if self.norm_before:
      return nn.relu(self._norm(x, name, call, last))
    return self._norm(nn.relu(x), name, call, last)

  def _feature_norm(self, x, call):
    """The norm of features that are no layer of their own."""
    if self.norm_where == 'layers':
      return x
    return self._norm(x, 'feature_norm', call, last=True)

  def _conv(
    self, x, features, name, size=3, stride=1, *, padding: str | int = 0,
    bias=False, depthwise=False,
  ):  # fmt: skip
    return Conv(
      features,
      (size, size),
      (stride, stride),
      padding,
      bias,
      depthwise,
      self.initializer,
      self.lowering,
      self.dtype,
      name=name,
    )(x)

  def _dense(self, x, features, name):
    return self._linear(x, features, name, self.dtype)

  def _classified(self, x):
    for layer, size in enumerate(self.projector):
      x = self._dense(nn.relu(x) if layer else x, size, f'projector{layer}')
    # Logits rounded to bfloat16 are too coarse for a softmax: in the type of
    # the parameters.
    return Outputs(self._linear(x, self.num_classes, 'classifier', None), x)

  def _linear(self, x, features, name, dtype):
    kernel_init, bias_init = initializers(self.initializer, x.shape[-1])
    return nn.Dense(
      features,
      self.use_bias,
      dtype,
      kernel_init=kernel_init,
      bias_init=bias_init,
      name=name,
    )(x)


class MLP(Net):
  """Linear layers with ReLU on flattened inputs.

  Attributes:
    hidden: sizes of the hidden layers.

  Example:
    >>> x = jax.numpy.ones((1, 8, 8, 1))
    >>> net = MLP(10, norm='fn')
    >>> outputs, _ = net.init_with_output(jax.random.key(0), x)
    >>> print(outputs.features.shape, f'{(outputs.features**2).sum():.3f}')
    (1, 64) 64.000
  """

  hidden: tuple[int, ...] = (128, 64)

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool = False,
    mask: Array | None = None,
    width: Width | None = None,
  ) -> Outputs:
    """Maps `[B, ...]` to logits `[B, num_classes]`.

    Args:
      x: real numbers.
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.
      width: share of the hidden channels in use, None for all.

    Returns:
      Logits, and features `[B, hidden[-1]]`.
    """
    call = Call(train, mask, width)
    x = x.reshape(x.shape[0], -1)
    for layer, size in enumerate(self.hidden):
      x = self._dense(x, size, f'dense{layer}')
      last = layer == len(self.hidden) - 1
      x = self._activated(x, f'norm{layer}', call, last)
    return self._classified(x)

  def slim(self, width: Width) -> 'MLP':
    """The network whose hidden layers have the active channels only."""
    return self.clone(hidden=tuple(map(width.active, self.hidden)))

  @property
  def stages(self) -> int:
    """Number of hidden layers."""
    return len(self.hidden)

  def shallow(self, depth: int) -> 'MLP':
    """The network of the first hidden layers."""
    return self.clone(hidden=self.hidden[:depth])


class CNN(Net):
  """Convolutions, pooling and linear layers; 32 x 32 x 3 inputs by default.

  Each 5 x 5 convolution is followed by ReLU, norm and 2 x 2 max pooling; then
  come the linear layers.  Zhang et al., "Understanding the role
  of layer normalization in label-skewed federated learning", TMLR 2024.

  Attributes:
    channels: channels of the convolutions.
    hidden: sizes of the linear layers; the paper's table has (384,), its
      authors' code (384, 192).  Without any, the feature is the flattened map.
    padding: of the convolutions, 'VALID' or 'SAME'.

  Differs from the authors' code in: weights start as `initializer` says, there
  always as in 'torch'.  There the clients' copies call the norms of the one
  network they were copied from, so that gains never learn and BatchNorm's
  statistics are common to all and follow the test data; here each model has
  its own.
  """

  channels: tuple[int, ...] = (64, 64)
  hidden: tuple[int, ...] = (384, 192)
  padding: str = 'VALID'

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool = False,
    mask: Array | None = None,
    width: Width | None = None,
  ) -> Outputs:
    """Maps `[B, H, W, C]` or `[B, H, W]` to logits `[B, num_classes]`.

    Args:
      x: images of at least 16 x 16 (for two convolutions).
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.
      width: share of the hidden channels in use, None for all.

    Returns:
      Logits, and features `[B, hidden[-1]]`.

    Raises:
      ValueError: `x` are no images, or too small ones.
    """
    call = Call(train, mask, width)
    x = _large_enough(images(x), len(self.channels), self.padding)
    for layer, size in enumerate(self.channels):
      x = self._conv(
        x, size, f'conv{layer}', 5, padding=self.padding, bias=self.use_bias
      )
      x = max_pool2(self._activated(x, f'norm{layer}', call))
    if not self.hidden:
      x = self._feature_norm(x, call)
    x = flattened(x)
    for i, size in enumerate(self.hidden):
      layer = len(self.channels) + i
      x = self._dense(x, size, f'dense{i}')
      last = i == len(self.hidden) - 1
      x = self._activated(x, f'norm{layer}', call, last)
    return self._classified(x)

  def slim(self, width: Width) -> 'CNN':
    """The network whose hidden layers have the active channels only."""
    return self.clone(
      channels=tuple(map(width.active, self.channels)),
      hidden=tuple(map(width.active, self.hidden)),
    )


def images(x: Array) -> Array:
  """`[B, H, W]` or `[B, H, W, C]` as `[B, H, W, C]`.

  Raises:
    ValueError: `x` has another rank.
  """
  x = x[..., None] if x.ndim == 3 else x
  require(
    x.ndim == 4,
    f'x has shape {x.shape}; a convolutional network needs images '
    '[B, H, W, C] or [B, H, W]',
  )
  return x


def flattened(x: Array) -> Array:
  """`[B, H, W, C]` as `[B, C H W]`.

  Channels first: the leading channels must stay the leading features, so that
  a narrow network's weights are leading slices here, too.
  """
  return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def _large_enough(x, num_convs, padding):
  least = 2**num_convs
  least += 4 * (2**num_convs - 1) if padding == 'VALID' else 0
  require(
    min(x.shape[1:3]) >= least,
    f'x has shape {x.shape}; a CNN of {num_convs} convolutions needs images '
    f'[B, H, W, C] of at least {least} x {least}',
  )
  return x


def cnn(num_classes: int, *, feature: int = 192, **options) -> CNN:
  """The paper's CNN by the size of its feature.

  Args:
    num_classes: number of logits.
    feature: 192 (linear layers of 384 and 192) or 384 (one of 384).
    **options: attributes of `CNN`.

  Raises:
    ValueError: `feature` is neither.
  """
  sizes = {192: (384, 192), 384: (384,)}
  if feature not in sizes:
    raise ValueError(f'model.feature = {feature}; use 192 or 384')
  return CNN(num_classes, hidden=sizes[feature], **options)
