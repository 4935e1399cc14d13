"""The links of an uplink: clipping, noise, and lossy compression of vectors.

Each link takes the `Packet` of one client's update and returns the packet that
goes on.  Bits of n entries that are held:

  clip, noise, float32   32 an entry
  top_k                  k entries are left, with ceil(log2 n) more bits each
  qsgd                   1 + ceil(log2(levels + 1)) an entry, 32 for each norm
  sign                   1 an entry, 32 for each scale
  bfloat16               16 an entry
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_ls.hyper import Uplink
from fedjax_ls.types import Array

# Bits of a number that nothing compresses.
PLAIN = 32.0


class Packet(NamedTuple):
  """An update on its way.

  Attributes:
    values: vectors, one, or one a parameter array; 0 where not `held`.
    held: which entries are sent, bool vectors.
    bits: of one entry.
    further: bits besides the entries.
  """

  values: list[Array]
  held: list[Array]
  bits: Array | float = PLAIN
  further: Array | float = 0.0

  @property
  def size(self) -> Array:
    """All bits of the packet."""
    return count(self.held) * self.bits + self.further


Link = Callable[[Uplink, Array, Packet], Packet]


def bits(settings: Uplink, sizes: Sequence[int]) -> Array | float:
  """Bits of an update by its size alone, all of whose entries are held.

  Args:
    settings: the links and their numbers, which may be traced.
    sizes: entries of each parameter array, at least 1.

  Returns:
    What `Packet.size` comes to at the end of the links.

  >>> print(bits(Uplink(links=('top_k', 'qsgd'), keep=0.1), (30, 20)))
  72.0
  """
  kept: list[Any] = list(sizes) if settings.per_layer else [sum(sizes)]
  each: Any = PLAIN
  further: Any = 0.0
  for name in settings.links:
    if name == 'top_k':
      places = [math.ceil(math.log2(max(size, 2))) for size in kept]
      kept = [_kept(settings.keep, size) for size in kept]
      further = sum(k * p for k, p in zip(kept, places, strict=True))
    elif name == 'bfloat16':
      each = 16.0
    elif name in ('qsgd', 'sign'):
      each = _level_bits(settings.levels) if name == 'qsgd' else 1.0
      further = further + PLAIN * len(kept)
  return sum(kept) * each + further


def qsgd(key: Array, x: Array, levels) -> Array:
  """Rounds to s levels of the norm at random, without bias.

  With a = s |x_i| / |x| and l = floor(a), entry i becomes

    |x| sign(x_i) (l + 1) / s  with probability a - l,  else |x| sign(x_i) l / s

  so that E Q(x) = x and E |Q(x) - x|^2 <= min(p / s^2, sqrt(p) / s) |x|^2.

  Args:
    key: random key.
    x: `[p]` vector.
    levels: s, a whole number >= 1, may be traced.

  Returns:
    `[p]`; zeros stay zero.

  References:
    Alistarh, Grubic, Li, Tomioka, Vojnovic. QSGD: communication-efficient SGD
    via gradient quantization and encoding. NeurIPS 2017.

  >>> print(qsgd(jax.random.key(0), jnp.array([3.0, 0.0, -4.0]), 5))
  [ 3.  0. -4.]
  """
  norm = _norm([x])
  share = jnp.abs(x) / jnp.where(norm > 0, norm, 1) * levels
  # |x_i| = |x| is the upper end of the last interval.
  low = jnp.minimum(jnp.floor(share), levels - 1)
  up = jax.random.uniform(key, x.shape, x.dtype) < share - low
  return norm * jnp.sign(x) * (low + up) / levels


def top_k(x: Array, held: Array, keep) -> Array:
  """Which ceil(keep n) of the n held entries are largest, ties by position.

  Args:
    x: `[p]` vector.
    held: `[p]` bool.
    keep: share in (0, 1], may be traced.

  Returns:
    `[p]` bool.

  >>> print(top_k(jnp.array([1., -3., 2., 9.]), jnp.arange(4) < 3, 0.5))
  [False  True  True False]
  """
  size = jnp.where(held, jnp.abs(x), -1)
  order = jnp.argsort(-size, stable=True)
  first = jnp.arange(len(x)) < _kept(keep, jnp.sum(held))
  return jnp.zeros_like(held).at[order].set(first) & held


def sign(x: Array, held: Array) -> Array:
  """The sign of each held entry (that of 0 is +) times their mean size."""
  scale = jnp.sum(jnp.abs(x)) / jnp.maximum(jnp.sum(held), 1).astype(x.dtype)
  return jnp.where(held, jnp.where(x < 0, -scale, scale), 0)


def to_bfloat16(key: Array, x: Array) -> Array:
  """Rounds to one of the two nearest bfloat16 numbers, without bias.

  >>> x = jnp.full(1000, 1 + 1 / 512)  # between 1 and 1 + 1 / 128
  >>> y = to_bfloat16(jax.random.key(0), x)
  >>> print(jnp.unique(y), round(float(y.mean()), 2))
  [1.        1.0078125] 1.0
  """
  bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
  added = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
  cut = (bits + added) & jnp.uint32(0xFFFF0000)
  return jax.lax.bitcast_convert_type(cut, jnp.float32).astype(x.dtype)


def _clip(settings: Uplink, key: Array, packet: Packet) -> Packet:
  norm = _norm(packet.values)
  bound = jnp.asarray(settings.clip_norm, norm.dtype)
  scale = jnp.where(norm > bound, bound / jnp.where(norm > 0, norm, 1), 1)
  return packet._replace(values=[scale * v for v in packet.values])


def _noise(settings: Uplink, key: Array, packet: Packet) -> Packet:
  def noised(key, v, held):
    scale = jnp.asarray(settings.noise * settings.clip_norm, v.dtype)
    return jnp.where(held, v + scale * jax.random.normal(key, v.shape), 0)

  return _each(noised, key, packet)


def _largest(settings: Uplink, key: Array, packet: Packet) -> Packet:
  held = [top_k(v, h, settings.keep) for v, h in zip(*packet[:2], strict=True)]
  values = [
    jnp.where(h, v, 0) for v, h in zip(packet.values, held, strict=True)
  ]
  places = sum(
    jnp.sum(kept) * jnp.ceil(jnp.log2(jnp.maximum(jnp.sum(h), 2).astype(float)))
    for kept, h in zip(held, packet.held, strict=True)
  )
  return packet._replace(
    values=values, held=held, further=packet.further + places
  )


def _qsgd(settings: Uplink, key: Array, packet: Packet) -> Packet:
  sent = _each(lambda k, v, h: qsgd(k, v, settings.levels), key, packet)
  return _scaled(sent, _level_bits(settings.levels))


def _sign(settings: Uplink, key: Array, packet: Packet) -> Packet:
  sent = _each(lambda k, v, held: sign(v, held), key, packet)
  return _scaled(sent, 1.0)


def _bfloat16(settings: Uplink, key: Array, packet: Packet) -> Packet:
  sent = _each(lambda k, v, held: to_bfloat16(k, v), key, packet)
  return sent._replace(bits=16.0)


def _float32(settings: Uplink, key: Array, packet: Packet) -> Packet:
  return packet


# In the order in which they may follow one another.
LINKS: dict[str, Link] = {
  'clip': _clip,
  'noise': _noise,
  'top_k': _largest,
  'qsgd': _qsgd,
  'sign': _sign,
  'bfloat16': _bfloat16,
  'float32': _float32,
}
QUANTIZERS = ('qsgd', 'sign', 'bfloat16', 'float32')
RULE = (
  lambda v: list(v) == [name for name in LINKS if name in v],
  f'choose from {", ".join(LINKS)}, in this order',
)


def _kept(keep, size) -> Array:
  """How many of the entries of a vector `top_k` sends."""
  # Less than one hundredth of an entry is rounding of the share.
  return jnp.maximum(jnp.ceil(keep * size - 0.01), 1)


def _level_bits(levels) -> Array:
  """Of an entry that is rounded to levels, and its sign."""
  return 1 + jnp.ceil(jnp.log2(levels + 1.0))


def _each(change: Callable, key: Array, packet: Packet) -> Packet:
  """The packet with `change(key, value, held)` of each vector."""
  pairs = enumerate(zip(packet.values, packet.held, strict=True))
  values = [change(jax.random.fold_in(key, i), v, h) for i, (v, h) in pairs]
  return packet._replace(values=values)


def _scaled(packet: Packet, bits: Array | float) -> Packet:
  """The packet with `bits` an entry and a scale for each vector."""
  scales = sum(jnp.any(held).astype(float) for held in packet.held)
  return packet._replace(bits=bits, further=packet.further + PLAIN * scales)


def _norm(values: list[Array]) -> Array:
  """Euclidean norm of vectors together; tiny entries do not vanish."""
  largest = jnp.max(jnp.stack([jnp.max(jnp.abs(v)) for v in values]))
  safe = jnp.where(largest > 0, largest, 1)
  squares = [jnp.sum((v / safe) ** 2) for v in values]
  return largest * jnp.sqrt(jnp.sum(jnp.stack(squares)))


def count(held: list[Array]) -> Array:
  """Number of entries that are held, in all vectors together."""
  counts = [jnp.sum(h).astype(float) for h in held]
  return sum(counts, start=jnp.zeros(()))
