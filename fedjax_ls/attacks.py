"""Clients that lie, to see what withstands them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls import uplinks
from fedjax_ls.data.checks import require
from fedjax_ls.data.dataset import Dataset
from fedjax_ls.hyper import Attack, Hyper
from fedjax_ls.types import Algorithm, Ctx, Upload

KINDS = ('none', 'label_flip', 'sign_flip')


def under(algorithm: Algorithm, attack: Attack, population: int) -> Algorithm:
  """A method some of whose clients send the opposite of their update.

  Args:
    algorithm: the method; the update is `delta` of its last phase.
    attack: says of which kind; its numbers come with `hyper.attack`.
    population: number of clients.

  Returns:
    The method, itself for other kinds than `sign_flip`.
  """
  if attack.kind != 'sign_flip':
    return algorithm
  last = algorithm.phases[-1]

  def client(train, hyper: Hyper, ctx: Ctx) -> Upload:
    upload = train(hyper, ctx)
    lies = ctx.id < jnp.round(hyper.attack.share * population)
    factor = jnp.where(lies, -hyper.attack.scale, 1.0)

    change, _ = uplinks.update_of("attack.kind = 'sign_flip'", upload)
    flipped = jax.tree.map(lambda v: v * factor.astype(v.dtype), change)
    return uplinks.with_update(upload, flipped)

  lying = last.around(lambda train: partial(client, train))
  return algorithm._replace(phases=(*algorithm.phases[:-1], lying))


def labels(
  attack: Attack, dataset: Dataset, parts: list[np.ndarray]
) -> np.ndarray:
  """The train labels, those of clients that lie about them flipped.

  Args:
    attack: who lies.
    dataset: the samples.
    parts: train rows of each client.

  Returns:
    `[N, ...]` labels: Y - 1 - y in the rows of clients that flip them.

  Raises:
    ValueError: there are no classes to flip.
  """
  if attack.kind != 'label_flip':
    return dataset.y_train
  require(
    dataset.num_classes > 0,
    "attack.kind = 'label_flip' needs class numbers but the targets are real "
    'numbers; use sign_flip',
  )
  y = dataset.y_train.copy()
  for rows in parts[: round(attack.share * len(parts))]:
    y[rows] = dataset.num_classes - 1 - y[rows]
  return y
