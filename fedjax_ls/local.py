"""What a client does: local SGD, and the gradient over all its examples."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import (
  adversarial,
  calibrations,
  losses,
  server,
  shuffle,
  transforms,
)
from fedjax_ls.calibrations import Calibration
from fedjax_ls.hyper import Client, Hyper, learning_rate
from fedjax_ls.losses import Term, View, model_loss
from fedjax_ls.models.base import Model, Outputs
from fedjax_ls.types import Ctx, Trained, Upload, Weighted

Array = jax.Array
Tree = Any
Read = Callable[[Ctx, Outputs], Outputs]

# Purposes that a client's key is folded with.
_SHUFFLE, _NOISE, _AUGMENT, _WORK = 0, 1, 2, 4


class Start(NamedTuple):
  """Where local training begins.

  Attributes:
    params: parameters of the first step.
    stats: the model's statistics.
    extra: keyword arguments of the client's optax chain on every step.
    width: what `Model.apply` is given as `width`: the share of the channels
      in use, None for all.
    kept: what `finish` wants to know again.
    anchor: parameters of the model that the client received, None if they are
      `params`.
  """

  params: Tree
  stats: Tree
  extra: dict[str, Tree] = {}  # noqa: RUF012
  width: Any = None
  kept: Tree = ()
  anchor: Tree = None


class End(NamedTuple):
  """What local training gives.

  Attributes:
    params: parameters after the last step.
    stats: the model's statistics.
    steps: number of steps taken.
    loss: mean objective over the examples seen, before each step.
    examples: number of examples seen, with repetition.
  """

  params: Tree
  stats: Tree
  steps: Array
  loss: Array
  examples: Array


def local_sgd(
  model: Model,
  *,
  terms: tuple[Term, ...] = (),
  calibrate: Calibration | None = None,
  read: Read | None = None,
  tx: Callable[[Hyper, Ctx], optax.GradientTransformation] | None = None,
  start: Callable[[Hyper, Ctx], Start] | None = None,
  finish: Callable[[Hyper, Ctx, Start, End], Upload] | None = None,
  unroll: int = 1,
) -> Callable[[Hyper, Ctx], Upload]:
  """Builds the client of every SGD-type method.

  The client starts at `start`, takes `hyper.client.amount` steps or epochs on
  the model's loss plus the sum of `terms` and of `hyper.loss.terms`, with the
  chain `tx`, and uploads what `finish` makes of it.

  Args:
    model: the network and its loss.
    terms: the method's own loss terms.
    calibrate: the method's own calibration of the logits; that of
      `hyper.loss` by default.
    read: `(ctx, outputs) -> outputs`, what the client makes of the network's
      outputs before anything else.
    tx: optax chain of a round; `hyper.client`'s optimizer by default.
    start: where to begin; at the broadcast model by default.
    finish: what to upload; the change of the model by default.
    unroll: local steps unrolled into one loop body, when their number is
      fixed.

  Returns:
    `client(hyper, ctx) -> Upload`.
  """
  tx = tx or optimizer
  start = start or from_server
  finish = finish or upload_change

  def client(hyper: Hyper, ctx: Ctx) -> Upload:
    begin = start(hyper, ctx)
    anchor = begin.params if begin.anchor is None else begin.anchor
    objective_of = objective(model, hyper, ctx, anchor, terms, calibrate, read)
    chain = optax.chain(gradient_point(hyper.client), tx(hyper, ctx))

    def step(i, carry):
      params, stats, opt, loss, examples, chosen = carry
      chosen = reshuffled(hyper.client, ctx.key, ctx.size, i, chosen)
      rows, mask = batch(hyper.client, ctx.rows, ctx.size, chosen, i)
      x = _augmented(model, ctx, rows, i)
      noise = jax.random.fold_in(jax.random.fold_in(ctx.key, _NOISE), i)

      def loss_of(params):
        return objective_of(
          params, stats, x, ctx.y[rows], mask, noise, begin.width
        )

      def grad_fn(params):
        return jax.grad(loss_of, has_aux=True)(params)[0]

      (value, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
      updates, opt = chain.update(
        grads, opt, params, value=value, grad_fn=grad_fn, **begin.extra
      )
      params = optax.apply_updates(params, updates)
      count = jnp.sum(mask).astype(value.dtype)
      loss, examples = loss + count * value, examples + count
      return params, stats, opt, loss, examples, chosen

    amount = amount_done(hyper.client, ctx.key)
    steps = num_steps(hyper.client, ctx.size, amount)
    opt = chain.init(begin.params)
    zero = _zero_like(begin.params)
    chosen = reshuffled(hyper.client, ctx.key, ctx.size, 0)
    carry = (begin.params, begin.stats, opt, zero, zero, chosen)
    params, stats, _, loss, examples, _ = _loop(steps, step, carry, unroll)
    loss = loss / jnp.maximum(examples, 1)
    steps = jnp.asarray(steps, examples.dtype)
    end = End(params, stats, steps, loss, examples)
    upload = finish(hyper, ctx, begin, end)
    before, after = (anchor, begin.stats), (params, stats)
    return upload._replace(trained=Trained(before, after, begin.width))

  return client


def objective(
  model: Model,
  hyper: Hyper,
  ctx: Ctx,
  anchor: Tree,
  terms: tuple[Term, ...] = (),
  calibrate: Calibration | None = None,
  read: Read | None = None,
) -> Callable[..., tuple[Array, Tree]]:
  """What a client minimizes on a batch.

  Args:
    model: the network and its loss.
    hyper: says what `hyper.loss` adds, and whether `hyper.adversarial` attacks.
    ctx: the client.
    anchor: parameters of the model that the client received.
    terms: the method's own terms.
    calibrate: the method's own calibration; that of `hyper.loss` by default.
    read: `(ctx, outputs) -> outputs` before it.

  Returns:
    `(params, stats, x, y, mask, key, width) -> (loss, stats)`.
  """
  every = (model_loss(model), *terms, *losses.terms(hyper.loss))
  calibrate = calibrate or calibrations.calibration(hyper.loss)

  def calibrated(outputs: Outputs) -> Outputs:
    logits = calibrate(hyper, ctx.labels, outputs.logits)
    exits = tuple(map(calibrated, outputs.exits))
    return outputs._replace(logits=logits, exits=exits)

  def on_batch(params, stats, x, y, mask, key, width=None, **half):
    outputs, stats = model.apply(
      params, stats, x, train=True, mask=mask, key=key, width=width, **half
    )
    outputs = calibrated(outputs if read is None else read(ctx, outputs))
    view = View(outputs, x, y, mask, params, anchor, ctx)
    value = every[0](hyper, view)
    for term in every[1:]:
      value = value + term(hyper, view)
    return value, stats

  if hyper.adversarial.steps == 0:
    return on_batch
  return adversarial.on_both(on_batch, model, hyper)


def full_gradient(
  model: Model, hyper: Hyper, ctx: Ctx, params: Tree, stats: Tree
) -> tuple[Tree, Array]:
  """Gradient and mean of a client's objective over all of its examples.

  Reads the rows in order, `hyper.client.batch_size` at a time, not augmented;
  `params` is the model that the client received.

  Returns:
    The gradient, shaped like `params`, and the scalar loss.
  """
  loss_of = objective(model, hyper, ctx, params)

  def step(i, carry):
    loss, total = carry
    rows, mask = _in_order(hyper.client.batch_size, ctx, i)
    (value, _), grads = jax.value_and_grad(loss_of, has_aux=True)(
      params, stats, ctx.x[rows], ctx.y[rows], mask, ctx.key
    )
    count = jnp.sum(mask).astype(value.dtype)
    total = jax.tree.map(lambda t, g: t + count * g, total, grads)
    return loss + count * value, total

  carry = (_zero_like(params), optax.tree.zeros_like(params))
  loss, total = jax.lax.fori_loop(0, _num_batches(hyper, ctx), step, carry)
  size = jnp.maximum(ctx.size, 1)
  return jax.tree.map(lambda t: t / size.astype(t.dtype), total), loss / size


def full_loss(
  model: Model, hyper: Hyper, ctx: Ctx, params: Tree, stats: Tree
) -> Array:
  """Mean of the model's loss over all of a client's examples, in eval mode."""

  def step(i, loss):
    rows, mask = _in_order(hyper.client.batch_size, ctx, i)
    outputs, _ = model.apply(params, stats, ctx.x[rows], mask=mask)
    return loss + jnp.sum(jnp.where(mask, model.loss(outputs, ctx.y[rows]), 0))

  batches = _num_batches(hyper, ctx)
  total = jax.lax.fori_loop(0, batches, step, _zero_like(params))
  return total / jnp.maximum(ctx.size, 1)


def one_batch(client: Client, ctx: Ctx) -> Ctx:
  """The client as if a random batch were all of its examples."""
  chosen = reshuffled(client, ctx.key, ctx.size, 0)
  rows, _ = batch(client, ctx.rows, ctx.size, chosen, 0)
  size = jnp.minimum(ctx.size, client.batch_size)
  return ctx._replace(rows=rows, size=size)


def optimizer(hyper: Hyper, ctx: Ctx) -> optax.GradientTransformation:
  """The client optimizer of a round, from `hyper.client`.

  Order: clip the gradient, add weight decay, momentum or Adam, learning rate.

  Raises:
    ValueError: `client.optimizer` is unknown.
  """
  client = hyper.client
  links = [
    optax.clip_by_global_norm(client.clip_norm)
    if client.clip
    else optax.identity(),
    optax.add_decayed_weights(client.weight_decay),
  ]
  match client.optimizer:
    case 'sgd':
      pass
    case 'momentum':
      links.append(optax.trace(client.momentum))
    case 'adam':
      links.append(optax.scale_by_adam())
    case _:
      raise ValueError(
        f'client.optimizer is {client.optimizer!r}; use sgd, momentum or adam.'
      )
  rate = learning_rate(client, ctx.round)
  return optax.chain(*links, optax.scale_by_learning_rate(rate))


def gradient_point(client: Client) -> optax.GradientTransformationExtraArgs:
  """Where the gradients are taken: here, or at SAM's worst point."""
  if not client.sam:
    return optax.with_extra_args_support(optax.identity())
  return transforms.sharpness_aware(client.rho)


def from_server(hyper: Hyper, ctx: Ctx) -> Start:
  """Starts at the broadcast model."""
  del hyper
  return Start(ctx.message.params, ctx.message.stats)


def upload_change(hyper: Hyper, ctx: Ctx, begin: Start, end: End) -> Upload:
  """Uploads end minus server, and the statistics, with the client's weight."""
  del begin
  weight = server.client_weight(hyper, ctx)
  change = optax.tree.sub(end.params, ctx.message.params)
  return Upload(
    summed={
      'delta': Weighted(change, weight),
      'stats': Weighted(end.stats, weight),
    },
    metrics=train_loss(end),
  )


def train_loss(end: End) -> dict[str, Weighted]:
  """The local objective, averaged over the examples that clients see."""
  return {'train/loss': Weighted(end.loss, end.examples)}


def amount_done(client: Client, key: Array) -> int | Array:
  """Steps or epochs that a client takes in a round: all, or a straggler's part.

  Args:
    client: says how much there is to do, and who does less.
    key: the client's key of this round.
  """
  if not client.partial_work:
    return client.amount
  late, part = jax.random.split(jax.random.fold_in(key, _WORK))
  some = jax.random.randint(part, (), 1, client.amount + 1)
  straggles = jax.random.uniform(late) < client.stragglers
  return jnp.where(straggles, some, client.amount)


def num_steps(
  client: Client, size: Array, amount: int | Array | None = None
) -> int | Array:
  """Local steps of a client with `size` examples; 0 for a dead slot's epochs.

  Args:
    client: the unit, and the size of a step.
    size: how many examples it has.
    amount: steps or epochs that it takes, `client.amount` by default.

  Raises:
    ValueError: `client.unit` is unknown.
  """
  amount = client.amount if amount is None else amount
  match client.unit:
    case 'steps':
      return amount
    case 'epochs':
      return amount * _steps_per_epoch(client, size)
  raise ValueError(f'client.unit is {client.unit!r}; use steps or epochs.')


def examples_seen(client: Client, size: Array) -> Array:
  """Examples that all local steps of a client see, with repetition.

  >>> print(examples_seen(Client(batch_size=4, unit='steps', amount=5), 10))
  18
  """
  per_epoch = jnp.maximum(_steps_per_epoch(client, size), 1)
  epochs, steps = divmod(num_steps(client, size), per_epoch)
  epoch = jnp.minimum(per_epoch * client.batch_size, size)
  return epochs * epoch + jnp.minimum(steps * client.batch_size, size)


def reshuffled(
  client: Client,
  key: Array,
  size: Array,
  step: int | Array,
  chosen: Array | None = None,
) -> Array:
  """The random choices of a step's epoch, for `batch`.

  Args:
    client: the batch size, and what becomes of the last batch.
    key: the client's key of this round.
    size: how many examples it has.
    step: number of the local step.
    chosen: those of the step before, which are kept within an epoch; None to
      draw them.
  """
  per_epoch = jnp.maximum(_steps_per_epoch(client, size), 1)

  def drawn():
    epochs = jax.random.fold_in(key, _SHUFFLE)
    return shuffle.choices(jax.random.fold_in(epochs, step // per_epoch))

  if chosen is None:
    return drawn()
  return jax.lax.cond(step % per_epoch == 0, drawn, lambda: chosen)


def batch(
  client: Client, rows: Array, size: Array, chosen: Array, step: int | Array
) -> tuple[Array, Array]:
  """Rows and mask of a local step.

  Epochs follow one another, each a new permutation of the client's rows cut
  into batches; the last one is short (masked) or left out.

  Args:
    client: the batch size, and what becomes of the last batch.
    rows: `[L]` the client's rows.
    size: how many of them are valid.
    chosen: the epoch's random choices, see `reshuffled`.
    step: number of the local step.

  Returns:
    `rows[B]` and `mask[B]`.
  """
  per_epoch = jnp.maximum(_steps_per_epoch(client, size), 1)
  position = step % per_epoch * client.batch_size
  position = position + jnp.arange(client.batch_size)
  mask = position < size
  size = jnp.maximum(size, 1)
  where = shuffle.permute_by(chosen, jnp.minimum(position, size - 1), size)
  return rows[where], mask


def _steps_per_epoch(client: Client, size: Array) -> Array:
  match client.last_batch:
    case 'masked':
      return -(-size // client.batch_size)
    case 'dropped':
      return size // client.batch_size
  raise ValueError(
    f'client.last_batch is {client.last_batch!r}; use masked or dropped.'
  )


def _augmented(model: Model, ctx: Ctx, rows: Array, step: Array) -> Array:
  if model.augment is None:
    return ctx.x[rows]
  key = jax.random.fold_in(jax.random.fold_in(ctx.key, _AUGMENT), step)
  return model.augment(key, ctx.x[rows])


def _num_batches(hyper: Hyper, ctx: Ctx) -> Array:
  return -(-ctx.size // hyper.client.batch_size)


def _in_order(batch_size: int, ctx: Ctx, i: Array) -> tuple[Array, Array]:
  position = i * batch_size + jnp.arange(batch_size)
  mask = position < ctx.size
  return ctx.rows[jnp.where(mask, position, 0)], mask


def _loop(steps, step, carry, unroll: int):
  """A scan when the number of steps is fixed, else a loop that stops early."""
  if isinstance(steps, int):
    body = lambda c, i: (step(i, c), None)  # noqa: E731
    return jax.lax.scan(body, carry, jnp.arange(steps), unroll=unroll)[0]
  return jax.lax.fori_loop(0, steps, step, carry)


def _zero_like(tree: Tree) -> Array:
  """A zero of the parameters' type, varying over the mesh as they do."""
  leaf = jax.tree.leaves(tree)[0]
  return jnp.zeros_like(leaf, shape=())
