"""What a network costs: multiply-accumulates, parameters and bytes, and what
clients send and receive.

XLA's own cost analysis counts the body of a loop once and a masked network at
full width, so the count is taken from the jaxpr of the small network itself.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

from fedjax_ls.data.checks import require
from fedjax_ls.models.base import Model
from fedjax_ls.models.flax_model import flax_model
from fedjax_ls.models.nets import Net
from fedjax_ls.models.submodels import Submodels


class Cost(NamedTuple):
  """Of one network.

  Attributes:
    macs: multiply-accumulates of the forward pass of one example.
    parameters: number of parameters.
    bytes: of parameters and statistics, what it takes to send them.
  """

  macs: int
  parameters: int
  bytes: int


class Traffic(NamedTuple):
  """What a client of one tier receives and sends in a round, in numbers.

  Scalars, such as losses, are not counted, and what depends on a client's data
  (HeteroFL's rows of the classifier) is counted as for all classes.

  Attributes:
    received: numbers of 32 bits from the server.
    update: entries of each array of its update, before the uplink.
    further: numbers of 32 bits that it sends besides.
  """

  received: int
  update: tuple[int, ...]
  further: int = 0


def one_model(settings: Any, tier: int, params: Any, stats: Any) -> Traffic:
  """One model each way, which is what most methods exchange.

  Args:
    settings: not read.
    tier: not read.
    params: shapes of the parameters of the tier's network.
    stats: of its statistics.

  >>> from fedjax_ls.models import MLP
  >>> shapes = shapes_of(MLP(10, hidden=(8,)), jnp.ones((1, 4)))
  >>> one_model(None, 0, *shapes[0])
  Traffic(received=112, update=(80, 32), further=0)
  """
  del settings, tier
  sizes = tuple(leaf.size for leaf in jax.tree.leaves(params))
  further = numbers_in(stats)
  return Traffic(sum(sizes) + further, sizes, further)


def and_a_tree(settings: Any, tier: int, params: Any, stats: Any) -> Traffic:
  """One model and one more tree like its parameters each way."""
  model, more = one_model(settings, tier, params, stats), numbers_in(params)
  return Traffic(model.received + more, model.update, model.further + more)


def numbers_in(tree: Any) -> int:
  """Entries of all arrays of a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def costs(
  network: nn.Module | Model, example: Any, submodels: Submodels | None = None
) -> tuple[Cost, ...]:
  """Costs of the network that each tier trains.

  Args:
    network: what every client trains where there are no submodels.
    example: a batch `[B, ...]` as stored in the federation; only its shape and
      type are read.
    submodels: slim versions of the network, one a tier.

  Returns:
    One cost a tier, or one for all without submodels.

  Raises:
    ValueError: as in `macs`.

  >>> from fedjax_ls.models import MLP, width_submodels
  >>> net, x = MLP(10, hidden=(8,)), jnp.ones((1, 4))
  >>> for tier in costs(net, x, width_submodels(net, x, ('1', '1/4'))):
  ...   print(tier)
  Cost(macs=112, parameters=112, bytes=448)
  Cost(macs=28, parameters=28, bytes=112)
  """
  return tuple(cost(own, example) for own in _networks(network, submodels))


def shapes_of(
  network: nn.Module | Model, example: Any, submodels: Submodels | None = None
) -> tuple[tuple[Any, Any], ...]:
  """Shapes `(params, stats)` of the networks of `costs`, one a tier."""
  x = _one(example)
  return tuple(_shapes(_model(n, x)) for n in _networks(network, submodels))


def cost(network: nn.Module | Model, example: Any) -> Cost:
  """Cost of one network in evaluation mode.

  Args:
    network: a flax.linen module, or a `Model`.
    example: a batch `[B, ...]` as stored in the federation; only its shape and
      type are read.

  Returns:
    The cost; the same however a network of `fedjax_ls.models` computes its
    convolutions and norms.

  Raises:
    ValueError: as in `macs`.
  """
  x = _one(example)
  params, stats = _shapes(_model(network, x))
  counted = _model(_plain(network), x)
  leaves = jax.tree.leaves((params, stats))
  return Cost(
    macs(counted.apply, *_shapes(counted), x),
    numbers_in(params),
    sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
  )


def macs(function: Callable[..., Any], *args: Any) -> int:
  """Multiply-accumulates of the matrix products and convolutions in a call.

  A product `[M, K] @ [K, N]` has M K N; a convolution has one for each output
  and each weight that it sees, zeros of the padding included.  What is
  elementwise (biases, norms, activations, pooling) has none.  The body of a
  scan counts as often as it runs, of a `cond` the dearest branch counts.

  Args:
    function: what to count; it is traced, not run.
    *args: its arguments; only shapes and types are read.

  Returns:
    The number.

  Raises:
    ValueError: a `while` loop has products but no fixed number of turns.

  >>> def turns(x):
  ...   return jax.lax.scan(lambda c, _: (c @ c, None), x, length=10)[0]
  >>> macs(turns, jnp.ones((3, 3)))
  270
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _networks(network, submodels: Submodels | None) -> list[Any]:
  """What each tier trains, one for all without submodels."""
  if submodels is None:
    return [network]
  return [submodels.module(tier) for tier in range(len(submodels.rates))]


def _one(example: Any) -> jax.ShapeDtypeStruct:
  """A batch of one example."""
  shape = (1, *jnp.shape(example)[1:])
  return jax.ShapeDtypeStruct(shape, jnp.result_type(example))


def _model(network, x):
  return network if isinstance(network, Model) else flax_model(network, x)


def _shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0))


def _plain(network):
  """The network with convolutions as such and without norms.

  The other lowering spells out depthwise convolutions in elementwise products,
  and norms take their means by matrix products.
  """
  if not isinstance(network, Net):
    return network
  return network.clone(lowering='native', norm='none', norm_where='layers')


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(map(_of_equation, jaxpr.eqns))


def _of_equation(equation: core.JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  inner = [_count(jaxpr) for jaxpr in _jaxprs(params.values())]
  match name:
    case 'dot_general':
      (contracted, _), _ = params['dimension_numbers']
      return _product(equation, 0, contracted)
    case 'conv_general_dilated':
      return _product(equation, 1, params['dimension_numbers'].rhs_spec[1:])
    case 'scan':
      return params['length'] * sum(inner)
    case 'cond':
      return max(inner)
    case 'while':
      require(
        not any(inner),
        'the network has matrix products in a while loop, whose number of '
        'turns is unknown; write it as a scan to count its cost',
      )
  return sum(inner)


def _product(equation: Any, operand: int, axes: Any) -> int:
  """Outputs times the size of the operand's `axes`."""
  shape = equation.invars[operand].aval.shape
  outputs = math.prod(equation.outvars[0].aval.shape)
  return outputs * math.prod(shape[axis] for axis in axes)


def _jaxprs(values: Any) -> Iterator[core.Jaxpr]:
  for value in values:
    if isinstance(value, core.ClosedJaxpr):
      yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
      yield value
    elif isinstance(value, tuple | list):
      yield from _jaxprs(value)
