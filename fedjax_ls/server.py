"""The server's side of a round: its state, its optimizer, what it sends."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_ls import hyper as hyper_lib
from fedjax_ls import transforms
from fedjax_ls.data.federation import Federation
from fedjax_ls.models.base import Model
from fedjax_ls.types import Cohort, Ctx, Reduced

Tree = Any


class ServerState(NamedTuple):
  """State of the server.

  Attributes:
    params: the global model's parameters.
    stats: what is no parameter (BatchNorm's running statistics).
    opt: state of the server optimizer.
    extra: the method's own trees.
  """

  params: Tree
  stats: Tree
  opt: Tree
  extra: Tree = ()


class Message(NamedTuple):
  """What a client receives: the model and the method's own trees."""

  params: Tree
  stats: Tree
  extra: Tree = ()


def start(
  model: Model, hyper: hyper_lib.Hyper, key: jax.Array, extra: Tree = ()
) -> ServerState:
  """The server before the first round, with a newly initialized model.

  Args:
    model: the network.
    hyper: settings; reads `hyper.server`.
    key: random key of the initial parameters.
    extra: the method's own trees.

  Returns:
    The state.
  """
  params, stats = model.init(key)
  opt = optimizer(hyper.server).init(params)
  return ServerState(params, stats, opt, extra)


def init(model: Model):
  """`Algorithm.init` of a method that keeps nothing but the model."""

  def stateless(hyper: hyper_lib.Hyper, key: jax.Array, federation: Federation):
    del federation
    return start(model, hyper, key), ()

  return stateless


def send(hyper, server: ServerState, round) -> Message:
  """Broadcasts the model and the method's own trees."""
  del hyper, round
  return Message(server.params, server.stats, server.extra)


def global_model(server: ServerState) -> tuple[Tree, Tree]:
  """The model that is evaluated: `(params, stats)`."""
  return server.params, server.stats


def client_weight(hyper: hyper_lib.Hyper, ctx: Ctx) -> jax.Array:
  """What a client counts for: n_k or 1, by `server.weights`.

  Args:
    hyper: settings; reads `hyper.server` and the method's class.
    ctx: the client's; reads `ctx.size`, its number of examples.

  Returns:
    A float scalar.

  Raises:
    ValueError: `server.weights` is unknown.
  """
  match hyper_lib.weights(hyper.server, hyper.method):
    case 'size':
      return ctx.size.astype(float)
    case 'uniform':
      return jnp.ones(())
  raise ValueError(
    f'server.weights is {hyper.server.weights!r}; use method, size or uniform.'
  )


def optimizer(server: hyper_lib.Server) -> optax.GradientTransformation:
  """The server optimizer, on the pseudo-gradient.

  Raises:
    ValueError: `server.optimizer` is unknown.
  """
  match server.optimizer:
    case 'sgd':
      rule = optax.identity()
    case 'momentum':
      rule = optax.trace(server.momentum)
    case 'damped_momentum':
      rule = transforms.damped_trace(server.momentum)
    case 'adagrad' | 'adam' | 'yogi' as name:
      rule = transforms.adaptive(
        name,
        server.b1,
        server.b2,
        server.tau,
        server.v0,
        server.bias_correction,
      )
    case _:
      raise ValueError(
        f'server.optimizer is {server.optimizer!r}; use sgd, momentum, '
        'damped_momentum, adagrad, adam or yogi.'
      )
  return optax.chain(rule, optax.scale_by_learning_rate(server.learning_rate))


def step(
  hyper: hyper_lib.Hyper,
  server: ServerState,
  reduced: Reduced,
  stacked: Tree,
  cohort: Cohort,
) -> ServerState:
  """`Phase.server` of averaging: a step along the mean of `delta`.

  Args:
    hyper: settings; reads `hyper.server`.
    server: the state.
    reduced: with `delta` (change of the parameters) and `stats`.
    stacked: not read.
    cohort: not read.
  """
  del stacked, cohort
  return move(hyper, server, reduced, reduced.mean['delta'])


def move(
  hyper: hyper_lib.Hyper, server: ServerState, reduced: Reduced, delta: Tree
) -> ServerState:
  """One step of the server optimizer along a change of the parameters.

  Where no client holds an element, its parameter and its optimizer state stay
  as they are: a zero pseudo-gradient would still move them under momentum.
  Only the number of steps that bias correction counts goes on for all.

  Args:
    hyper: settings; reads `hyper.server`.
    server: the state.
    reduced: says what is held, and has the mean of `stats`.
    delta: the change to follow.
  """
  held = reduced.held['delta']
  tx = optimizer(hyper.server)
  updates, opt = tx.update(optax.tree.scale(-1, delta), server.opt)
  params = optax.apply_updates(server.params, updates)
  held_opt = optax.tree.map_params(
    tx, lambda _, h: h, opt, held, transform_non_params=lambda _: True
  )
  return server._replace(
    params=where(held, params, server.params),
    opt=where(held_opt, opt, server.opt),
    stats=where(reduced.held['stats'], reduced.mean['stats'], server.stats),
  )


def where(held: Tree, new: Tree, old: Tree) -> Tree:
  """`new` where `held`, else `old`, leaf by leaf."""
  return jax.tree.map(jnp.where, held, new, old)
