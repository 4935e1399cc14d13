"""Convolution as XLA's own operation or as patches times a matrix.

On XLA's CPU backend a convolution inside any loop (`scan`, `map`, `while`)
runs 20 times slower than outside, because its weight gradient leaves the fast
path there, and a run is loops throughout: over rounds, clients and steps.  One
matrix product over patches stays fast in loops;
`experiments/benchmarks/conv.py` measures both.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from fedjax_ls.data.checks import require, unknown

Array = jax.Array

LOWERINGS = ('native', 'matmul')
INITIALIZERS = ('lecun', 'torch')


def resolve_conv(conv: str, backend: str) -> str:
  """The lowering that `execution.conv` stands for.

  Args:
    conv: 'auto', 'native' or 'matmul'.
    backend: platform of the devices, as in `jax.default_backend()`.

  Returns:
    'native' or 'matmul'; 'auto' is 'matmul' on 'cpu' and 'native' elsewhere.

  Raises:
    ValueError: `conv` is none of the three.

  >>> resolve_conv('auto', 'cpu'), resolve_conv('auto', 'gpu')
  ('matmul', 'native')
  """
  if conv not in ('auto', *LOWERINGS):
    raise unknown('execution.conv', conv, ('auto', *LOWERINGS))
  if conv != 'auto':
    return conv
  return 'matmul' if backend == 'cpu' else 'native'


def initializers(name: str, fan_in: int):
  """Initializers of a layer's kernel and bias.

  Args:
    name: 'lecun' (truncated normal of variance 1 / fan_in, bias 0) or 'torch'
      (kernel and bias uniform in +-1 / sqrt(fan_in), PyTorch's default).
    fan_in: number of inputs of one output.

  Returns:
    `(kernel_init, bias_init)`.

  Raises:
    ValueError: `name` is none of the two.
  """
  match name:
    case 'lecun':
      return nn.initializers.lecun_normal(), nn.initializers.zeros
    case 'torch':
      bound = 1 / math.sqrt(fan_in)

      def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

      return uniform, uniform
  raise unknown('model.initializer', name, INITIALIZERS)


class Conv(nn.Module):
  """A 2-D convolution of `[B, H, W, C]` with a kernel `[h, w, C, features]`.

  Both lowerings hold the same parameters and agree to rounding.  `matmul` has
  its own reverse-mode rule, which can itself be differentiated in reverse;
  forward mode raises.  A depthwise convolution has a kernel `[h, w, 1, C]`,
  one `[h, w]` a channel; its `matmul` is a sum of shifted products.

  Attributes:
    features: number of output channels.
    kernel_size: height and width of the kernel.
    strides: vertical and horizontal step.
    padding: 'VALID', 'SAME' or the number of zeros on each side, as PyTorch
      counts; 'SAME' pads less on the near side of a strided convolution.
    use_bias: whether to add a bias per channel.
    depthwise: whether channel c of the output sees channel c of the input
      only; `features` is then the number of input channels.
    initializer: 'lecun' or 'torch', see `initializers`.
    lowering: 'native' or 'matmul'.
    dtype: type of the computation; None keeps the inputs'.
  """

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  padding: str | int = 'VALID'
  use_bias: bool = True
  depthwise: bool = False
  initializer: str = 'lecun'
  lowering: str = 'native'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps `[B, H, W, C]` to `[B, H', W', features]`.

    Raises:
      ValueError: `lowering` or `initializer` is unknown, or a depthwise
        convolution has other `features` than `x`.
    """
    if self.lowering not in LOWERINGS:
      raise unknown('model.lowering', self.lowering, LOWERINGS)
    require(
      not self.depthwise or self.features == x.shape[-1],
      f'features = {self.features} of a depthwise convolution; use the '
      f'{x.shape[-1]} channels of its input',
    )
    inputs = 1 if self.depthwise else x.shape[-1]
    shape = (*self.kernel_size, inputs, self.features)
    kernel_init, bias_init = initializers(
      self.initializer, math.prod(shape[:-1])
    )
    kernel = self.param('kernel', kernel_init, shape)
    bias = None
    if self.use_bias:
      bias = self.param('bias', bias_init, (self.features,))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    if self.lowering == 'native':
      conv = conv_native
    else:
      conv = conv_shifted if self.depthwise else conv_matmul
    y = conv(x, kernel, self.strides, self.padding)
    return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def conv_native(x: Array, kernel: Array, strides, padding) -> Array:
  """The convolution of `Conv` as one XLA operation; depthwise by its kernel.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[h, w, C, F]`, or `[h, w, 1, C]` for a depthwise one.
    strides: vertical and horizontal step.
    padding: as in `Conv`.

  Returns:
    `[B, H', W', F]`.
  """
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    _pads(x, kernel, strides, padding),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1] // kernel.shape[2],
  )


def conv_matmul(x: Array, kernel: Array, strides, padding) -> Array:
  """The convolution of `Conv` as patches times a matrix.

  Its gradient inside `shard_map` needs `x` and `kernel` to vary over the same
  mesh axes: cast what does not with `jax.lax.pcast`, or JAX raises.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[h, w, C, F]`.
    strides: vertical and horizontal step.
    padding: as in `Conv`.

  Returns:
    `[B, H', W', F]`.
  """
  x = _padded(x, kernel, strides, padding)
  height, width, inputs, features = kernel.shape
  # What a row of patches holds, and what the same row holds by kernel rows.
  whole, parts = height * width * inputs, width * inputs + height * features
  if tuple(strides) == (1, 1) and parts <= whole:
    return _row_conv(x, kernel)
  return _valid_conv(x, kernel, tuple(strides))


def conv_shifted(x: Array, kernel: Array, strides, padding) -> Array:
  """A depthwise convolution as a sum of products, one a kernel element.

  Args:
    x: `[B, H, W, C]`.
    kernel: `[h, w, 1, C]`.
    strides: vertical and horizontal step.
    padding: as in `Conv`.

  Returns:
    `[B, H', W', C]`.
  """
  x = _padded(x, kernel, strides, padding)
  rows = _size(x.shape[1], kernel.shape[0], strides[0])
  cols = _size(x.shape[2], kernel.shape[1], strides[1])
  taps = (
    x[:, _window(i, rows, strides[0]), _window(j, cols, strides[1])]
    * kernel[i, j].reshape(1, 1, 1, -1)
    for i in range(kernel.shape[0])
    for j in range(kernel.shape[1])
  )
  return functools.reduce(jnp.add, taps)


def max_pool2(x: Array) -> Array:
  """Maximum over 2 x 2 windows with step 2; an odd last row or column is cut.

  Written as the maximum of four strided slices: on CPU its gradient is several
  times faster than that of a window reduction.  A unique maximum gets the whole
  gradient, as in `flax.linen.max_pool`.  At ties `flax` gives it all to the
  first of them; here k equal maxima get a k-th each.

  Args:
    x: `[B, H, W, C]`.

  Returns:
    `[B, H // 2, W // 2, C]`.

  >>> x = jnp.array([1., 5., 3., 2.]).reshape(1, 2, 2, 1)
  >>> print(max_pool2(x).ravel(), jax.grad(lambda x: max_pool2(x).sum())(x)
  ...       .ravel())
  [5.] [0. 1. 0. 0.]
  """
  h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
  require(
    h > 0 and w > 0,
    f'max_pool2 got maps of {x.shape[1]} x {x.shape[2]}; '
    'use inputs of at least 2 x 2',
  )
  return _pool2(x[:, :h, :w])


@jax.custom_jvp
def _pool2(x):
  top = jnp.maximum(x[:, ::2, ::2], x[:, ::2, 1::2])
  bottom = jnp.maximum(x[:, 1::2, ::2], x[:, 1::2, 1::2])
  return jnp.maximum(top, bottom)


@_pool2.defjvp
def _pool2_tangent(primals, tangents):
  # Transposes to one elementwise pass over x, without padding.
  (x,), (tangent,) = primals, tangents
  y = _pool2(x)
  batch, rows, cols, features = y.shape
  windows = (batch, rows, 2, cols, 2, features)
  share = _shares(x.reshape(windows))
  return y, (share * tangent.reshape(windows)).sum((2, 4))


def _shares(x):
  """What each of four has in their maximum, `[B, H, 2, W, 2, C]`.

  From comparisons that each decide between two sides, so that shares add up to
  1 also where a compiler computes x twice, rounded differently; a search for
  the elements that equal the maximum may then find none.
  """
  left, right = x[:, :, :, :, 0], x[:, :, :, :, 1]
  sides, ties = _versus(left, right, 1, 1)
  rows = jnp.maximum(left, right)
  ends, _ = _versus(rows[:, :, 0], rows[:, :, 1], ties[:, :, 0], ties[:, :, 1])
  of_row = jnp.stack([ends, 1 - ends], 2)
  return jnp.stack([of_row * sides, of_row * (1 - sides)], 4)


def _versus(a, b, of_a, of_b):
  """The share of `a`, and how many are the maximum; `of_a` already in `a`."""
  both = of_a + of_b
  won = jnp.where(a > b, 1.0, jnp.where(a < b, 0.0, of_a / both))
  held = jnp.where(a > b, of_a, jnp.where(a < b, of_b, both))
  return won.astype(a.dtype), held


def _pads(x, kernel, strides, padding):
  if isinstance(padding, int):
    return [(padding, padding)] * 2
  return lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)


def _padded(x, kernel, strides, padding):
  pads = _pads(x, kernel, strides, padding)
  if all(p == (0, 0) for p in pads):
    return x
  return jnp.pad(x, ((0, 0), *pads, (0, 0)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _valid_conv(x, kernel, strides):
  return _forward(x, kernel, strides)[0]


def _forward(x, kernel, strides):
  patches = _patches(x, kernel.shape[:2], strides)
  y = patches @ kernel.reshape(-1, kernel.shape[-1])
  rows = _size(x.shape[1], kernel.shape[0], strides[0])
  y = y.reshape(x.shape[0], rows, -1, kernel.shape[-1])
  return y, (x, patches, kernel)


def _backward(strides, residuals, g):
  x, patches, kernel = residuals
  flat = g.reshape(-1, g.shape[-1])
  # As g^T P, whose long axis comes out contiguous, and not as P^T g: about
  # twice as fast on CPU.
  grad_kernel = (flat.T @ patches).T.reshape(kernel.shape)
  grad_patches = jnp.matmul(
    flat,
    kernel.reshape(-1, kernel.shape[-1]).T,
    preferred_element_type=jnp.promote_types(g.dtype, jnp.float32),
  )
  grad_x = _scattered(grad_patches, x.shape, kernel.shape[:2], strides)
  return grad_x.astype(x.dtype), grad_kernel


_valid_conv.defvjp(_forward, _backward)


@jax.custom_vjp
def _row_conv(x, kernel):
  """`_valid_conv` at stride 1 with windows along the rows only.

  All kernel rows are applied to every row of the image in one product, then
  their outputs are added where they belong: with many channels that moves
  less memory than patches do.
  """
  return _row_forward(x, kernel)[0]


def _row_forward(x, kernel):
  height, width, _, features = kernel.shape
  patches = _patches(x, (1, width), (1, 1))
  taps = jnp.matmul(
    patches,
    _by_rows(kernel),
    preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
  )
  batch, rows, cols, _ = x.shape
  shape = (batch, rows + height - 1, cols - width + 1, features)
  y = _scattered(taps, shape, (height, 1), (1, 1))
  return y[:, height - 1 : rows].astype(x.dtype), (x, patches, kernel)


def _row_backward(residuals, g):
  x, patches, kernel = residuals
  height, width, inputs, features = kernel.shape
  spare = (height - 1, height - 1)
  g = jnp.pad(g, ((0, 0), spare, (0, 0), (0, 0)))
  flat = _patches(g, (height, 1), (1, 1))
  grad_kernel = (patches.T @ flat).reshape(width, inputs, height, features)
  grad_patches = jnp.matmul(
    flat,
    _by_rows(kernel).T,
    preferred_element_type=jnp.promote_types(g.dtype, jnp.float32),
  )
  grad_x = _scattered(grad_patches, x.shape, (1, width), (1, 1))
  return grad_x.astype(x.dtype), grad_kernel[:, :, ::-1].transpose(2, 0, 1, 3)


_row_conv.defvjp(_row_forward, _row_backward)


def _by_rows(kernel):
  """The kernel as a matrix, `[w C, h features]`, the last row first."""
  height, width, inputs, features = kernel.shape
  kernel = kernel[::-1].transpose(1, 2, 0, 3)
  return kernel.reshape(width * inputs, height * features)


def _size(size, window, stride):
  return (size - window) // stride + 1


def _window(start, count, stride):
  return slice(start, start + (count - 1) * stride + 1, stride)


def _patches(x, window, strides):
  """The windows of `x`, `[B H' W', h w C]`, columns gathered before rows."""
  rows = _size(x.shape[1], window[0], strides[0])
  cols = _size(x.shape[2], window[1], strides[1])
  wide = [x[:, :, _window(j, cols, strides[1])] for j in range(window[1])]
  x = jnp.concatenate(wide, -1)
  tall = [x[:, _window(i, rows, strides[0])] for i in range(window[0])]
  x = jnp.concatenate(tall, -1)
  return x.reshape(-1, x.shape[-1])


def _scattered(patches, shape, window, strides):
  """The transpose of `_patches`: adds every patch back where it came from."""
  rows = _size(shape[1], window[0], strides[0])
  cols = _size(shape[2], window[1], strides[1])
  taps = patches.reshape(shape[0], rows, cols, *window, shape[3])
  out = jnp.zeros(shape, patches.dtype)
  for i in range(window[0]):
    for j in range(window[1]):
      at = (
        slice(None),
        _window(i, rows, strides[0]),
        _window(j, cols, strides[1]),
      )
      out = out.at[at].add(taps[:, :, :, i, j])
  return out
