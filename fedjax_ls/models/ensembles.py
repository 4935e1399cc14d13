"""Outputs of several classifiers as those of one, and how each does."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from fedjax_ls.models.base import Array, Model, Outputs

Parts = Callable[[tuple[Outputs, ...]], dict[str, Outputs]]


def mean_of(exits: Sequence[Outputs]) -> Outputs:
  """The mean of the classifiers' logits, with the last one's features.

  >>> a, b = jnp.array([[1.0, 4.0]]), jnp.array([[3.0, 0.0]])
  >>> print(mean_of([Outputs(a, a), Outputs(b, b)]).logits)
  [[2. 2.]]
  """
  logits = jnp.mean(jnp.stack([e.logits for e in exits]), 0)
  return exits[-1]._replace(logits=logits, exits=tuple(exits))


def of_parts(
  model: Model, parts: Parts
) -> Callable[[Outputs, Array], dict[str, Array]]:
  """The model's metrics of all, and of some of its classifiers.

  Args:
    model: has the metrics of one.
    parts: `(exits) -> {name: outputs}`, what else to judge.

  Returns:
    `metrics(outputs, y)`, those of parts as `metric@name`.
  """

  def metrics(outputs: Outputs, y: Array) -> dict[str, Array]:
    values = dict(model.metrics(outputs, y))
    for name, of in parts(outputs.exits).items():
      own = model.metrics(of, y)
      values |= {f'{metric}@{name}': value for metric, value in own.items()}
    return values

  return metrics
