"""Clients that train the model a little more before they are judged by it."""

import dataclasses

from fedjax_ls.data.checks import require
from fedjax_ls.hyper import Hyper
from fedjax_ls.local import End, Start, local_sgd
from fedjax_ls.models.base import Model
from fedjax_ls.types import Algorithm, Ctx, Tree, Upload


def tuned(
  algorithm: Algorithm,
  model: Model,
  steps: int,
  method: str = 'this method',
  sampler: str = 'this sampler',
) -> Algorithm:
  """A method whose clients fine-tune for `steps` local steps in evaluation.

  They start from the model that the method would judge them by, take steps as
  `hyper.client` says at the learning rate of the round, on the model's loss and
  the terms of `hyper.loss`, and forget the result: training does not change.

  Args:
    algorithm: the method.
    model: the network and its loss.
    steps: number of steps, 0 for the method as it is.
    method: what an error calls it.
    sampler: what an error calls its sampler.

  Raises:
    ValueError: a sampler would see the tuned models, or what is judged is not
      what clients train.
  """
  if steps == 0:
    return algorithm
  require(
    not algorithm.sampler.asks,
    f'fine_tune = {steps} does not fit {sampler}, which asks clients about the '
    'models that they use; choose 0 or sampler.name = uniform',
  )
  require(
    algorithm.network is None and algorithm.ready is None,
    f'fine_tune = {steps} does not fit {method}, which is judged by another '
    'model than its clients train; choose 0 or another method',
  )
  base = algorithm.personal

  def start(hyper: Hyper, ctx: Ctx) -> Start:
    if base is not None:
      return Start(*base(hyper, ctx))
    return Start(*algorithm.model(ctx.message))

  def finish(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
    return Upload(state=(end.params, end.stats))

  train = local_sgd(model, start=start, finish=finish)

  def personal(hyper: Hyper, ctx: Ctx) -> tuple[Tree, Tree]:
    client = dataclasses.replace(
      hyper.client, unit='steps', amount=steps, partial_work=False
    )
    return train(hyper._replace(client=client), ctx).state

  return algorithm._replace(personal=personal)
