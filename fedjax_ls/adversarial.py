"""Attacked examples: how they are made, trained on and judged by.

With l = `share`, a client's objective on a batch is

  (1 - l) J(x) + l J(x'),

J the objective that it has without attacks, x' the batch after `pgd`.  Clean
examples go through one half of each BatchNorm and attacked ones through the
other, see `fedjax_ls.models.dual_norm`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Adversarial, Hyper
from fedjax_ls.models.base import Model
from fedjax_ls.models.flax_model import scale_images
from fedjax_ls.rules import Rule
from fedjax_ls.types import Algorithm, Variant

Array = jax.Array
Tree = Any


def _is_share(text: str) -> bool:
  try:
    return 0 <= Fraction(text) <= 1
  except (ValueError, ZeroDivisionError):
    return False


MIXES: Rule = (
  lambda v: all(map(_is_share, v)),
  'give shares in [0, 1], such as 1/2',
)
# What a step's key is folded with for the random start of its attack.
_START = 2


def pgd(
  gradient: Callable[[Array], Array],
  x: Array,
  key: Array,
  eps: float | Array,
  step: float | Array,
  steps: int,
) -> Array:
  """Examples near `x` that raise a loss: projected gradient ascent.

    x_0   = P(x + u), u uniform in [-eps, eps]
    x_t+1 = P(x_t + step sign(g(x_t)))

  where P projects each number onto |x' - x| <= eps and 0 <= x' <= 1.

  Args:
    gradient: g, of a loss that is a sum over examples.
    x: examples in [0, 1].
    key: of the random start.
    eps: largest change of a number.
    step: size of a step.
    steps: how many.

  Returns:
    Examples like `x`.

  References:
    Madry, Makelov, Schmidt, Tsipras, Vladu. Towards deep learning models
    resistant to adversarial attacks. ICLR 2018.

  >>> x = jnp.array([0.0, 0.5, 0.5])
  >>> up = pgd(lambda x: jnp.array([-1., 1., -1.]), x, jax.random.key(0),
  ...          0.1, 0.1, 2)
  >>> print(up)
  [0.  0.6 0.4]
  """
  eps, step = jnp.asarray(eps, x.dtype), jnp.asarray(step, x.dtype)
  low, high = jnp.maximum(x - eps, 0), jnp.minimum(x + eps, 1)
  start = x + eps * jax.random.uniform(key, x.shape, x.dtype, -1, 1)

  def climb(_, moved):
    return jnp.clip(moved + step * jnp.sign(gradient(moved)), low, high)

  return jax.lax.fori_loop(0, steps, climb, jnp.clip(start, low, high))


def step_size(eps: float | Array, steps: int) -> Array:
  """Split-Mix's step of an attack: min(1.25 eps, eps + 4 / 255) / steps.

  >>> print(f'{255 * step_size(8 / 255, 7):.4f}')
  1.4286
  """
  return jnp.minimum(1.25 * eps, eps + 4 / 255) / steps


def attacked(
  model: Model,
  hyper: Hyper,
  params: Tree,
  stats: Tree,
  x: Array,
  y: Array,
  key: Array,
  **options,
) -> Array:
  """A batch after an attack on the model's loss in evaluation mode.

  It changes images in [0, 1]: after uint8 became that, before `data.mean` and
  `data.std` normalize them.

  Args:
    model: the network and its loss.
    hyper: reads `hyper.adversarial`.
    params: its parameters.
    stats: its statistics.
    x: `[B, ...]` images as stored.
    y: `[B, ...]` labels or targets.
    key: of the random start.
    **options: of `Model.apply`.

  Returns:
    `[B, ...]` images in [0, 1].
  """
  settings = hyper.adversarial
  # It must not look like a part of what is trained.
  params, stats = jax.lax.stop_gradient((params, stats))

  def loss(x: Array) -> Array:
    outputs, _ = model.apply(params, stats, x, **options)
    return jnp.sum(model.loss(outputs, y))

  step = step_size(settings.eps, settings.steps)
  x = scale_images(x)
  return pgd(jax.grad(loss), x, key, settings.eps, step, settings.steps)


def on_both(on_batch: Callable, model: Model, hyper: Hyper) -> Callable:
  """An objective of clean and attacked examples.

  Args:
    on_batch: `(params, stats, x, y, mask, key, width, mix=) -> (loss, stats)`,
      the objective of either.
    model: a `dual_norm` model.
    hyper: reads `hyper.adversarial`.

  Returns:
    `(params, stats, x, y, mask, key, width) -> (loss, stats)`.
  """

  def on_batch_and_attacked(params, stats, x, y, mask, key, width=None):
    start = jax.random.fold_in(key, _START)
    moved = attacked(
      model, hyper, params, stats, x, y, start, width=width, mix=1
    )
    clean, stats = on_batch(params, stats, x, y, mask, key, width, mix=0)
    noisy, stats = on_batch(params, stats, moved, y, mask, key, width, mix=1)
    share = hyper.adversarial.share
    return (1 - share) * clean + share * noisy, stats

  return on_batch_and_attacked


def judged(
  algorithm: Algorithm, model: Model, settings: Adversarial
) -> Algorithm:
  """A method that is judged with each mix of the halves, too.

  The metrics of the global model are `metric@mix=1/2` on the test examples as
  they are, and `metric@mix=1/2,pgd` on examples that were attacked through the
  same mix.

  Args:
    algorithm: the method.
    model: what its clients train.
    settings: the mixes; the other numbers come with `hyper.adversarial`.

  Returns:
    The method, itself without attacks.
  """
  if settings.steps == 0:
    return algorithm
  network = algorithm.network or model

  def of_whole(outputs, y) -> dict[str, Array]:
    values = network.metrics(outputs, y)
    return {name: v for name, v in values.items() if '@' not in name}

  def weights(hyper, server, federation) -> tuple[Tree, Tree]:
    return algorithm.model(server)

  def variants(mix: str) -> tuple[Variant, Variant]:
    apply = partial(network.apply, mix=float(Fraction(mix)))
    seen = network._replace(apply=apply, metrics=of_whole)
    clean = Variant(f'mix={mix}', seen, weights)
    attack = partial(attacked, seen)
    return clean, clean._replace(name=f'mix={mix},pgd', attack=attack)

  new = tuple(v for mix in settings.mixes for v in variants(mix))
  return algorithm._replace(variants=algorithm.variants + new)


def check(
  settings: Adversarial, clock: Any, method: str, fitting: Sequence[str]
) -> None:
  """Refuses attacks where they make no sense.

  Args:
    settings: the attacks.
    clock: the simulated clock's settings.
    method: name of the method.
    fitting: names of the methods whose clients may train on attacked examples.

  Raises:
    ValueError: one sentence.
  """
  steps = settings.steps
  for name, default in vars(Adversarial()).items():
    value = getattr(settings, name)
    require(
      steps > 0 or value == default,
      f'adversarial.{name} = {value!r} is not read with adversarial.steps = 0; '
      'leave it out or set adversarial.steps = 7',
    )
  require(
    steps == 0 or method in fitting,
    f'adversarial.steps = {steps} does not fit method {method}; use one of '
    f'{", ".join(fitting)}, or adversarial.steps = 0',
  )
  require(
    steps == 0 or not clock.macs_per_second,
    f'adversarial.steps = {steps} takes time that the clock does not count; '
    'leave out clock.macs_per_second or set adversarial.steps = 0',
  )
