"""Optax transforms of the field.

Client transforms receive `value=`, `grad_fn=` and the method's own trees by
keyword (`control=`, `mask=`, ...) on every step.  Optax passes all of them to
every such link of a chain, so that each ends in `**_` for what is others'.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def control_variate() -> optax.GradientTransformationExtraArgs:
  """Adds the tree `control=` to the gradient (SCAFFOLD: c - c_i)."""

  def update(updates, state, params=None, *, control, **_):
    return optax.tree.add(updates, control), state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def proximal(mu) -> optax.GradientTransformationExtraArgs:
  """Adds mu (y - z) for the tree z = `anchor=`, the gradient of
  mu/2 |y - z|^2."""

  def update(updates, state, params=None, *, anchor, **_):
    drift = optax.tree.sub(params, anchor)
    return optax.tree.add_scale(updates, mu, drift), state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def masked_update() -> optax.GradientTransformationExtraArgs:
  """Multiplies the update by the tree `mask=`.

  Belongs last in a chain: weight decay and momentum move weights whose
  gradient is masked.
  """

  def update(updates, state, params=None, *, mask, **_):
    return jax.tree.map(jnp.multiply, updates, mask), state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def sharpness_aware(rho) -> optax.GradientTransformationExtraArgs:
  """Takes the gradient at y + rho g / |g|, g the gradient at y (SAM).

  Belongs first in a chain.  Where g = 0 the gradient is taken at y.

  Args:
    rho: distance, >= 0.

  References:
    Foret et al. Sharpness-aware minimization for efficiently improving
    generalization. ICLR 2021.
  """

  def update(updates, state, params=None, *, grad_fn, **_):
    square = optax.tree.norm(updates, squared=True)
    norm = jnp.sqrt(jnp.where(square > 0, square, 1))
    point = optax.tree.add_scale(params, rho / norm, updates)
    return grad_fn(point), state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def grad_align() -> optax.GradientTransformationExtraArgs:
  """Takes the gradient at y + v, v the tree `displacement=` (GradAlign).

  Belongs first in a chain.  With v = -b (g - g_i), g_i this client's gradient
  and g the clients' mean, one step of all follows the gradient of
  f + (b / 2) mean_i |g_i - g|^2 up to O(b^2).

  References:
    Dandi, Barba, Jaggi. Implicit gradient alignment in distributed and
    federated learning. AAAI 2022.

  >>> tx = grad_align()
  >>> g, _ = tx.update(
  ...   jnp.array(2.), tx.init(0.), jnp.array(1.),
  ...   displacement=jnp.array(0.5), grad_fn=jax.grad(lambda y: y * y))
  >>> float(g)
  3.0
  """

  def update(updates, state, params=None, *, displacement, grad_fn, **_):
    del updates
    return grad_fn(optax.tree.add(params, displacement)), state

  return optax.GradientTransformationExtraArgs(_no_state, update)


def damped_trace(decay) -> optax.GradientTransformation:
  """m <- decay m + (1 - decay) g, the update is m."""

  def update(updates, state, params=None):
    trace = jax.tree.map(
      lambda m, g: decay * m + (1 - decay) * g, state, updates
    )
    return trace, trace

  return optax.GradientTransformation(optax.tree.zeros_like, update)


class Moments(NamedTuple):
  """First and second moments of the pseudo-gradient, after t steps."""

  t: jax.Array
  m: Any
  v: Any


def adaptive(
  rule: str, b1, b2, tau, v0, bias_correction: bool
) -> optax.GradientTransformation:
  """Adagrad, Adam and Yogi as federated optimization states them.

  With pseudo-gradient D: m <- b1 m + (1 - b1) D, then

    adagrad  v <- v + D^2
    adam     v <- b2 v + (1 - b2) D^2
    yogi     v <- v - (1 - b2) D^2 sign(v - D^2)

  and the update is m / (sqrt(v) + tau).

  Args:
    rule: `adagrad`, `adam` or `yogi`.
    b1: decay of m, in [0, 1).
    b2: decay of v, in [0, 1); adagrad does not read it.
    tau: > 0, limits how far the update adapts.
    v0: initial v, >= 0.
    bias_correction: divide m by 1 - b1^t, and v by 1 - b2^t (not adagrad's).

  Returns:
    An optax transform; scale it by minus the server learning rate.

  References:
    Reddi et al. Adaptive federated optimization. ICLR 2021.

  Differs from the authors' code in: their Keras optimizers correct the bias
  (`bias_correction=True`) and have b2 = 0.999; the paper does not correct and
  has 0.99.  Adagrad reads b1 as the others do; the paper is said to have 0 for
  it, which was not checked.
  """
  second = {
    'adagrad': lambda v, d2: v + d2,
    'adam': lambda v, d2: b2 * v + (1 - b2) * d2,
    'yogi': lambda v, d2: v - (1 - b2) * d2 * jnp.sign(v - d2),
  }[rule]

  def init(params):
    v = jax.tree.map(lambda p: jnp.full_like(p, v0), params)
    return Moments(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), v)

  def update(updates, state, params=None):
    t = state.t + 1
    m = jax.tree.map(lambda m, d: b1 * m + (1 - b1) * d, state.m, updates)
    v = jax.tree.map(lambda v, d: second(v, d * d), state.v, updates)
    debias_m = debias_v = 1.0
    if bias_correction:
      debias_m = 1 - b1**t
      debias_v = 1.0 if rule == 'adagrad' else 1 - b2**t
    step = jax.tree.map(
      lambda m, v: (m / debias_m) / (jnp.sqrt(v / debias_v) + tau), m, v
    )
    return step, Moments(t, m, v)

  return optax.GradientTransformation(init, update)


def _no_state(params):
  del params
  return optax.EmptyState()
