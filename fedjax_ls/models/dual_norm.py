"""BatchNorm in two halves, one for clean examples and one for attacked ones.

Everything else is shared.  The noise half is kept beside the network's own
parameters and statistics, so that the network stays as it is and any mix of
the halves is a plain network again.

References:
  Xie, Tan, Gong, Wang, Yuille, Le. Adversarial examples improve image
  recognition. CVPR 2020.
  Hong, Wang, Wang, Zhou. Efficient split-mix federated learning for on-demand
  and in-situ customization. ICLR 2022.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from fedjax_ls.data.checks import require
from fedjax_ls.models.base import Model

Array = jax.Array
Tree = Any

# What the noise half is called, beside the names of layers.
NOISE = 'noise'


def dual_norm(model: Model, eps: float = 1e-5) -> Model:
  """A model each of whose BatchNorms is two, to be mixed when it is applied.

  With BN_c the clean half of a layer and BN_n its noise half, each with its
  own statistics, scale and bias, the layer gives (1 - mix) BN_c + mix BN_n.

  Args:
    model: a `flax_model` whose layers are `Norm('bn')`, with scale and bias or
      with neither.
    eps: of its norms.

  Returns:
    The model.  Its `params` and `stats` have the noise half under `NOISE`,
    which starts as a copy of the clean one.  `apply` takes a `mix` in [0, 1],
    0 by default.  The numbers 0 and 1 run one half alone, which in training
    alone records its statistics; any other mix, and a traced one, is for
    evaluation.

  Raises:
    ValueError: at `init`, the model has no BatchNorm; at `apply`, both halves
      in training.

  Example:
    >>> from fedjax_ls.models import MLP, flax_model
    >>> x = jnp.ones((1, 4))
    >>> two = dual_norm(flax_model(MLP(3, hidden=(5,), norm='bn'), x))
    >>> params, stats = two.init(jax.random.key(0))
    >>> outputs, _ = two.apply(params, stats, x, mix=0.5)
    >>> outputs.logits.shape, sorted(stats)
    ((1, 3), ['noise', 'norm0'])
  """

  def init(key, **options):
    params, stats = model.init(key, **options)
    require(
      bool(stats),
      "the model has no BatchNorm to double; use model.norm = 'bn'",
    )
    layers = {path[:-1] for path in flatten_dict(stats)}
    own = {k: p for k, p in flatten_dict(params).items() if k[:-1] in layers}
    noise = jax.tree.map(jnp.copy, (unflatten_dict(own), stats))
    return {**params, NOISE: noise[0]}, {**stats, NOISE: noise[1]}

  def apply(params, stats, x, *, train=False, mix=0, **options):
    if isinstance(mix, int | float) and mix in (0, 1):
      one = half(params, mix), half(stats, mix)
      outputs, moved = model.apply(*one, x, train=train, **options)
      return outputs, {**stats, **({NOISE: moved} if mix else moved)}
    require(
      not train,
      f'mix = {mix} would train both halves of a BatchNorm at once; use 0 or 1',
    )
    outputs, _ = model.apply(
      *mixed_norms(params, stats, mix, eps), x, **options
    )
    return outputs, stats

  return model._replace(init=init, apply=apply)


def half(tree: Tree, number: float) -> Tree:
  """Parameters or statistics of the plain network with one of the halves.

  Args:
    tree: those of a `dual_norm` model.
    number: 0 for the clean half, 1 for the noise half.

  >>> tree = {'a': {'kernel': 1}, 'b': {'scale': 2}, NOISE: {'b': {'scale': 3}}}
  >>> half(tree, 0), half(tree, 1)['b']
  ({'a': {'kernel': 1}, 'b': {'scale': 2}}, {'scale': 3})
  """
  clean = {name: below for name, below in tree.items() if name != NOISE}
  if number == 0:
    return clean
  return unflatten_dict(flatten_dict(clean) | flatten_dict(tree[NOISE]))


def mixed_norms(
  params: Tree, stats: Tree, mix: float | Array, eps: float
) -> tuple[Tree, Tree]:
  """The plain network whose BatchNorms give (1 - mix) BN_c + mix BN_n.

  In evaluation a half maps x to g (x - m) / s + b, with s = sqrt(v + eps); two
  such maps h with weights w_h add up to one more.  With r = sum_h w_h / s_h,

    m = sum_h w_h m_h / s_h / r      v = 1 / r^2 - eps
    g = sum_h w_h g_h / s_h / r      b = sum_h w_h (b_h + g_h (m - m_h) / s_h)

  Args:
    params: those of a `dual_norm` model.
    stats: its statistics.
    mix: share of the noise half, in [0, 1].
    eps: of its norms.

  Returns:
    `(params, stats)`, shaped like those of `half`.
  """
  old, held = flatten_dict(params), flatten_dict(stats)
  new, seen = flatten_dict(half(params, 0)), flatten_dict(half(stats, 0))

  def both(tree, path):
    return jnp.stack([tree[path], tree[NOISE, *path]])

  for layer in [path[:-1] for path in seen if path[-1] == 'mean']:
    at_mean, at_var = (*layer, 'mean'), (*layer, 'var')
    at_scale, at_bias = (*layer, 'scale'), (*layer, 'bias')
    means, variances = both(held, at_mean), both(held, at_var)
    weights = jnp.stack([1 - mix, mix]).astype(means.dtype)
    weights = weights.reshape((2,) + (1,) * (means.ndim - 1))
    rates = weights * jax.lax.rsqrt(variances + eps)
    rate = rates.sum(0)
    mean = (rates * means).sum(0) / rate
    seen[at_mean], seen[at_var] = mean, 1 / rate**2 - eps
    if at_scale in new:
      gains = rates * both(old, at_scale)
      biases = weights * both(old, at_bias) + gains * (mean[None] - means)
      new[at_scale], new[at_bias] = gains.sum(0) / rate, biases.sum(0)
  return unflatten_dict(new), unflatten_dict(seen)
