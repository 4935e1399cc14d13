"""Attacks, training on attacked examples, and being judged by them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from configs import digits
from fedjax_ls import adversarial, algorithms, build, evaluate, models
from fedjax_ls import config as config_lib
from fedjax_ls import round as round_lib
from fedjax_ls.data.augment import normalize
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.networks import near, quick_jit, to_numpy
from tests.oracles.splitmix import turns

EPS, KEPT = 1e-5, 0.9
RATES = ('1', '2/3', '1/3')
SPLITMIX = algorithms.find('splitmix').settings(rates=RATES, base='1/3')
PGD = fl.Adversarial(steps=3, share=0.3, eps=0.1, mixes=('0', '1/3'))
NAMES = sorted(n for n, m in algorithms.METHODS.items() if m.adversarial)


def problem(name, settings=None, attacks=PGD, doubled=True, **client):
  """The toy problem with inputs in [0, 1] and a BatchNorm after the ReLU."""
  method = algorithms.find(name)
  settings = settings or method.toy
  p = toy.problem(name, settings, client)
  low, high = p.federation.x.min(), p.federation.x.max()
  data = p.federation._replace(x=(p.federation.x - low) / (high - low))
  net = models.MLP(3, hidden=(6,), norm='bn', norm_affine=True)
  model = toy.model(net)
  model = models.dual_norm(model, EPS) if doubled else model
  rates = method.slim_rates(settings) if method.needs_submodels else RATES
  submodels = models.width_submodels(net, data.x[:1], rates)
  parts = algorithms.Parts(model, toy.given(), submodels=submodels)
  algorithm = method.build(settings, parts)
  algorithm = adversarial.judged(algorithm, model, attacks)
  numbers = jax.tree.map(lambda a: jnp.asarray(a, float), attacks)
  hyper = p.hyper._replace(adversarial=numbers)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, hyper, data, key, seed=0)
  return toy.Problem(algorithm, hyper, data, state), model


def run(p):
  """The server after three rounds, with every client by itself."""

  @quick_jit
  def go(hyper, data, state):
    return round_lib.run_rounds(p.algorithm, hyper, data, state, 3).server

  return to_numpy(go(p.hyper, p.federation, p.state))


# The attack.


def test_an_attack_stays_near_and_raises_the_loss():
  x = jax.random.uniform(jax.random.key(0), (64, 5))
  weights = jax.random.normal(jax.random.key(1), (2, 5, 5))

  def loss(x):
    return jnp.sum(jnp.tanh(x @ weights[0]) @ weights[1] ** 2)

  @jax.jit
  def attack(eps, share):
    key, step = jax.random.key(2), share * adversarial.step_size(eps, 7)
    return adversarial.pgd(jax.grad(loss), x, key, eps, step, 7)

  start = attack(0.1, 0.0)
  assert jnp.abs(start - x).max() > 0.09
  gains = []
  for eps in (0.1, 0.3):
    moved = attack(eps, 1.0)
    assert jnp.abs(moved - x).max() <= eps + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    gains.append(loss(moved) - loss(x))
  assert gains[1] > gains[0] > abs(loss(start) - loss(x))
  assert attack._cache_size() == 1


def test_pixels_are_attacked_and_not_normalized_values():
  images = np.random.RandomState(0).randint(0, 256, (8, 4), np.uint8)
  y = jnp.arange(8) % 3
  net = models.MLP(3, hidden=(5,))
  center, scale = (0.4,), (0.1,)
  model = models.flax_model(
    net, images[:1], preprocess=normalize(center, scale)
  )
  params, stats = model.init(jax.random.key(0))
  hyper = fl.Hyper(None, None, None, adversarial=PGD)
  key = jax.random.key(3)
  got = adversarial.attacked(model, hyper, params, stats, images, y, key)
  assert 0.05 < np.abs(got - images / 255).max() <= PGD.eps + 1e-6
  assert got.min() >= 0
  assert got.max() <= 1

  def gradient(x):
    def loss(x):
      logits = net.apply({'params': params}, (x - center[0]) / scale[0]).logits
      return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(8), y])

    return jax.grad(loss)(x)

  step = adversarial.step_size(PGD.eps, PGD.steps)
  pixels = jnp.asarray(images / 255, jnp.float32)
  near(got, adversarial.pgd(gradient, pixels, key, PGD.eps, step, PGD.steps))


# Two halves.


def halved(affine=True):
  """A plain and a doubled model, and numbers for the latter."""
  x = jax.random.normal(jax.random.key(5), (9, 4))
  net = models.MLP(3, hidden=(5, 4), norm='bn', norm_affine=affine)
  plain = models.flax_model(net, x)
  two = models.dual_norm(plain, EPS)
  rng = np.random.default_rng(0)
  params, stats = jax.tree.map(
    lambda a: rng.uniform(0.2, 2, a.shape), two.init(jax.random.key(0))
  )
  return plain, two, params, stats, x


def apart(*trees):
  """The trees of the plain networks with the clean and with the noise half."""
  clean = [{k: v for k, v in t.items() if k != 'noise'} for t in trees]
  return clean, [c | t['noise'] for c, t in zip(clean, trees, strict=True)]


def by_layers(params, stats, x, mix):
  """The doubled network, evaluated layer by layer."""

  def norm(h, layer):
    total = 0.0
    for weight, p, s in (
      (1 - mix, params, stats),
      (mix, params['noise'], stats['noise']),
    ):
      mean, var = s[layer]['mean'], s[layer]['var']
      own = p.get(layer, {'scale': 1.0, 'bias': 0.0})
      z = (h - mean) / np.sqrt(var + EPS)
      total = total + weight * (own['scale'] * z + own['bias'])
    return total

  for layer in range(2):
    x = np.maximum(x @ params[f'dense{layer}']['kernel'], 0)
    x = norm(x, f'norm{layer}')
  return x @ params['classifier']['kernel']


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('affine', [True, False])
def test_halves_mix_layer_by_layer(affine):
  plain, two, params, stats, x = halved(affine)
  apply = jax.jit(lambda mix: two.apply(params, stats, x, mix=mix)[0].logits)
  for mix in (0.0, 0.3, 1.0):
    near(apply(mix), by_layers(params, stats, np.asarray(x), mix), 1e-9)
  assert apply._cache_size() == 1
  clean, noise = apart(params, stats)
  for mix, one in ((0, clean), (1, noise)):
    ours, kept = two.apply(params, stats, x, mix=mix)
    near(ours, plain.apply(*one, x)[0], 0)
    near(kept, stats, 0)
  default, _ = two.apply(params, stats, x)
  near(default, plain.apply(*clean, x)[0], 0)
  alike = [{**c, 'noise': c} for c in clean]
  for mix in (0.3, 0.9):
    near(two.apply(*alike, x, mix=mix)[0], plain.apply(*clean, x)[0], 1e-12)


@pytest.mark.usefixtures('x64')
def test_training_records_the_half_in_use():
  plain, two, params, stats, x = halved()
  mask = jnp.arange(9) < 7
  for mix, one in enumerate(apart(params, stats)):
    expected, seen = plain.apply(*one, x, train=True, mask=mask)
    got, moved = two.apply(params, stats, x, train=True, mask=mask, mix=mix)
    near(got.logits[:7], expected.logits[:7], 0)
    new, old = (moved['noise'], moved) if mix else (moved, moved['noise'])
    kept = stats if mix else stats['noise']
    for layer in ('norm0', 'norm1'):
      near(new[layer], seen[layer], 0)
      near(old[layer], kept[layer], 0)
  with pytest.raises(ValueError, match=r'mix = 0.5 would train both'):
    two.apply(params, stats, x, train=True, mix=0.5)
  bare = models.dual_norm(models.flax_model(models.MLP(3), x))
  with pytest.raises(ValueError, match='no BatchNorm to double'):
    bare.init(jax.random.key(0))


def test_stacked_networks_mix_alike():
  params, stats = halved()[2:4]
  stacked = jax.tree.map(lambda a: np.stack([a, 2 * a]), (params, stats))
  mixed = partial(models.mixed_norms, mix=0.25, eps=EPS)
  got = quick_jit(mixed)(*stacked)
  near(got, quick_jit(jax.vmap(mixed))(*stacked))


# Training.


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', NAMES)
def test_without_a_share_the_clean_half_is_the_method(name):
  one = {'unit': 'steps', 'amount': 2}
  none = dataclasses.replace(PGD, share=0.0)
  settings = SPLITMIX if name == 'splitmix' else None
  ours, _ = problem(name, settings, none, **one)
  theirs, _ = problem(name, settings, fl.Adversarial(), False, **one)
  got, expected = run(ours), run(theirs)
  near(
    apart(got.params, got.stats)[0], [expected.params, expected.stats], 1e-12
  )
  assert np.abs(got.stats['noise']['norm0']['mean']).max() > 0.01


def forward(w, own, x, moments):
  """Logits through one half, and what it normalized by."""
  h = jnp.maximum(x @ w[0], 0)
  mean, var = moments or (h.mean(0), h.var(0))
  z = (h - mean[None]) / jnp.sqrt(var + EPS)[None]
  return (z * own[0][None] + own[1][None]) @ w[1], (mean, var)


def cross_entropy(logits, y):
  return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y]


def ascend(gradient, x, start):
  """PGD from x + eps start, as a plain loop."""
  size = min(1.25 * PGD.eps, PGD.eps + 4 / 255) / PGD.steps
  moved = np.clip(x + PGD.eps * start, 0, 1)
  for _ in range(PGD.steps):
    moved = moved + size * np.sign(np.asarray(gradient(moved)))
    moved = np.clip(moved, x - PGD.eps, x + PGD.eps)
    moved = np.clip(moved, 0, 1)
  return moved


@jax.jit
def towards(x, w, own, moments, y):
  """Gradient of the loss by the examples, in evaluation mode."""
  return jax.grad(
    lambda x: cross_entropy(forward(w, own, x, moments)[0], y).sum()
  )(x)


@jax.jit
def downhill(net, x, moved, y):
  """Gradient of both losses, and the moments of both batches."""

  def loss(net):
    w, clean, noise = net
    logits, seen = forward(w, clean, x, None)
    attacked, also = forward(w, noise, moved, None)
    ours, theirs = (cross_entropy(a, y).mean() for a in (logits, attacked))
    return (1 - PGD.share) * ours + PGD.share * theirs, (seen, also)

  return jax.grad(loss, has_aux=True)(net)


def locally(d, t, i, net, stats):
  """One client's steps on one network."""
  velocity = jax.tree.map(np.zeros_like, net)
  for s, (x, y) in enumerate(d.batches(t, i)):
    key = jax.random.fold_in(jax.random.fold_in(d.key(t, i), 1), s)
    start = jax.random.uniform(
      jax.random.fold_in(key, 2), (d.client.batch_size, 4), float, -1, 1
    )
    w, _, noise = net
    gradient = partial(towards, w=w, own=noise, moments=stats[1], y=y)
    moved = ascend(gradient, x, np.asarray(start)[: len(x)])
    grads, seen = to_numpy(downhill(net, x, moved, y))
    velocity = jax.tree.map(
      lambda v, g, a: g + d.decay * a + d.momentum * v, velocity, grads, net
    )
    net = jax.tree.map(lambda a, v: a - d.lr[t] * v, net, velocity)
    stats = jax.tree.map(lambda a, b: KEPT * a + (1 - KEPT) * b, stats, seen)
  return net, stats


def plainly(params, stats):
  """`(w, clean, noise)` and `(clean, noise)` of one network or of many."""
  noise = params['noise']
  layers = [tree['norm0'] for tree in (params, noise)]
  w = tuple(params[n]['kernel'] for n in ('dense0', 'classifier'))
  halves = ((layer['scale'], layer['bias']) for layer in layers)
  moments = (
    (tree['norm0']['mean'], tree['norm0']['var'])
    for tree in (stats, stats['noise'])
  )
  return to_numpy(((w, *halves), tuple(moments)))


def oracle(p):
  d = oracles.Data(p)
  stacked = plainly(*p.state.server[:2])
  count = len(stacked[0][0][0])
  nets = [jax.tree.map(lambda a, j=j: a[j], stacked) for j in range(count)]
  for t, found in enumerate(turns(p, d, count)):
    ends = [[] for _ in nets]
    for i, taken in found:
      for j in taken:
        ends[j].append((locally(d, t, i, *nets[j]), d.weight(i)))
    for j, of in enumerate(ends):
      if of:
        trees, weights = zip(*of, strict=True)
        nets[j] = jax.tree.map(
          lambda *a, w=weights: np.average(a, 0, w), *trees
        )
  return jax.tree.map(lambda *a: np.stack(a), *nets)


def error():
  p, _ = problem('splitmix', SPLITMIX)
  got = plainly(*run(p)[:2])
  gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), got, oracle(p))
  return max(jax.tree.leaves(gaps))


@pytest.mark.usefixtures('x64')
def test_chunks_and_devices_change_nothing():
  p, _ = problem('fedavg', unit='steps', amount=2)
  got = toy.run(p, chunk=2, mesh=round_lib.clients_mesh(2)).server
  near(to_numpy(got), run(p), 1e-10)


@pytest.mark.usefixtures('x64')
def test_agrees_with_its_oracle():
  assert error() < 1e-9


BOTH = adversarial.on_both


def in_half(of_attack, of_attacked):
  """`on_both` with attacks and attacked examples through other halves."""

  def both(on_batch, model, hyper):
    halves = {0: 0, 1: of_attacked}

    def on_half(*args, mix):
      return on_batch(*args, mix=halves[mix])

    def apply(*args, mix, **options):
      return model.apply(*args, mix=of_attack, **options)

    return BOTH(on_half, model._replace(apply=apply), hyper)

  return both


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('halves', [(0, 1), (1, 0)])
def test_the_wrong_half_is_noticed(monkeypatch, halves):
  monkeypatch.setattr(adversarial, 'on_both', in_half(*halves))
  assert error() > 1e-4


# Judging.


@pytest.mark.usefixtures('x64')
def test_metrics_of_mixes_and_of_attacks_through_them():
  p, model = problem('splitmix', SPLITMIX)
  rng = np.random.default_rng(2)
  params, stats = jax.tree.map(
    lambda a: rng.uniform(0.2, 2, a.shape) - (a.ndim > 2), p.state.server[:2]
  )
  server = p.state.server._replace(params=params, stats=stats)
  state, data = p.state._replace(server=server), p.federation
  test = data._replace(index=data.index[:, :0])

  @quick_jit
  def judge(hyper):
    return evaluate.evaluate(p.algorithm, model, hyper, state, data, test)

  got = judge(p.hyper)
  x, y = np.asarray(data.x), np.asarray(data.y)
  (w, *halves), moments = plainly(params, stats)

  def logits(x, mix):
    every = []
    for j in range(3):
      h = jnp.maximum(x @ w[0][j], 0)
      total = 0
      for share, half, (mean, var) in zip(
        (1 - mix, mix), halves, moments, strict=True
      ):
        z = (h - mean[j][None]) / np.sqrt(var[j] + EPS)[None]
        total = total + share * (z * half[0][j][None] + half[1][j][None])
      every.append(total @ w[1][j])
    return sum(every) / 3

  @quick_jit
  @jax.grad
  def uphill(x, mix):
    return cross_entropy(logits(x, mix), y).sum()

  start = jax.random.fold_in(jax.random.key(0), 0)
  start = np.asarray(jax.random.uniform(start, x.shape, float, -1, 1))
  for name, mix in (('0', 0.0), ('1/3', 1 / 3)):
    moved = ascend(partial(uphill, mix=mix), x, start)
    for seen, key in ((x, f'mix={name}'), (moved, f'mix={name},pgd')):
      out = logits(seen, mix)
      right = (out.argmax(1) == y).mean()
      assert got[f'accuracy@{key}'] == pytest.approx(right)
      near(got[f'loss@{key}'], cross_entropy(out, y).mean(), 1e-9)
  assert got['loss@mix=1/3,pgd'] > 1.02 * got['loss@mix=1/3']
  assert 'accuracy@1/3@mix=0' not in got
  near(got['accuracy'], got['accuracy@mix=0'], 0)


def test_training_on_attacks_withstands_them():
  """Of 21 features, 20 tell the classes apart by less than an attack."""
  rng = np.random.default_rng(0)
  y = np.arange(400) % 2
  x = 0.5 + 0.03 * (2 * y[:, None] - 1) + 0.02 * rng.normal(size=(400, 21))
  x[:, 0] = 0.5 + 0.35 * (2 * y - 1) + 0.07 * rng.normal(size=400)
  x = x.clip(0, 1).astype(np.float32)
  data = fl.federate(x[:200], y[:200], np.arange(200).reshape(4, 50))
  net = models.MLP(2, hidden=(8,), norm='bn', norm_affine=True)
  model = models.dual_norm(fl.flax_model(net, x[:1]))
  client = fl.Client(0.05, batch_size=16, unit='epochs', amount=2)

  def trained(share):
    result = fl.fit(
      model,
      data,
      test=(x[200:], y[200:]),
      client=client,
      adversarial=fl.Adversarial(3, share, eps=0.15, mixes=('0', '1')),
      rounds=40,
      eval_every=40,
    )
    return result.history[-1]

  plain, robust = trained(0.0), trained(0.5)
  assert plain['test/accuracy'] > 0.95
  assert robust['test/accuracy'] > 0.95
  assert plain['test/accuracy@mix=0,pgd'] < 0.5
  assert robust['test/accuracy@mix=1,pgd'] > 0.9


# What makes no sense.


@pytest.mark.parametrize(
  ('method', 'fields', 'message'),
  [
    ('width', {}, 'adversarial.steps = 2 does not fit method width'),
    ('fedbn', {}, 'adversarial.steps = 2 does not fit method fedbn'),
    (
      'splitmix',
      {'algorithm.batch_statistics': True},
      'mixes the running statistics of BatchNorm but algorithm.batch_stat',
    ),
    (
      'fedavg',
      {'clock.macs_per_second': (1e9,)},
      'takes time that the clock does not count',
    ),
    (
      'fedavg',
      {'adversarial.mixes': ('1/2', '3/2')},
      r"adversarial.mixes = \('1/2', '3/2'\) is out of range; give shares",
    ),
    (
      'fedavg',
      {'adversarial.steps': 0, 'adversarial.share': 0.2},
      'adversarial.share = 0.2 is not read with adversarial.steps = 0',
    ),
    ('fedavg', {'model.norm': 'ln'}, "BatchNorms but model.norm = 'ln'"),
    ('fedavg', {'data.name': 'synthetic'}, r'images in \[0, 1\] but x \(fl'),
  ],
)
def test_what_makes_no_sense_is_refused(method, fields, message):
  config = digits.get_config(method)
  config.model.norm, config.adversarial.steps = 'bn', 2
  for field, value in fields.items():
    config_lib.set_field(config, field, value)
  with pytest.raises(fl.ConfigError, match=message):
    build.plan(validate(config))


def test_fit_needs_two_halves():
  d = fl.data.load('digits')
  model = fl.flax_model(models.MLP(10, norm='bn'), d.x_train[:1])
  data = fl.federate(d.x_train, d.y_train, [np.arange(1437)])
  with pytest.raises(fl.ConfigError, match=r'give models.dual_norm\(model\)'):
    fl.fit(
      model,
      data,
      test=(d.x_test, d.y_test),
      adversarial=fl.Adversarial(steps=2),
    )
