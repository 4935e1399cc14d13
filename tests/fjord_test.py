"""FjORD: widths of steps, statistics of widths, distillation, its theorem."""

import dataclasses
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import algorithms
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms import fjord
from fedjax_ls.cost import Cost
from fedjax_ls.data import federate
from fedjax_ls.hyper import Client, Hyper, Server
from fedjax_ls.models import MLP, Outputs, flax_model, width_submodels
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.narrow_test import NETS, images
from tests.networks import near, to_numpy
from tests.oracles.fjord import widths

pytestmark = pytest.mark.usefixtures('x64')

TOY = algorithms.find('fjord').toy
DISTILLED = dataclasses.replace(
  TOY, distillation=True, alpha=0.4, temperature=2.0
)


def error(settings=TOY, **execution):
  p = toy.problem('fjord', settings)
  got = oracles.weights_of(toy.run(p, **execution).server.params)
  expected = oracles.ORACLES['fjord'](p)
  pairs = zip(got, expected, strict=True)
  return max(np.abs(a - b).max() for a, b in pairs)


@pytest.mark.parametrize('slim', [False, True])
def test_distillation_agrees_with_its_oracle(slim):
  assert error(DISTILLED, slim=slim) < 1e-9


def test_the_loss_of_the_code_is_that_of_alpha_1_and_temperature_1():
  """Up to the entropy of the teacher, which has no gradient."""
  p = toy.problem('fjord', DISTILLED)
  logits, teacher = jax.random.normal(jax.random.key(0), (2, 5, 3))
  y, mask = jnp.array([0, 1, 2, 1, 0]), jnp.arange(5) < 4
  outputs = Outputs(logits, logits, (Outputs(teacher, teacher),))
  numbers = dataclasses.replace(DISTILLED, alpha=1.0, temperature=1.0)
  hyper = p.hyper._replace(method=numbers)
  view = fl.losses.View(outputs, None, y, mask, None, None, None)
  ours = fjord.distillation(toy.model())(hyper, view)
  model = toy.model()
  ours += jnp.sum(model.loss(outputs, y)[:4]) / 4
  soft, log_p = jax.nn.softmax(teacher), jax.nn.log_softmax(logits)
  code = model.loss(Outputs(teacher, teacher), y) - jnp.sum(soft * log_p, 1)
  entropy = -jnp.sum(soft * jnp.log(soft), 1)
  near(ours, (code - entropy)[:4].mean(), 1e-9)


# --- widths of steps --------------------------------------------------------


def test_widths_are_uniform_up_to_that_of_the_tier():
  rates = [Fraction(r) for r in ('1/2', '1', '1/4', '3/4')]
  keys = jax.random.split(jax.random.key(0), 4000)
  draw = jax.vmap(fjord.drawn_width, (None, 0, None))
  for tier, usable in (
    (0, [0, 2]),
    (1, [0, 1, 2, 3]),
    (2, [2]),
    (3, [0, 2, 3]),
  ):
    drawn = np.asarray(jax.jit(lambda t: draw(rates, keys, t))(tier))
    shares = np.bincount(drawn, minlength=4)[usable] / 4000
    assert shares.sum() == 1
    np.testing.assert_allclose(shares, 1 / len(usable), atol=0.03)


def test_steps_of_a_round_have_widths_of_their_own():
  p = toy.problem('fjord')
  drawn = widths(p, oracles.Data(p), 0, 0)
  assert len({next(drawn) for _ in range(12)}) == 3


# --- mutants ----------------------------------------------------------------


def test_drawing_beyond_the_tier(monkeypatch):
  usable = fjord._usable
  monkeypatch.setattr(fjord, '_usable', lambda r: np.ones_like(usable(r)))
  with pytest.raises(AssertionError):
    error()


def test_always_training_the_widest(monkeypatch):
  p = toy.problem('fjord')
  expected = oracles.ORACLES['fjord'](p)
  monkeypatch.setattr(fjord, 'drawn_width', lambda rates, key, tier: tier)
  p = toy.problem('fjord')
  got = oracles.weights_of(toy.run(p).server.params)
  assert np.abs(got[0] - expected[0]).max() > 1e-4


def test_learning_from_the_teacher_both_ways(monkeypatch):
  monkeypatch.setattr(jax.lax, 'stop_gradient', lambda x: x)
  assert error(DISTILLED) > 1e-4


def test_weighing_uniformly(monkeypatch):
  one = lambda *_: jnp.ones(())  # noqa: E731
  monkeypatch.setattr(fjord.server, 'client_weight', one)
  assert error() > 1e-4


# --- BatchNorm --------------------------------------------------------------


def test_small_networks_do_what_masked_ones_do():
  p = images(NETS['bn'], 'fjord')
  masked, small = (
    to_numpy(toy.run(p, 2, slim=slim)._replace(sampler=()))
    for slim in (False, True)
  )
  near(small, masked, 1e-9)


def with_batch_norm():
  p = toy.problem('fjord')
  net = MLP(hidden=(6,), num_classes=3, norm='bn', norm_affine=True)
  sub = width_submodels(net, p.federation.x[:1], TOY.rates)
  parts = algorithms.Parts(toy.model(net), toy.given(), submodels=sub)
  algorithm = fjord.fjord(TOY, parts)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  return p._replace(algorithm=algorithm, state=state)


def test_each_width_has_its_own_statistics():
  """Only a step of width p moves those of p; holders alone count."""
  p = with_batch_norm().with_cohorts([[0, 1, 2]])
  d = oracles.Data(p)
  channels = (6, 5, 4)
  first = {i: [] for i in (0, 1, 2)}
  for i in first:
    drawn = widths(p, d, 0, i)
    key = jax.random.fold_in(jax.random.key(0), 0)
    key = jax.random.fold_in(jax.random.split(key)[1], i)
    ctx = toy.ctx(p, i)._replace(key=jax.random.fold_in(key, 0))
    (phase,) = p.algorithm.phases
    upload = jax.jit(phase.client)(p.hyper, ctx)
    stats, weight = upload.summed['stats']
    used = {next(drawn) for _ in d.batches(0, i)}
    mean = np.asarray(stats['norm0']['mean'])
    moved = np.abs(mean).max(1) > 1e-6
    assert set(np.flatnonzero(moved)) == used
    for j in used:
      assert not mean[j, channels[j] :].any()
    held = np.asarray(weight['norm0']['mean'])
    for j in range(3):
      expected = toy.SIZES[i] * (np.arange(6) < channels[j]) * (j >= i)
      near(held[j], expected, 0)
    first[i] = mean
  server = toy.run(p, 1).server
  got = np.asarray(server.stats['norm0']['mean'])
  for j, holders in enumerate(([0], [0, 1], [0, 1, 2])):
    sizes = [toy.SIZES[i] for i in holders]
    expected = np.average([first[i][j] for i in holders], 0, weights=sizes)
    near(got[j, : channels[j]], expected[: channels[j]], 1e-9)
  _, stats = p.algorithm.model(server)
  near(stats['norm0']['mean'], got[0], 0)
  narrow, middle = p.algorithm.variants[1], p.algorithm.variants[0]
  assert (middle.name, narrow.name) == ('5/6', '2/3')
  _, stats = narrow.weights(p.hyper, server, p.federation)
  near(stats['norm0']['mean'], got[2, :4], 0)


# --- the theorem ------------------------------------------------------------


class TwoLinear(nn.Module):
  """y = U V x with a hidden layer of linear units, nothing in between."""

  hidden: int = 3

  @nn.compact
  def __call__(self, x, *, train=False, mask=None, width=None):
    h = nn.Dense(self.hidden, use_bias=False, name='dense0')(x)
    if width is not None:
      h = h * (jnp.arange(self.hidden) < width.active(self.hidden))[None]
    return nn.Dense(3, use_bias=False, name='classifier')(h)

  def slim(self, width):
    return self.clone(hidden=width.active(self.hidden))


A = np.array([[3.0, 0.2, 0.1], [0.3, 2.0, -0.4], [-0.2, 0.5, 1.0]])


def linear_widths():
  """F_1, F_2, F_3 after one client's steps on y = A x with white inputs."""
  x = np.sqrt(3) * np.concatenate([np.eye(3), -np.eye(3)])
  data = federate(x, x @ A.T, [np.arange(6)])
  data = jax.tree.map(jnp.asarray, data)
  net, rates = TwoLinear(), ('1', '2/3', '1/3')
  sub = width_submodels(net, data.x[:1], rates)
  model = flax_model(net, data.x[:1], loss='squared_error')
  model = model._replace(
    init=lambda key: jax.tree.map(
      lambda a: a.astype(float), flax_model(net, data.x[:1]).init(key)
    )
  )
  settings = fjord.FjORD(rates=rates)
  algorithm = fjord.fjord(
    settings, algorithms.Parts(model, fl.samplers.everyone(), submodels=sub)
  )
  client = Client(learning_rate=0.03, batch_size=6, unit='steps', amount=6000)
  hyper = Hyper(client, Server(), settings)
  state = round_lib.init(algorithm, hyper, data, jax.random.key(2), seed=0)
  p = toy.Problem(algorithm, hyper, data, state)
  params = to_numpy(toy.run(p, 1, slim=True).server.params)
  v, u = params['dense0']['kernel'].T, params['classifier']['kernel'].T
  return [u[:, :b] @ v[:b] for b in (1, 2, 3)]


def best(rank):
  u, s, v = np.linalg.svd(A)
  return (u[:, :rank] * s[:rank]) @ v[:rank]


def test_every_width_of_two_linear_layers_is_the_best_of_its_rank():
  """Theorem 1, by training and not by construction."""
  for rank, f in enumerate(linear_widths(), 1):
    near(f, best(rank), 1e-4)


def test_it_takes_the_random_widths(monkeypatch):
  monkeypatch.setattr(fjord, 'drawn_width', lambda rates, key, tier: tier)
  one, two, three = linear_widths()
  near(three, A, 1e-4)
  assert np.abs(one - best(1)).max() > 0.1
  assert np.abs(two - best(2)).max() > 0.1


# --- settings ---------------------------------------------------------------


def test_costs_are_of_the_average_width_and_the_teacher():
  tiers = tuple(Cost(m, m, m) for m in (900, 300, 90))
  plain = fjord.costs(TOY, tiers)
  assert [c.macs for c in plain] == [430, 195, 90]
  taught = fjord.costs(DISTILLED, tiers)
  assert [c.macs for c in taught] == [1330, 495, 180]
  assert [c.bytes for c in taught] == [900, 300, 90]


WRONG = [
  ({'rates': ('1/2', '1/4')}, {}, 'has no 1, so that nobody trains'),
  ({'alpha': 1.5}, {}, r'algorithm.alpha = 1.5 .* choose it in \[0, 1\]'),
  ({'temperature': 0.0}, {}, 'choose a number above 0'),
  (
    {'distillation': True},
    {'model': fl.config.Model(loss='squared_error')},
    "needs classes but model.loss = 'squared_error'",
  ),
  (
    {'distillation': True},
    {'loss': fl.hyper.Loss(calibration='exclude')},
    "loss.calibration = 'exclude' does not reach the teacher",
  ),
]


@pytest.mark.parametrize(('change', 'fields', 'message'), WRONG)
def test_settings_that_are_refused(change, fields, message):
  config = fl.Config(algorithm=dataclasses.replace(TOY, **change), **fields)
  with pytest.raises(fl.ConfigError, match=message) as caught:
    validate(config)
  assert '\n' not in str(caught.value)
