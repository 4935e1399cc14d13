"""Small networks inside a large one, as masks or as slices.

Narrow ones keep leading channels, shallow ones leading stages.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls.data.checks import require
from fedjax_ls.models.base import Model, Tree, Width
from fedjax_ls.models.flax_model import flax_model, scale_images


class Submodels(NamedTuple):
  """The networks of several widths or depths inside one, tier by tier.

  Attributes:
    rates: share of the hidden channels, or of the stages, that each tier
      keeps.
    mask: `mask(tier) -> tree` like the parameters, True on the leading block
      that the tier holds; `tier` may be traced, here and in the next two.
    stats_mask: likewise for the statistics (BatchNorm's).
    width: `width(tier) -> Width`, None for shallow networks.
    slim: `slim(params, tier) -> tree`, the held blocks as small arrays.
    slim_stats: likewise for the statistics.
    module: `module(tier) -> nn.Module`, the small network.
    full: the network that all are part of.
    shapes: its parameters and statistics, shapes and types.
    random: whether training draws random numbers, as dropout does; a small
      network draws others than a large one under a mask.
    depths: number of stages of each tier, () for narrow networks.
  """

  rates: tuple[Fraction, ...]
  mask: Callable[[Any], Tree]
  stats_mask: Callable[[Any], Tree]
  width: Callable[[Any], Width | None]
  slim: Callable[[Tree, int], Tree]
  slim_stats: Callable[[Tree, int], Tree]
  module: Callable[[int], nn.Module]
  full: nn.Module
  shapes: tuple[Tree, Tree]
  random: bool
  depths: tuple[int, ...] = ()


def width_submodels(
  module: Any, example: Any, rates: Sequence[str | Fraction]
) -> Submodels:
  """Narrow versions of a network that keep `ceil(rate C)` of `C` channels.

  Args:
    module: a network with a method `slim(width) -> module`, as those of
      `fedjax_ls.models` have.
    example: a batch `[B, ...]` of the module's inputs; only its shape and type
      are read.
    rates: share of each tier in (0, 1], as '0.6', '3/5' or a `Fraction`.

  Returns:
    The submodels; tier t has `rates[t]`.

  Raises:
    ValueError: a rate is a float (0.6 is a little less than 3/5) or no share
      in (0, 1], or the module has no method `slim`.

  Example:
    >>> from fedjax_ls.models.nets import MLP
    >>> sub = width_submodels(MLP(2, hidden=(3,)), jnp.ones((1, 2)), ['0.6'])
    >>> print(sub.mask(0)['dense0']['kernel'].astype(int))
    [[1 1 0]
     [1 1 0]]
  """
  exact = exact_rates(rates)
  require(
    hasattr(module, 'slim'),
    f'{type(module).__name__} has no method slim(width); '
    'add one or use a network of fedjax_ls.models',
  )
  modules = [module.slim(Width(r.numerator, r.denominator)) for r in exact]

  def width(tier):
    return Width(
      jnp.array([r.numerator for r in exact])[tier],
      jnp.array([r.denominator for r in exact])[tier],
    )

  return _inside(module, modules, example, exact)._replace(width=width)


def depth_submodels(
  module: Any, example: Any, rates: Sequence[str | Fraction]
) -> Submodels:
  """Shallow versions of a network that keep `ceil(rate D)` of `D` stages.

  Args:
    module: a network with a number `stages` and a method
      `shallow(depth) -> module`, as those of `fedjax_ls.models` have.
    example: a batch `[B, ...]` of the module's inputs; only its shape and type
      are read.
    rates: share of each tier in (0, 1], as '0.6', '3/5' or a `Fraction`.

  Returns:
    The submodels; tier t has `rates[t]`.

  Raises:
    ValueError: a rate is a float or no share in (0, 1], or the module has no
      stages.

  Example:
    >>> from fedjax_ls.models.nets import MLP
    >>> net = MLP(2, hidden=(3, 3, 3))
    >>> sub = depth_submodels(net, jnp.ones((1, 2)), ['1', '1/2'])
    >>> sub.depths, sub.mask(1)['dense2']['kernel'].any().item()
    ((3, 2), False)
  """
  exact = exact_rates(rates)
  require(
    hasattr(module, 'shallow'),
    f'{type(module).__name__} has no method shallow(depth); '
    'use an mlp, a residual network, pooled_cnn or transformer',
  )
  depths = tuple(math.ceil(rate * module.stages) for rate in exact)
  modules = [module.shallow(depth) for depth in depths]
  return _inside(module, modules, example, exact)._replace(depths=depths)


def cut_out(
  submodels: Submodels, params: Tree, stats: Tree, tier: int
) -> tuple[nn.Module, dict[str, Tree]]:
  """The small network of a tier with its own weights, to be used alone.

  Args:
    submodels: of the network.
    params: its parameters, as `fit` and the algorithms return them.
    stats: its statistics, `{}` for none.
    tier: whose network.

  Returns:
    The module and its variables: `module.apply(variables, x)` gives `Outputs`,
    for inputs as the module takes them (images in [0, 1]).

  Example:
    >>> from fedjax_ls.models.nets import MLP
    >>> net, x = MLP(2, hidden=(8,)), jnp.ones((1, 3))
    >>> params = net.init(jax.random.key(0), x)['params']
    >>> sub = width_submodels(net, x, ['1', '1/4'])
    >>> small, variables = cut_out(sub, params, {}, 1)
    >>> small.apply(variables, x).features.shape
    (1, 2)
  """
  variables = {'params': submodels.slim(params, tier)}
  if stats:
    variables['batch_stats'] = submodels.slim_stats(stats, tier)
  return submodels.module(tier), variables


def with_module(model: Model, module: nn.Module) -> Model:
  """A `flax_model` that runs another network, all else being the same."""
  return model._replace(
    init=partial(model.init, module=module),
    apply=partial(model.apply, module=module),
  )


def grow(tree: Tree, shapes: Tree) -> Tree:
  """Small arrays as the leading blocks of large ones, zeros elsewhere.

  Names that `tree` lacks are zeros, too.

  Args:
    tree: of arrays.
    shapes: tree of arrays or shapes, as large or larger.

  >>> print(grow(jnp.ones((1, 2)), jnp.zeros((2, 3))))
  [[1. 1. 0.]
   [0. 0. 0.]]
  """

  first = next(iter(jax.tree.leaves(tree)), None)

  def padded(leaf, like):
    if leaf is None:
      # Varying over the mesh as the others do.
      return jnp.zeros_like(like if first is None else first, shape=like.shape)
    ends = [b - a for a, b in zip(leaf.shape, like.shape, strict=True)]
    return jnp.pad(leaf, [(0, end) for end in ends])

  return jax.tree.map(lambda s, a: padded(a, s), shapes, _like(tree, shapes))


def channel_masks(full: Tree, slim: Sequence[Tree], tier: Any) -> Tree:
  """Masks of the leading blocks that one tier holds.

  Args:
    full: tree of arrays or shapes of the full network.
    slim: one such tree a tier, no leaf larger than in `full`; names may be
      left out.
    tier: which of them, an int or a traced scalar.

  Returns:
    Tree of boolean arrays like `full`.
  """

  def leading(leaf, *slims):
    shapes = [(0,) * leaf.ndim if s is None else s.shape for s in slims]
    sizes = jnp.array(np.array(shapes, np.int32))[tier]
    mask = jnp.ones(leaf.shape, bool)
    for axis, size in enumerate(leaf.shape):
      index = jax.lax.broadcasted_iota(jnp.int32, leaf.shape, axis)
      if any(s[axis] != size for s in shapes):
        mask &= index < sizes[axis]
    return mask

  return jax.tree.map(leading, full, *(_like(tree, full) for tree in slim))


def exact_rates(
  rates: Sequence[str | Fraction], name: str = 'rates'
) -> tuple[Fraction, ...]:
  """Rates as exact fractions in (0, 1].

  Args:
    rates: such as '0.6', '3/5' or a `Fraction`.
    name: what they are called in messages.

  Raises:
    ValueError: one is a float, no number, or outside (0, 1].

  >>> exact_rates(['1', '0.5'])
  (Fraction(1, 1), Fraction(1, 2))
  """
  return tuple(_rate(f'{name}[{i}]', rate) for i, rate in enumerate(rates))


def _inside(module, modules, example, rates):
  """The `modules`, parts of `module`; nothing about width or depth."""
  full, full_stats = _shapes(module, example)
  slim, slim_stats = zip(*(_shapes(m, example) for m in modules), strict=True)
  return Submodels(
    rates=rates,
    mask=lambda tier: channel_masks(full, slim, tier),
    stats_mask=lambda tier: channel_masks(full_stats, slim_stats, tier),
    width=lambda tier: None,
    slim=lambda params, tier: _cut(params, slim[tier]),
    slim_stats=lambda stats, tier: _cut(stats, slim_stats[tier]),
    module=modules.__getitem__,
    full=module,
    shapes=(full, full_stats),
    random=_draws(module, example),
  )


def _draws(module, example):
  model = flax_model(module, example)
  x = jax.ShapeDtypeStruct(jnp.shape(example), jnp.result_type(example))
  try:
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    jax.eval_shape(partial(model.apply, train=True), *shapes, x)
  except flax.errors.InvalidRngError:
    return True
  return False


def _cut(tree, shapes):
  return jax.tree.map(
    lambda s, leaf: leaf[tuple(map(slice, s.shape))],
    shapes,
    _like(tree, shapes),
  )


def _like(tree, names):
  """`tree` with the names of `names`, None where it lacks one."""
  if not isinstance(names, Mapping):
    return tree
  return {
    name: _like(tree.get(name) if tree else None, below)
    for name, below in names.items()
  }


def _rate(name, rate):
  require(
    not isinstance(rate, float),
    f"{name} is the float {rate}; write '{rate}' in quotes",
  )
  try:
    exact = Fraction(rate)
  except (ValueError, ZeroDivisionError):
    exact = Fraction(0)
  require(
    0 < exact <= 1,
    f'{name} = {str(rate)!r} is no share in (0, 1]; give one, such as 1/2',
  )
  return exact


def _shapes(module, example):
  x = scale_images(jnp.zeros(jnp.shape(example), jnp.result_type(example)))
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  return variables['params'], variables.get('batch_stats', {})
