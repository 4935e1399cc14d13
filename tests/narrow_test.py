"""Narrow clients: small networks by themselves do what masked ones do."""

import jax
import numpy as np
import pytest

from fedjax_ls import algorithms
from fedjax_ls import round as round_lib
from fedjax_ls.data import federate
from fedjax_ls.models import (
  MLP,
  PflCNN,
  PooledCNN,
  PreResNet,
  Transformer,
  cut_out,
  flax_model,
  width_submodels,
)
from tests import toy
from tests.networks import filled, near, normal, quick_jit, to_numpy

pytestmark = pytest.mark.usefixtures('x64')

RATES = ('1', '3/5', '1/4')


def images(net, name='width', **fields):
  """Six clients of three tiers on random images, momentum, decay and clip."""
  p = toy.problem(name, client={'clip': True, 'clip_norm': 1.0, **fields})
  x = np.asarray(normal(len(p.federation.x), 4, 4, 2), float)
  parts = [np.asarray(p.federation.index[i, :n])
           for i, n in enumerate(toy.SIZES)]  # fmt: skip
  data = federate(x, np.asarray(p.federation.y), parts, num_classes=3,
                  tier=np.arange(6) % 3)  # fmt: skip
  data = jax.tree.map(jax.numpy.asarray, data)
  made = flax_model(net, x[:1])
  model = made._replace(
    init=lambda key: jax.tree.map(lambda a: a.astype(float), made.init(key))
  )
  method = algorithms.find(name)
  settings = method.settings(rates=RATES)
  parts = algorithms.Parts(
    model, toy.given(), submodels=width_submodels(net, x[:1], RATES)
  )
  algorithm = method.build(settings, parts)
  numbers = p.hyper._replace(method=settings)
  state = round_lib.init(algorithm, numbers, data, jax.random.key(1), seed=0)
  return p._replace(
    algorithm=algorithm, hyper=numbers, federation=data, state=state
  )


USUAL = {'use_bias': True, 'norm_affine': True, 'lowering': 'matmul'}
NETS = {
  'none': MLP(3, hidden=(7, 5), **USUAL),
  'bn': PooledCNN(3, channels=(4, 6), norm='bn', norm_before=True, **USUAL),
  'gn': PreResNet(
    3, channels=(5,), blocks=(1,), norm='gn', norm_before=True, **USUAL
  ),
}


@pytest.mark.parametrize('norm', NETS)
def test_rounds_of_small_networks_are_those_of_masked_ones(norm):
  """Two rounds with everything that moves weights without a gradient."""
  p = images(NETS[norm])
  masked, small = (
    to_numpy(toy.run(p, 2, slim=slim)._replace(sampler=()))
    for slim in (False, True)
  )
  near(small, masked, 1e-9)
  before, after = map(
    jax.tree.leaves, (p.state.server.params, masked.server.params)
  )
  moved = [np.abs(a - b).max() for a, b in zip(before, after, strict=True)]
  kernels = [m for m, a in zip(moved, before, strict=True) if a.ndim > 1]
  assert min(kernels) > 1e-4


def test_small_networks_on_a_mesh():
  p = toy.problem('width')
  mesh = round_lib.clients_mesh(2)
  small = toy.run(p, slim=True, mesh=mesh)
  near(to_numpy(small.server), to_numpy(toy.run(p).server), 1e-9)


def test_several_clients_at_a_time_are_masked():
  p = toy.problem('width')

  def refuse(hyper, ctx):
    raise AssertionError

  (phase,) = p.algorithm.phases
  algorithm = p.algorithm._replace(phases=(phase._replace(alone=refuse),))
  p = p._replace(algorithm=algorithm)
  toy.run(p, slim=True, chunk=3)
  with pytest.raises(AssertionError):
    toy.run(p, slim=True, chunk=1)


@pytest.mark.parametrize(
  ('net', 'x', 'random'),
  [
    (PflCNN(3), np.zeros((1, 8, 8, 1)), True),
    (PflCNN(3, dropout=(0.0, 0.0)), np.zeros((1, 8, 8, 1)), False),
    (Transformer(3), np.zeros((1, 4), np.int32), True),
    (MLP(3), np.zeros((1, 4)), False),
  ],
)
def test_dropout_is_noticed(net, x, random):
  """It draws other numbers in a small network: such clients stay masked."""
  assert width_submodels(net, x, ('1',)).random == random


@pytest.mark.parametrize('norm', NETS)
def test_a_network_that_is_cut_out_gives_the_logits_of_the_masked_one(norm):
  net = NETS[norm]
  x = normal(5, 4, 4, 2).astype(float)
  params, stats = filled(net, x)
  submodels = width_submodels(net, x, RATES)
  model = flax_model(net, x)

  @quick_jit
  def both(params, stats):
    result = []
    for tier in range(len(RATES)):
      small, variables = cut_out(submodels, params, stats, tier)
      masked, _ = model.apply(params, stats, x, width=submodels.width(tier))
      result.append((small.apply(variables, x).logits, masked.logits))
    return result

  for ours, masked in to_numpy(both(params, stats)):
    near(ours, masked, 1e-9)
  small, variables = cut_out(submodels, params, stats, 2)
  shapes = jax.eval_shape(small.init, jax.random.key(0), x)
  assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes)
