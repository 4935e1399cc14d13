"""HeteroFL: clients train the width they can afford, averaged by holders."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from fedjax_ls import narrow, rules, server
from fedjax_ls.algorithms.base import Identity, Method, Parts
from fedjax_ls.algorithms.fedavg import FedAvg
from fedjax_ls.data.federation import Federation
from fedjax_ls.hyper import Hyper, traced
from fedjax_ls.label_masks import MASKS
from fedjax_ls.models.base import Model
from fedjax_ls.models.batch_stats import query_stats
from fedjax_ls.models.submodels import with_module
from fedjax_ls.types import Algorithm, Ctx, Variant

Tree = Any


@traced
@dataclasses.dataclass
class HeteroFL:
  """Settings of HeteroFL; all of them are structure.

  Attributes:
    rates: share of the channels of each level, as decimals or fractions in
      (0, 1], 1 among them; tier 0 has the first.
    assignment: `fixed` to the clients' tiers, or `dynamic`: each client draws
      its level anew every round.
    proportions: shares of the levels under `dynamic`, empty for equal ones.
    scaler: whether hidden layers' outputs are divided by the client's rate in
      training.
    absent: what the loss makes of logits of classes that a client has not:
      `zero`, `exclude` (-inf) or `none`.
    owners: whether a class's row of the classifier is averaged over the
      clients that have the class.
    query: who is asked for BatchNorm's statistics: `clients` one after the
      other, or all examples in one place (`central`), shuffled.
    query_batch: examples a batch of that, >= 1.
    every_width: whether each level's network is judged, not the widest alone.
  """

  weights: ClassVar = 'uniform'
  rates: tuple[str, ...] = ('1', '1/2', '1/4', '1/8', '1/16')
  assignment: str = 'fixed'
  proportions: tuple[float, ...] = ()
  scaler: bool = True
  absent: str = 'zero'
  owners: bool = True
  query: str = 'clients'
  query_batch: int = 10
  every_width: bool = False


def heterofl(settings: HeteroFL, parts: Parts) -> Algorithm:
  """Local SGD on the leading channels, averaged by who holds an element.

  A client of rate r trains the leading ceil(r n) of the n channels of every
  hidden layer, each layer computing

    norm(s(W x + b)),   s(v) = v / r in training, s(v) = v otherwise

  (s is the Scaler), and minimizes the cross-entropy of logits in which the
  classes it has no examples of are 0.  With m_k = 1 on the elements that
  client k holds and 0 elsewhere (rows of the classifier are held by clients
  that have the class):

    y_k <- x, then local steps
    x   <- x + server step along sum w_k m_k (y_k - x) / sum w_k m_k

  element by element; what nobody in the cohort holds stays.  BatchNorm
  normalizes by the batch in training; for evaluation the global model passes
  over the training examples, and its statistics are the mean of the batches'
  means and unbiased variances.  `local/accuracy` is of the global model on
  each client's own test examples, with its absent classes masked as in
  training; `accuracy` is unmasked.

  Args:
    settings: `rates` must be those of `parts.submodels`.
    parts: model, sampler and submodels.

  Returns:
    The algorithm.  Clients keep no state.

  Raises:
    ValueError: there are no submodels, or those of other rates, or `owners`
      without a layer called `classifier`.

  References:
    Diao, Ding, Tarokh. HeteroFL: computation and communication efficient
    federated learning for heterogeneous clients. ICLR 2021.

  Differs from the authors' code in: gradients are clipped where `client.clip`
  says so, theirs always, at 1; statistics are asked of one client after the
  other, as in the paper, where the code passes over all examples
  (`query=central`); embeddings of text are averaged over all clients, theirs
  over those that have the symbol.
  """
  submodels = narrow.submodels_of(settings.rates, parts)
  params, stats = submodels.shapes
  if settings.owners and 'classifier' not in params:
    raise ValueError(
      'algorithm.owners = True needs a layer called classifier but the network '
      f'has {", ".join(params)}; name it so or set owners to false'
    )
  calibrate = MASKS.get(settings.absent)
  trained = narrow.phase(
    parts,
    submodels,
    scaler=settings.scaler,
    calibrate=calibrate,
    weigh=by_owners if settings.owners else None,
  )

  def ready(model: Model, weights: tuple[Tree, Tree], federation: Federation):
    index, size = federation.index, federation.size
    if settings.query == 'central':
      total = len(federation.x)
      order = jax.random.permutation(jax.random.key(0), total)
      index, size = order[None], jnp.array([total])
    return weights[0], query_stats(
      model, *weights, federation.x, index, size, settings.query_batch
    )

  def of_level(tier: int) -> Variant:
    small = with_module(parts.model, submodels.module(tier))

    def weights(hyper: Hyper, state, federation: Federation):
      cut = (
        submodels.slim(state.params, tier),
        submodels.slim_stats(state.stats, tier),
      )
      return ready(small, cut, federation)

    return Variant(settings.rates[tier], small, weights)

  levels = [t for t, rate in enumerate(submodels.rates) if rate < 1]
  shares = jnp.array(settings.proportions or (1.0,) * len(settings.rates))

  def redrawn(key):
    return jax.random.categorical(key, jnp.log(shares)).astype(jnp.int32)

  def of_whole(hyper: Hyper, state, federation: Federation):
    return ready(parts.model, server.global_model(state), federation)

  def masked(hyper: Hyper, labels, outputs):
    logits = outputs.logits
    if calibrate is not None:
      logits = calibrate(hyper, labels, logits)
    return outputs._replace(logits=logits)

  return Algorithm(
    init=server.init(parts.model),
    phases=(trained,),
    sampler=parts.sampler,
    model=server.global_model,
    ready=of_whole if stats else None,
    variants=tuple(map(of_level, levels)) if settings.every_width else (),
    answer=masked,
    tier=redrawn if settings.assignment == 'dynamic' else None,
  )


def by_owners(hyper: Hyper, ctx: Ctx, weights: Tree) -> Tree:
  """Weights that are 0 on the classifier's rows of classes one has not.

  Args:
    hyper: not read.
    ctx: the client.
    weights: tree like its parameters.
  """
  del hyper

  def owned(weight):
    present = (ctx.labels > 0).reshape((1,) * (weight.ndim - 1) + (-1,))
    return weight * present

  return {
    **weights,
    'classifier': jax.tree.map(owned, weights['classifier']),
  }


def check(config) -> None:
  """Refuses settings that contradict each other.

  Raises:
    ValueError: one sentence.
  """
  settings, loss = config.algorithm, config.model.loss
  narrow.check_full_width(settings.rates)
  if loss != 'cross_entropy' and (settings.absent != 'none' or settings.owners):
    raise ValueError(
      f'algorithm.absent = {settings.absent!r} and algorithm.owners = '
      f'{settings.owners} need classes but model.loss = {loss!r}; set them to '
      'none and false'
    )
  if settings.absent != 'none' and config.loss.calibration != 'none':
    raise ValueError(
      f'loss.calibration = {config.loss.calibration!r} would be replaced by '
      f'algorithm.absent = {settings.absent!r}; set one of them to none'
    )
  fixed = settings.assignment == 'fixed'
  shares, levels = settings.proportions, len(settings.rates)
  if shares and (fixed or len(shares) != levels):
    raise ValueError(
      f'algorithm.proportions = {shares} must be one share a level under '
      f'assignment = dynamic but assignment is {settings.assignment!r} with '
      f'{levels} levels; leave it empty, or give {levels} numbers'
    )
  if not fixed and config.tiers.proportions:
    raise ValueError(
      f'tiers.proportions = {config.tiers.proportions} is not read under '
      "algorithm.assignment = 'dynamic'; set algorithm.proportions"
    )


METHOD = Method(
  name='heterofl',
  settings=HeteroFL,
  build=heterofl,
  references=(
    'Diao, Ding, Tarokh. HeteroFL: computation and communication efficient '
    'federated learning for heterogeneous clients. ICLR 2021.',
  ),
  toy=HeteroFL(rates=('1', '1/2', '1/4')),
  identity=Identity(
    HeteroFL(rates=('1',), scaler=False, absent='none', owners=False),
    'fedavg',
    FedAvg(),
    server={'weights': 'uniform'},
  ),
  needs_submodels=True,
  ranges={
    'assignment': rules.one_of('fixed', 'dynamic'),
    'absent': rules.one_of('none', *MASKS),
    'query': rules.one_of('clients', 'central'),
    'query_batch': rules.COUNT,
    'proportions': (
      lambda v: all(share > 0 for share in v),
      'give one number above 0 a level',
    ),
  },
  check=check,
)
