"""Networks with a classifier after every stage, to be cut at any of them.

Such a network gives the classifiers' outputs one by one as `Outputs.exits`;
its own logits and features are those of the deepest one.  Features of all
exits have one size, zeros behind the shorter ones.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_ls.data.checks import require
from fedjax_ls.models.base import Outputs
from fedjax_ls.models.conv import max_pool2
from fedjax_ls.models.convnets import PooledCNN
from fedjax_ls.models.nets import MLP, Call, Net, images
from fedjax_ls.models.resnet import ResNet

Array = jax.Array


class Exits(Net):
  """What networks with exits share.

  Attributes:
    depth: number of stages, 0 for all.
  """

  depth: int = 0

  def shallow(self, depth: int) -> Any:
    """The network of the first stages and their exits."""
    return self.clone(depth=depth)

  def _stages(self):
    return range(self.depth or self.stages)

  def _exit(self, x, stage, size, call):
    """The classifier of a stage on `x[B, D]`; the last stage has the name that
    the only one of a usual network has."""
    if self.norm_where != 'layers':
      x = self._norm(x, f'exit{stage}_norm', call, last=True)
    last = stage == self.stages - 1
    name = 'classifier' if last else f'exit{stage}'
    logits = self._linear(x, self.num_classes, name, None)
    return Outputs(logits, jnp.pad(x, ((0, 0), (0, size - x.shape[-1]))))

  def _joined(self, exits):
    require(
      not self.projector,
      f'model.projector = {self.projector} does not fit a network with exits; '
      'leave it out',
    )
    return exits[-1]._replace(exits=tuple(exits))


class ExitMLP(Exits, MLP):
  """An MLP with a classifier after every hidden layer.

  Example:
    >>> net, x = ExitMLP(10, hidden=(8, 6)), jnp.ones((1, 4))
    >>> outputs, _ = net.init_with_output(jax.random.key(0), x)
    >>> [exit.logits.shape for exit in outputs.exits]
    [(1, 10), (1, 10)]
    >>> len(net.shallow(1).init_with_output(jax.random.key(0), x)[0].exits)
    1
  """

  @nn.compact
  def __call__(  # type: ignore[override]
    self, x: Array, *, train: bool = False, mask: Array | None = None
  ) -> Outputs:
    """Maps `[B, ...]` to logits `[B, num_classes]`.

    Args:
      x: real numbers.
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.

    Returns:
      Logits and features of every exit.
    """
    call = Call(train, mask)
    x, exits = x.reshape(x.shape[0], -1), []
    for stage in self._stages():
      x = self._dense(x, self.hidden[stage], f'dense{stage}')
      x = self._activated(x, f'norm{stage}', call)
      exits.append(self._exit(x, stage, max(self.hidden), call))
    return self._joined(exits)


class ExitCNN(Exits, PooledCNN):
  """Padded convolutions with a classifier of the mean after each."""

  @nn.compact
  def __call__(  # type: ignore[override]
    self, x: Array, *, train: bool = False, mask: Array | None = None
  ) -> Outputs:
    """Maps images `[B, H, W, C]` or `[B, H, W]` to logits `[B, num_classes]`.

    Args:
      x: images of at least 8 x 8 (for four convolutions).
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.

    Returns:
      Logits and features of every exit.
    """
    call = Call(train, mask)
    x, exits = images(x), []
    for stage in self._stages():
      size = self.channels[stage]
      x = x if stage == 0 else max_pool2(x)
      x = self._conv(x, size, f'conv{stage}', padding=1, bias=self.use_bias)
      x = self._activated(x, f'norm{stage}', call)
      exits.append(self._exit(x.mean((1, 2)), stage, max(self.channels), call))
    return self._joined(exits)


class ExitResNet(Exits, ResNet):
  """DepthFL's ResNet-18: attention, bottlenecks and a classifier per stage.

  With S(c, c') two depthwise 3 x 3 convolutions, the first of stride 2, each
  followed by a 1 x 1 convolution (to c, then c' channels), norm and ReLU, and
  x the map of a stage with c channels, its exit is

    a = sigmoid(resize(relu(norm(S(c, c)(x)))))       the size of x, bilinear
    h = S(., .) ... S(c, 2c) of a x                   up to the last channels
    logits = W mean(h) + b

  and the last stage's W mean(x) + b.  The published network has `norm='bn'`
  with `norm_affine` and `norm_before`, and biases in its classifiers.

  References:
    Kim, Yu, Kim, Moon. DepthFL: depthwise federated learning for heterogeneous
    clients. ICLR 2023.
  """

  @nn.compact
  def __call__(  # type: ignore[override]
    self, x: Array, *, train: bool = False, mask: Array | None = None
  ) -> Outputs:
    """Maps images `[B, H, W, C]` or `[B, H, W]` to logits `[B, num_classes]`.

    Args:
      x: images.
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.

    Returns:
      Logits, and features `[B, channels[-1]]`, of every exit.
    """
    call = Call(train, mask)
    x = self._conv(images(x), self.channels[0], 'stem', padding=1)
    x, exits = self._activated(x, 'stem_norm', call), []
    blocks = list(self._plan())
    for stage in self._stages():
      for name, features, stride in blocks[: self.blocks[stage]]:
        x = self._block(x, name, features, stride, call)
      blocks = blocks[self.blocks[stage] :]
      h = self._bottleneck(x, stage, call).mean((1, 2))
      exits.append(self._exit(h, stage, self.channels[-1], call))
    return self._joined(exits)

  def _bottleneck(self, x, stage, call):
    """The map of a stage as one of the last stage's channels."""
    if stage == self.stages - 1:
      return x
    name = f'exit{stage}_attention'
    h = self._separable(x, x.shape[-1], name, call)
    h = self._activated(h, f'{name}_norm2', call)
    x = x * nn.sigmoid(jax.image.resize(h, x.shape, 'linear'))
    for layer, features in enumerate(self.channels[stage + 1 :]):
      x = self._separable(x, features, f'exit{stage}_bottleneck{layer}', call)
    return x

  def _separable(self, x, features, name, call):
    channels = x.shape[-1]
    for layer, size in enumerate((channels, features)):
      x = self._conv(
        x, channels, f'{name}_depthwise{layer}', stride=2 - layer, padding=1,
        depthwise=True,
      )  # fmt: skip
      x = self._conv(x, size, f'{name}_pointwise{layer}', 1)
      x = self._activated(x, f'{name}_norm{layer}', call)
    return x


KINDS: dict[type, type[Exits]] = {
  MLP: ExitMLP,
  PooledCNN: ExitCNN,
  ResNet: ExitResNet,
}


def with_exits(module: Any) -> Any:
  """The network with a classifier after every stage.

  Args:
    module: an `MLP`, a `PooledCNN`, a `ResNet`, or a network that has exits.

  Raises:
    ValueError: it is another network.

  >>> type(with_exits(MLP(10))).__name__
  'ExitMLP'
  """
  if isinstance(module, Exits):
    return module
  require(
    type(module) in KINDS,
    f'{type(module).__name__} has one classifier only; use mlp, pooled_cnn or '
    'resnet18, or a network with exits',
  )
  fields = {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ('parent', 'name')
  }
  return KINDS[type(module)](**fields)
