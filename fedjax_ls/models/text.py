"""Networks for text: sequences of symbols `[B, T]` in, logits out."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_ls.data.checks import require, unknown
from fedjax_ls.models.base import Outputs, Width
from fedjax_ls.models.conv import initializers
from fedjax_ls.models.nets import Call, Net

Array = jax.Array

POSITIONS = ('last', 'every')


class TextNet(Net):
  """What the networks for text share.

  Norms are of each position by itself.

  Attributes:
    vocabulary: number of input symbols, 0 for `num_classes`; symbols beyond it
      are read as the last one.
    positions: 'last' gives logits `[B, Y]` from the last position, 'every'
      logits `[B, T, Y]`, each from the symbols up to its own position.
  """

  vocabulary: int = 0
  positions: str = 'last'

  def _embedded(self, x, features):
    """The symbols `x[B, T]` as `[B, T, features]`."""
    require(
      x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer),
      f'x has shape {x.shape} and type {x.dtype}; a network for text needs '
      'symbols [B, T] of type int32',
    )
    if self.positions not in POSITIONS:
      raise unknown('positions', self.positions, POSITIONS)
    size = self.vocabulary or self.num_classes
    table = self._table('embedding', size, features)
    return jnp.take(table, x, axis=0, mode='clip')

  def _table(self, name, size, features):
    table = self.param(name, nn.initializers.normal(0.1), (size, features))
    return jnp.asarray(table, self.dtype)

  def _chosen(self, x):
    """`[B, T, D]`, or `[B, D]` of the last position."""
    return x if self.positions == 'every' else x[:, -1]

  def _norm(self, x, name, call, last=False):
    if x.ndim == 3 and call.mask is not None:
      call = call._replace(mask=jnp.repeat(call.mask, x.shape[1]))
    flat = x.reshape(-1, x.shape[-1])
    return super()._norm(flat, name, call, last).reshape(x.shape)


class LSTM(TextNet):
  """Symbols embedded, layers of LSTM, a linear classifier.

  With 80 symbols and biases it has 817,872 parameters, with 90 it has 820,522.

  Attributes:
    embedding: size of the embedding.
    hidden: sizes of the layers.

  References:
    Hochreiter, Schmidhuber. Long short-term memory. 1997.
    Caldas et al. LEAF: a benchmark for federated settings. 2018.
  """

  embedding: int = 8
  hidden: tuple[int, ...] = (256, 256)

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool = False,
    mask: Array | None = None,
    width: Width | None = None,
  ) -> Outputs:
    """Maps symbols `[B, T]` to logits `[B, Y]` or `[B, T, Y]`.

    Args:
      x: integers.
      train: whether `bn` uses the statistics of this batch.
      mask: `[B]`, False for padded examples.
      width: share of the embedding and of the hidden units in use, None for
        all.

    Returns:
      Logits, and features `[B, hidden[-1]]` or `[B, T, hidden[-1]]`.

    Raises:
      ValueError: `x` are no symbols, or `positions` is unknown.
    """
    require(
      self.scaler is None,
      'algorithm.scaler = True does not fit an LSTM, whose gates have no norm; '
      'set it to false',
    )
    call = Call(train, mask, width)
    x = cut(self._embedded(x, self.embedding), call)
    for layer, size in enumerate(self.hidden):
      x = LSTMLayer(
        size,
        self.use_bias,
        self.initializer,
        self.dtype,
        name=f'lstm{layer}',
      )(x, call)
      last = layer == len(self.hidden) - 1
      x = self._chosen(x) if last else x
      x = self._norm(x, f'norm{layer}', call, last)
    return self._classified(x)

  def slim(self, width: Width) -> 'LSTM':
    """The network whose embedding and layers have the active units only."""
    return self.clone(
      embedding=width.active(self.embedding),
      hidden=tuple(map(width.active, self.hidden)),
    )


class LSTMLayer(nn.Module):
  """One LSTM over a sequence.

  With gates i, f, g, o of x_t and h, each a linear map of both:

    c <- sigmoid(f + 1) c + sigmoid(i) tanh(g);   h <- sigmoid(o) tanh(c)

  Units outside the width have h = 0.  The state c is float32 throughout.

  Attributes:
    features: number of units.
    use_bias: whether the gates have biases.
    initializer: 'lecun' or 'torch'.
    dtype: type of the products, None for the inputs'.
  """

  features: int
  use_bias: bool = True
  initializer: str = 'lecun'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Array, call: Call = Call()) -> Array:  # noqa: B008
    """Maps `[B, T, D]` to the `[B, T, features]` of h."""
    size = x.shape[-1]
    entering = self._kernel('input', size)
    recurrent = self._kernel('recurrent', self.features)
    bias = None
    if self.use_bias:
      bias_init = initializers(self.initializer, self.features)[1]
      bias = self.param('bias', bias_init, (4, self.features))
    x, entering, recurrent, bias = nn.dtypes.promote_dtype(
      x, entering, recurrent, bias, dtype=self.dtype
    )
    gates = jnp.einsum('btd,dgk->tbgk', x, entering)
    gates = gates if bias is None else gates + bias[None, None]

    def step(carry, gates):
      h, c = carry
      gates = gates + jnp.einsum('bh,hgk->bgk', h, recurrent)
      i, f, g, o = jnp.moveaxis(gates, 1, 0).astype(c.dtype)
      c = nn.sigmoid(f + 1) * c + nn.sigmoid(i) * jnp.tanh(g)
      h = cut((nn.sigmoid(o) * jnp.tanh(c)).astype(h.dtype), call)
      return (h, c), h

    h = jnp.zeros_like(gates[0, :, 0])
    c = h.astype(jnp.promote_types(h.dtype, jnp.float32))
    return jax.lax.scan(step, (h, c), gates)[1].swapaxes(0, 1)

  def _kernel(self, name, inputs):
    fan_in = inputs if self.initializer == 'lecun' else self.features
    return split_kernel(
      self, name, self.initializer, fan_in, (inputs, 4, self.features)
    )


class Transformer(TextNet):
  """A causal Transformer with its norm after each sum, as HeteroFL's.

  Symbol and position embeddings, blocks of self-attention and two linear
  layers around a GELU, a linear layer with GELU, the classifier.  No position
  sees a later one.  The published network has `norm='ln'` with scale and bias,
  and biases.

  Under a `width` every head keeps its leading units, and attention is scaled
  by the units in use.

  Attributes:
    features: size of the embeddings and of the blocks' outputs.
    heads: number of heads.
    head_features: units of a head.
    hidden: units between the two linear layers of a block.
    blocks: number of blocks.
    dropout: share dropped of the embedding and of each layer, in [0, 1);
      training draws from the key `dropout`.

  References:
    Vaswani et al. Attention is all you need. NeurIPS 2017.
    Diao, Ding, Tarokh. HeteroFL: computation and communication efficient
    federated learning for heterogeneous clients. ICLR 2021.

  Differs from HeteroFL's code in: that predicts masked symbols from both
  sides.
  """

  features: int = 256
  heads: int = 8
  head_features: int = 32
  hidden: int = 512
  blocks: int = 4
  dropout: float = 0.2

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    train: bool = False,
    mask: Array | None = None,
    width: Width | None = None,
  ) -> Outputs:
    """Maps symbols `[B, T]` to logits `[B, Y]` or `[B, T, Y]`.

    Args:
      x: integers; T is the same in every batch.
      train: whether `bn` uses the statistics of this batch and dropout drops.
      mask: `[B]`, False for padded examples.
      width: share of the hidden units in use, None for all.

    Returns:
      Logits, and features `[B, features]` or `[B, T, features]`.

    Raises:
      ValueError: `x` are no symbols, or `positions` is unknown.
    """
    call = Call(train, mask, width)
    x, length = self._embedded(x, self.features), x.shape[1]
    x = x + self._table('position', length, self.features)[None]
    x = self._norm(self._scaled(x, call), 'embedding_norm', call)
    x = self._dropped(x, call)
    for block in range(self.blocks):
      name = f'block{block}'
      h = self._dropped(self._attention(x, name, call), call)
      x = self._norm(x + h, f'{name}_norm0', call)
      h = self._scaled(self._dense(x, self.hidden, f'{name}_dense0'), call)
      h = self._dropped(cut(nn.gelu(h), call), call)
      h = self._scaled(self._dense(h, self.features, f'{name}_dense1'), call)
      h = self._dropped(h, call)
      x = self._norm(x + h, f'{name}_norm1', call)
    x = self._dense(self._chosen(x), self.features, 'dense')
    x = nn.gelu(self._scaled(x, call))
    return self._classified(self._norm(x, 'norm', call, last=True))

  def slim(self, width: Width) -> 'Transformer':
    """The network of the active units, with as many heads."""
    return self.clone(
      features=width.active(self.features),
      head_features=width.active(self.head_features),
      hidden=width.active(self.hidden),
    )

  @property
  def stages(self) -> int:
    """Number of blocks."""
    return self.blocks

  def shallow(self, depth: int) -> 'Transformer':
    """The network of the first blocks."""
    return self.clone(blocks=depth)

  def _dropped(self, x, call):
    return nn.Dropout(self.dropout, deterministic=not call.train)(x)

  def _attention(self, x, name, call):
    shape = (self.heads, self.head_features)
    q, k, v = (
      self._scaled(self._project(x, f'{name}_{part}', shape), call)
      for part in 'qkv'
    )
    active = call.active(self.head_features)
    active = self.head_features if active is None else active
    scores = jnp.einsum('bqhd,bkhd->bhqk', cut(q, call), k)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = scores / jnp.sqrt(jnp.asarray(active, scores.dtype))
    causal = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))[None, None]
    weights = nn.softmax(jnp.where(causal, scores, -jnp.inf)).astype(v.dtype)
    h = jnp.einsum('bhqk,bkhd->bqhd', weights, cut(v, call))
    return self._scaled(
      self._project(h, f'{name}_out', (self.features,), 2), call
    )

  def _project(self, x, name, shape, axes=1):
    return Projection(
      shape, axes, self.use_bias, self.initializer, self.dtype, name=name
    )(x)


class Projection(nn.Module):
  """A linear map between arrays of units, `[..., *inputs]` to `[..., *shape]`.

  Attributes:
    shape: of the outputs.
    axes: number of trailing axes of `x` that are inputs.
    use_bias: whether to add a bias.
    initializer: 'lecun' or 'torch'.
    dtype: type of the computation, None for the inputs'.
  """

  shape: tuple[int, ...]
  axes: int = 1
  use_bias: bool = True
  initializer: str = 'lecun'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Contracts the inputs of `x`."""
    inputs = x.shape[x.ndim - self.axes :]
    fan_in = math.prod(inputs)
    kernel = split_kernel(
      self, 'kernel', self.initializer, fan_in, (*inputs, *self.shape)
    )
    bias = None
    if self.use_bias:
      bias_init = initializers(self.initializer, fan_in)[1]
      bias = self.param('bias', bias_init, self.shape)
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    y = jnp.tensordot(x, kernel, self.axes)
    if bias is None:
      return y
    return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


def split_kernel(
  module: nn.Module, name: str, initializer: str, fan_in: int, shape
) -> Array:
  """A kernel of any shape, initialized as the matrix `[fan_in, rest]` is."""
  init = initializers(initializer, fan_in)[0]

  def reshaped(key, shape, dtype=jnp.float32):
    matrix = fan_in, math.prod(shape) // fan_in
    return init(key, matrix, dtype).reshape(shape)

  return module.param(name, reshaped, shape)


def cut(x: Array, call: Call) -> Array:
  """`x[..., C]` with 0 on the channels outside the width."""
  if call.width is None:
    return x
  keep = jnp.arange(x.shape[-1]) < call.active(x.shape[-1])
  return jnp.where(keep.reshape((1,) * (x.ndim - 1) + (-1,)), x, 0)
