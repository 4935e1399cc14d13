"""HeteroFL: assignment, masks, Scaler, statistics, its two accuracies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import algorithms, build, evaluate, label_masks, narrow
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms import heterofl
from fedjax_ls.algorithms.heterofl import HeteroFL
from fedjax_ls.data import federate
from fedjax_ls.models import (
  MLP,
  PooledCNN,
  PreResNet,
  ResNet,
  Transformer,
  Width,
  flax_model,
  query_stats,
  recompute_stats,
  width_submodels,
)
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.networks import filled, near, normal, quick_jit, to_numpy

pytestmark = pytest.mark.usefixtures('x64')

TOY = algorithms.find('heterofl').toy


def error(settings=TOY, **execution):
  p = toy.problem('heterofl', settings)
  got = oracles.weights_of(toy.run(p, **execution).server.params)
  expected = oracles.ORACLES['heterofl'](p)
  pairs = zip(got, expected, strict=True)
  return max(np.abs(a - b).max() for a, b in pairs)


@pytest.mark.parametrize(
  'change',
  [
    {'assignment': 'dynamic', 'proportions': (1.0, 2.0, 3.0)},
    {'absent': 'exclude'},
    {'absent': 'none', 'owners': False, 'scaler': False},
  ],
  ids=str,
)
def test_options_agree_with_their_oracle(change):
  assert error(dataclasses.replace(TOY, **change)) < 1e-9


def test_small_networks_do_what_masked_ones_do():
  settings = dataclasses.replace(TOY, assignment='dynamic')
  p = toy.problem('heterofl', settings)
  assert error(settings, slim=True) < 1e-9
  near(to_numpy(toy.run(p, slim=True).tally), to_numpy(toy.run(p).tally), 1e-9)


# --- mutants ----------------------------------------------------------------


def test_leaving_out_the_scaler(monkeypatch):
  phase = narrow.phase
  monkeypatch.setattr(
    narrow, 'phase', lambda *a, **k: phase(*a, **{**k, 'scaler': False})
  )
  assert error() > 1e-4


def test_excluding_in_place_of_zeroing(monkeypatch):
  monkeypatch.setitem(heterofl.MASKS, 'zero', label_masks.exclude)
  assert error() > 1e-4


def test_counting_rows_of_absent_classes(monkeypatch):
  monkeypatch.setattr(heterofl, 'by_owners', lambda hyper, ctx, w: w)
  assert error() > 1e-4


def test_drawing_tiers_by_the_round_alone(monkeypatch):
  settings = dataclasses.replace(TOY, assignment='dynamic')
  assert error(settings) < 1e-9
  original = round_lib._tiers

  def same(algorithm, state, ids, tier):
    return original(algorithm, state, jnp.zeros_like(ids), tier)

  monkeypatch.setattr(round_lib, '_tiers', same)
  assert error(settings) > 1e-4


# --- assignment -------------------------------------------------------------


def test_dynamic_levels_follow_the_proportions():
  settings = dataclasses.replace(
    TOY, assignment='dynamic', proportions=(1.0, 2.0, 1.0)
  )
  p = toy.problem('heterofl', settings)
  many = p.federation._replace(
    size=jnp.ones(4000, int), tier=jnp.zeros(4000, int)
  )
  drawn = [
    np.asarray(
      round_lib.with_tiers(
        p.algorithm, many, p.state._replace(round=jnp.int32(t))
      ).tier
    )
    for t in (0, 0, 1)
  ]
  np.testing.assert_array_equal(drawn[0], drawn[1])
  assert 0.5 < (drawn[0] != drawn[2]).mean() < 0.75
  shares = np.bincount(drawn[0]) / 4000
  np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.03)


# --- Scaler -----------------------------------------------------------------


@pytest.mark.parametrize(
  'net',
  [
    MLP(3, hidden=(6, 5), use_bias=True),
    PooledCNN(3, channels=(5, 4), norm_before=True),
    ResNet(3, channels=(5, 4), blocks=(1, 1), norm_before=True),
    PreResNet(3, channels=(5, 4), blocks=(1, 1)),
    Transformer(3, dropout=0.0, blocks=1, features=6, hidden=8, heads=2,
                head_features=4),
  ],
  ids=lambda net: type(net).__name__,
)  # fmt: skip
def test_the_scaler_of_a_masked_network_is_that_of_the_small_one(net):
  text = isinstance(net, Transformer)
  x = jnp.arange(8).reshape(2, 4) % 3 if text else normal(2, 8, 8, 2)
  params = filled(net, x, jnp.float64)[0]
  sub = width_submodels(net, x, ('1', '3/5'))
  masked = net.clone(scaler=Width(1, 1))
  small = sub.module(1).clone(scaler=Width(3, 5))

  @quick_jit
  def run(params):
    full, cut = {'params': params}, {'params': sub.slim(params, 1)}
    width = sub.width(1)
    return (
      [masked.apply(full, x, train=t, width=width).logits for t in (1, 0)],
      [small.apply(cut, x, train=t).logits for t in (1, 0)],
      masked.apply(full, x, train=True).logits,
      net.apply(full, x).logits,
    )

  ours, theirs, whole, plain = to_numpy(run(params))
  near(ours, theirs, 1e-9)
  near(whole, plain, 1e-9)
  assert np.abs(ours[0] - ours[1]).max() > 1e-3


def test_the_scaler_comes_before_the_norm():
  """Which takes the scale away again, up to eps, and not that of the bias."""
  x = normal(6, 8, 8, 2)
  net = PooledCNN(3, channels=(4,), norm='bn', norm_before=True, use_bias=True)
  params, stats = filled(net, x, jnp.float64)
  variables = {'params': params, 'batch_stats': stats}
  plain, scaled = (
    n.apply(variables, x, train=True, mutable='batch_stats')
    for n in (net, net.clone(scaler=Width(1, 4)))
  )
  near(plain[0].logits, scaled[0].logits, 1e-4)
  mean = [v[1]['batch_stats']['norm0']['mean'] for v in (plain, scaled)]
  old = 0.9 * stats['norm0']['mean']
  near(mean[1] - old, 4 * (mean[0] - old), 1e-9)


# --- statistics and metrics -------------------------------------------------


def with_batch_norm(**change):
  """The toy problem with BatchNorm, after two rounds, and its model."""
  settings = dataclasses.replace(TOY, every_width=True, query_batch=3, **change)
  p = toy.problem('heterofl', settings)
  net = MLP(hidden=(6,), num_classes=3, norm='bn', norm_affine=True)
  sub = width_submodels(net, p.federation.x[:1], settings.rates)
  model = toy.model(net)
  parts = algorithms.Parts(model, toy.given(), submodels=sub)
  algorithm = heterofl.heterofl(settings, parts)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  p = p._replace(algorithm=algorithm, state=state)
  return p._replace(state=toy.run(p, 2)), model


def asked(p, w, channels, eps=1e-5):
  """Statistics of the hidden layer, client by client in batches of 3."""
  d = oracles.Data(p)
  means, variances = [], []
  for i in range(len(d.size)):
    x, _ = d.own(i)
    for first in range(0, len(x), 3):
      h = np.maximum(x[first : first + 3] @ w[0][:, :channels], 0)
      means.append(h.mean(0))
      variances.append(h.var(0, ddof=1) if len(h) > 1 else h.var(0))
  return np.mean(means, 0), np.mean(variances, 0)


def logits_of(p, x, channels=6):
  w = oracles.weights_of(p.state.server.params)
  mean, var = asked(p, w, channels)
  norm = to_numpy(p.state.server.params['norm0'])
  h = np.maximum(x @ w[0][:, :channels], 0)
  h = (h - mean) / np.sqrt(var + 1e-5)
  h = h * norm['scale'][:channels] + norm['bias'][:channels]
  return h @ w[1][:channels]


def test_global_local_and_narrow_accuracy_are_those_of_a_loop():
  p, model = with_batch_norm()
  d = oracles.Data(p)
  random = np.random.RandomState(3)
  x, y = random.randn(40, 4) + 2 * np.eye(3, 4)[np.arange(40) % 3], None
  y = (np.arange(40) % 3).astype(np.int32)
  rows = [np.flatnonzero(np.arange(40) % 7 == i) for i in range(6)]
  test = federate(x, y, rows, num_classes=3)
  test = jax.tree.map(jnp.asarray, test)
  judge = jax.jit(evaluate.evaluate, static_argnums=(0, 1))
  got = judge(p.algorithm, model, p.hyper, p.state, p.federation, test)

  def judged(logits, y):
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return (logits.argmax(1) == y).mean(), -log_p[np.arange(len(y)), y].mean()

  for name, channels in (('', 6), ('@1/2', 3), ('@1/4', 2)):
    accuracy, loss = judged(logits_of(p, x, channels), y)
    near(got[f'accuracy{name}'], accuracy, 1e-6)
    near(got[f'loss{name}'], loss, 1e-9)
  right = total = 0.0
  for i, mine in enumerate(rows):
    present = np.bincount(d.own(i)[1], minlength=3) > 0
    logits = np.where(present[None], logits_of(p, x[mine]), 0)
    accuracy, loss = judged(logits, y[mine])
    right, total = right + accuracy * len(mine), total + loss * len(mine)
  near(got['local/accuracy'], right / sum(map(len, rows)), 1e-6)
  near(got['local/loss'], total / sum(map(len, rows)), 1e-9)
  assert got['local/accuracy'] != got['accuracy']
  assert 'accuracy@1' not in got


def test_a_central_query_mixes_the_clients():
  settings = {'query': 'central'}
  p, model = with_batch_norm(**settings)
  ready = p.algorithm.ready(p.hyper, p.state.server, p.federation)[1]
  x, order = p.federation.x, jax.random.permutation(jax.random.key(0), 40)
  params, stats = p.state.server.params, p.state.server.stats
  near(ready, recompute_stats(model, params, stats, x[order], 3), 1e-9)
  apart = query_stats(
    model, params, stats, x, p.federation.index, p.federation.size, 3
  )
  assert np.abs(ready['norm0']['mean'] - apart['norm0']['mean']).max() > 1e-3


def test_a_query_augments_as_training_does():
  x = normal(6, 3)
  net = MLP(2, hidden=(4,), norm='bn')
  params, stats = filled(net, x)
  index, size = jnp.arange(6)[None], jnp.array([6])
  plain, moved = (
    query_stats(
      flax_model(net, x, **options), params, stats, at, index, size, 2
    )
    for options, at in (
      ({}, x + 1),
      ({'augment': lambda key, x: x + 1}, x),
    )
  )
  near(plain, moved, 1e-6)
  assert query_stats(flax_model(net, x), params, {}, x, index, size, 2) == {}


def test_without_batch_norm_nothing_is_asked():
  p = toy.problem('heterofl')
  assert p.algorithm.ready is None
  assert p.algorithm.variants == ()


def test_a_network_must_name_its_classifier():
  class Other(MLP):
    def _classified(self, x):
      return super()._classified(x)._replace(logits=x)

  x = normal(1, 4)
  net = Other(3)
  sub = width_submodels(net, x, ('1',))
  shapes = {'dense0': sub.shapes[0]['dense0']}
  sub = sub._replace(shapes=(shapes, {}))
  parts = algorithms.Parts(flax_model(net, x), toy.given(), submodels=sub)
  with pytest.raises(ValueError, match=r'called classifier .* has dense0;'):
    heterofl.heterofl(HeteroFL(rates=('1',)), parts)


# --- settings that are refused ----------------------------------------------

WRONG = [
  ({'rates': ('1/2', '1/4')}, {}, 'has no 1, so that nobody trains'),
  ({'assignment': 'random'}, {}, 'choose fixed or dynamic'),
  ({'absent': 'ones'}, {}, 'choose none or zero or exclude'),
  ({'query_batch': 0}, {}, 'choose 1 or more'),
  ({'proportions': (1.0, 1.0, 1.0)}, {}, "assignment is 'fixed' with 3 levels"),
  (
    {'assignment': 'dynamic', 'proportions': (1.0, 1.0)},
    {},
    "assignment is 'dynamic' with 3 levels",
  ),
  (
    {'assignment': 'dynamic', 'proportions': (1.0, 1.0, 0.0)},
    {},
    'above 0 a level',
  ),
  (
    {'assignment': 'dynamic'},
    {'tiers': fl.config.Tiers(proportions=(1.0, 2.0, 3.0))},
    'tiers.proportions = .* is not read',
  ),
  (
    {},
    {'loss': fl.hyper.Loss(calibration='exclude')},
    "loss.calibration = 'exclude' would be replaced",
  ),
  (
    {},
    {'model': fl.config.Model(loss='squared_error')},
    "need classes but model.loss = 'squared_error'",
  ),
]


@pytest.mark.parametrize(('change', 'fields', 'message'), WRONG)
def test_settings_that_are_refused(change, fields, message):
  config = fl.Config(algorithm=dataclasses.replace(TOY, **change), **fields)
  with pytest.raises(fl.ConfigError, match=message) as caught:
    validate(config)
  assert '\n' not in str(caught.value)


def test_static_batch_norm_needs_the_examples_on_the_device():
  config = fl.Config(
    algorithm=TOY,
    model=fl.config.Model(norm='bn'),
    execution=fl.config.Execution(data='host'),
  )
  with pytest.raises(fl.ConfigError, match=r'heterofl with model.norm'):
    build.prepare(validate(config))
