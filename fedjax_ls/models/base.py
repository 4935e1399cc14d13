"""What the round knows about a network: the `Model` record.

Nothing here names a network library; `fedjax_ls.models.flax_model` wraps a
flax.linen module, and any four functions of these signatures make a model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Tree = Any


class Width(NamedTuple):
  """Share of the leading channels in use, as an exact ratio.

  A layer of `n` channels keeps `ceil(n * num / den)` of them.  Both fields
  may be traced int32 scalars, one pair per client.
  """

  num: Any
  den: Any

  def active(self, channels: int) -> Any:
    """Number of channels in use out of `channels`, in integer arithmetic."""
    return -(-channels * self.num // self.den)


class Outputs(NamedTuple):
  """What a network returns for a batch.

  Attributes:
    logits: `[B, Y]` (or `[B, ...]`, whatever the model's loss reads).
    features: `[B, D]`, the classifier's input.
    exits: what each of several classifiers says by itself, shallow to deep,
      the deepest included; () for a network with one.
  """

  logits: Array
  features: Array
  exits: tuple['Outputs', ...] = ()


class Model(NamedTuple):
  """A network with its loss and metrics, as pure functions.

  Attributes:
    init: `init(key) -> (params, stats)`.  `stats` holds what is no parameter
      (BatchNorm's running statistics), `{}` when there is none.
    apply: `apply(params, stats, x, *, train=False, mask=None, key=None,
      width=None) -> (Outputs, stats)`; that of a `flax_model` takes `module`,
      another network to run in place of its own.  `x` is `[B, ...]` as stored
      in the federation (uint8 images included); `mask` is `[B]`, False for
      padding; `key` feeds dropout; `width` is a `Width`.
    loss: `loss(outputs, y) -> [B]`, one loss an example.
    metrics: `metrics(outputs, y) -> {name: [B]}`, one value an example.
    augment: `augment(key, x) -> x` changes a batch at random before a local
      step, None to leave it.
  """

  init: Callable[..., tuple[Tree, Tree]]
  apply: Callable[..., tuple[Outputs, Tree]]
  loss: Callable[[Outputs, Array], Array]
  metrics: Callable[[Outputs, Array], dict[str, Array]]
  augment: Callable[[Array, Array], Array] | None = None
