"""DepthFL: with FedAvg, how it is judged, what nobody holds, and wrong ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_ls as fl
from configs import digits
from fedjax_ls import algorithms, build, evaluate, local, models, transforms
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms import depthfl, feddyn
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.breaking import error, patched_server_step
from tests.oracles.depthfl import run, softmax

pytestmark = pytest.mark.usefixtures('x64')
TOY = algorithms.find('depthfl').toy
DEEP = ('dense1', 'dense2', 'exit1', 'classifier')


def assert_agrees(p):
  got = oracles.weights_of(toy.run(p).server.params)
  for a, b in zip(got, oracles.ORACLES['depthfl'](p), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('distillation', [True, False])
def test_with_fedavg_it_agrees_with_the_oracle(distillation):
  settings = dataclasses.replace(
    TOY, feddyn=False, distillation=distillation, ramp=2.0
  )
  assert_agrees(toy.problem('depthfl', settings, server={'weights': 'uniform'}))


def test_with_one_exit_it_is_feddyn():
  alone = depthfl.DepthFL(rates=('1',), distillation=False, alpha=0.5)
  ours, theirs = toy.problem('depthfl', alone), toy.problem('feddyn')
  assert algorithms.find('feddyn').toy.alpha == alone.alpha
  got, expected = (
    oracles.weights_of(toy.run(p).server.params) for p in (ours, theirs)
  )
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_the_clients_histories_are_their_linear_terms():
  p = toy.problem('depthfl')
  _, linear = run(p)
  state = toy.run(p)
  for i, terms in enumerate(linear):
    history = jax.tree.map(lambda a, i=i: a[i], state.clients)
    for h, g in zip(oracles.weights_of(history), terms, strict=True):
      np.testing.assert_allclose(h, -g / TOY.alpha, atol=1e-9)


@pytest.mark.parametrize('dynamic', [True, False])
def test_what_nobody_holds_stays(dynamic):
  """Round 0 has all depths, rounds 1 and 2 only clients of one stage."""
  p = toy.problem(
    'depthfl',
    dataclasses.replace(TOY, feddyn=dynamic),
    server={'optimizer': 'momentum'},
  )
  shallow = [0, 3, toy.DEAD, toy.DEAD]
  p = p.with_cohorts(np.array([[0, 1, 2, 3], shallow, shallow]))
  go = toy.program(p)
  once, thrice = (go(p.hyper, p.federation, p.state, n).server for n in (1, 3))

  def deep(state):
    trees = [state.params, state.opt[0].trace]
    trees += [state.extra.history] if dynamic else []
    return [tree[name]['kernel'] for tree in trees for name in DEEP]

  for a, b in zip(deep(once), deep(thrice), strict=True):
    assert np.abs(a).max() > 0
    np.testing.assert_array_equal(a, b)
  moved = thrice.params['dense0']['kernel'] - once.params['dense0']['kernel']
  assert np.abs(moved).max() > 1e-3


def test_it_is_judged_by_the_mean_of_its_logits():
  p = toy.problem('depthfl')
  w = oracles.weights_of(p.state.server.params)
  x, y = np.asarray(p.federation.x), np.asarray(p.federation.y)
  hidden, logits = x, []
  for n in range(3):
    hidden = np.maximum(hidden @ w[n], 0)
    logits.append(hidden @ w[3 + n])
  test = p.federation._replace(size=jnp.zeros_like(p.federation.size))
  module = toy.net_of(algorithms.find('depthfl'), TOY.rates)
  got = evaluate.evaluate(
    p.algorithm, toy.model(module), p.hyper, p.state, p.federation, test
  )

  def accuracy(*parts):
    return (np.mean(parts, 0).argmax(1) == y).mean()

  for n in range(3):
    assert got[f'accuracy@exit{n + 1}'] == pytest.approx(accuracy(logits[n]))
  assert got['accuracy@2/3'] == pytest.approx(accuracy(*logits[:2]))
  assert got['accuracy'] == pytest.approx(accuracy(*logits))
  log_p = np.log(softmax(np.mean(logits, 0)))
  assert got['loss'] == pytest.approx(-log_p[np.arange(len(y)), y].mean())
  assert not any('@' in name and 'client' in name for name in got)


def with_net(net, x, **loss):
  """The problem on random images (or its own examples) with another net."""
  p = toy.problem('depthfl', loss=loss)
  data = p.federation._replace(x=x)
  made = models.flax_model(net, x[:1])
  submodels = models.depth_submodels(net, x[:1], TOY.rates)
  model = made._replace(
    init=lambda key: jax.tree.map(lambda a: a.astype(float), made.init(key))
  )
  parts = algorithms.Parts(model, toy.given(), submodels=submodels)
  algorithm = algorithms.find('depthfl').build(TOY, parts)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, data, key, seed=0)
  return p._replace(algorithm=algorithm, federation=data, state=state)


def test_small_networks_do_what_masked_ones_do():
  """With BatchNorm, features of unlike sizes, and classes left out."""
  loss = {'terms': ('decorrelation',), 'calibration': 'fedlc'}
  net = models.ExitMLP(
    3, hidden=(5, 7, 6), norm='bn', norm_affine=True, norm_before=True
  )
  p = with_net(net, toy.problem('depthfl').federation.x, **loss)
  small, masked = toy.run(p, 2), toy.run(p, 2, chunk=4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9),
    (small.server, small.clients, small.tally),
    (masked.server, masked.clients, masked.tally),
  )
  leaves = jax.tree.leaves((small.server.params, small.server.stats))
  assert all(np.isfinite(a).all() for a in leaves)


def test_statistics_are_averaged_over_holders():
  net = models.ExitMLP(3, hidden=(6, 6, 6), norm='bn')
  p = with_net(net, toy.problem('depthfl').federation.x)
  p = p.with_cohorts(np.array([[0, 3, toy.DEAD, toy.DEAD]] * 3))
  stats = toy.run(p, 1).server.stats
  assert np.abs(stats['norm0']['mean']).max() > 0
  np.testing.assert_array_equal(stats['norm1']['mean'], 0)
  np.testing.assert_array_equal(stats['norm1']['var'], 1)


def test_teachers_do_not_learn():
  exits = [jnp.array([[0.0, 1.0]]), jnp.array([[2.0, 0.0]])]

  def first_teaches(z):
    outputs = tuple(models.Outputs(e, e) for e in (z, exits[1]))
    return depthfl.divergences(outputs, jnp.ones(1, bool))[1, 0]

  assert first_teaches(exits[0]) > 0.1
  assert not np.any(jax.grad(first_teaches)(exits[0]))


def test_widths_are_refused():
  p = toy.problem('width')
  net = toy.net()
  sub = models.width_submodels(net, p.federation.x[:1], TOY.rates)
  parts = algorithms.Parts(toy.model(), toy.given(), submodels=sub)
  with pytest.raises(ValueError, match=r'several widths; use depth_submodels'):
    depthfl.depthfl(TOY, parts)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'algorithm.rates': ('1/2',)}, r"algorithm.rates = \('1/2',\) has no 1"),
    ({'algorithm.ramp': 0.0}, 'algorithm.ramp = 0.0 is out of range'),
    (
      {'model.loss': 'squared_error'},
      'algorithm.distillation = True needs classes',
    ),
  ],
)
def test_settings_that_make_no_sense(change, message):
  config = digits.get_config('depthfl')
  for name, value in change.items():
    fl.config.set_field(config, name, value)
  with pytest.raises(fl.ConfigError, match=message):
    validate(config)


def test_networks_without_exits_are_refused():
  config = digits.get_config('depthfl')
  config.model = fl.config.Model(name='preresnet18')
  with pytest.raises(fl.ConfigError, match='PreResNet has one classifier only'):
    build.prepare(validate(config))


# Wrong ones.


def test_the_full_distillation_from_the_start(monkeypatch):
  monkeypatch.setattr(depthfl, 'ramp', lambda rounds, round: 1.0)
  assert error('depthfl') > 1e-4


def test_training_the_last_classifier_only(monkeypatch):
  nothing = lambda *_: lambda hyper, view: 0.0  # noqa: E731
  monkeypatch.setattr(depthfl, 'exits_loss', nothing)
  assert error('depthfl') > 1e-4


def test_dividing_the_history_by_the_cohort(monkeypatch):
  def wrong(before, after):
    change = optax.tree.sub(after.extra.history, before.extra.history)
    factor = len(toy.SIZES) / toy.COHORTS.shape[1]
    history = optax.tree.add_scale(before.extra.history, factor, change)
    return after._replace(extra=after.extra._replace(history=history))

  patched_server_step(monkeypatch, depthfl, wrong)
  assert error('depthfl') > 1e-4


def test_forgetting_the_clients_history(monkeypatch):
  monkeypatch.setattr(
    feddyn, 'remembered', lambda ctx, upload: upload._replace(state=ctx.state)
  )
  assert error('depthfl') > 1e-4


def masked_error(monkeypatch):
  """The error of the masked path alone."""
  monkeypatch.setattr(depthfl.narrow, 'by_tier', lambda submodels, client: None)
  return error('depthfl')


def test_masking_before_the_pull(monkeypatch):
  assert masked_error(monkeypatch) < 1e-9
  monkeypatch.setattr(transforms, 'masked_update', optax.identity)
  assert masked_error(monkeypatch) > 1e-4


def test_counting_who_does_not_hold(monkeypatch):
  original = depthfl.narrow.weighed

  def everyone_holds(upload, delta, stats):
    ones = jax.tree.map(jnp.ones_like, delta)
    return original(upload, ones, stats)

  monkeypatch.setattr(depthfl.narrow, 'weighed', everyone_holds)
  assert masked_error(monkeypatch) > 1e-4


def test_reading_the_deepest_exit(monkeypatch):
  monkeypatch.setattr(depthfl, 'at_depth', lambda outputs, depth: outputs)
  assert masked_error(monkeypatch) > 1e-4


def test_augmented_calibration_reaches_all_exits(monkeypatch):
  """FedLC leaves out classes that a client has not, in every classifier."""
  p = toy.problem('depthfl', loss={'calibration': 'fedlc', 'tau': 1.0})
  module = toy.net_of(algorithms.find('depthfl'), TOY.rates)
  seen = []

  def look(hyper, view):
    seen.extend(e.logits for e in view.outputs.exits)
    return jnp.zeros(())

  ctx = toy.ctx(p, 0)
  params, stats = p.state.server[:2]
  on_batch = local.objective(
    toy.model(module), p.hyper, ctx, params, terms=(look,)
  )
  mask = jnp.ones(2, bool)
  on_batch(params, stats, ctx.x[:2], ctx.y[:2], mask, ctx.key)
  absent = np.asarray(ctx.labels == 0)
  assert absent.any()
  for logits in seen:
    assert np.isneginf(logits[:, absent]).all()
  assert len(seen) == 3
