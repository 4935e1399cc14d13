"""Split-Mix: turns, mixtures, options, and wrong ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from configs import digits, splitmix_cifar10
from fedjax_ls import algorithms, evaluate, models, samples, server
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms import splitmix
from fedjax_ls.cost import costs
from fedjax_ls.models.submodels import with_module
from fedjax_ls.networks import networks
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.breaking import error, patched_server_step
from tests.networks import near

pytestmark = pytest.mark.usefixtures('x64')
TOY = splitmix.SplitMix(rates=('1', '2/3', '1/3'), base='1/3')


def test_everybody_takes_turns():
  """Eight visits of three networks: each turn of three has all of them."""
  queue = splitmix.Queue(jnp.uint32(7), jnp.uint32(4))
  base = toy.ctx(toy.problem('splitmix', TOY), 0)

  def order(key, rank):
    return splitmix.draw(queue, base._replace(key=key, rank=rank), 3)

  keys = jax.random.split(jax.random.key(0), 8)
  orders = jax.vmap(order)(keys, jnp.arange(8))
  assert (np.sort(orders, 1) == np.arange(3)).all()
  first = np.asarray(orders[:, 0])
  # Visits 4 and 5 end the second turn.
  assert sorted(first[2:5]) == sorted(first[5:8]) == [0, 1, 2]
  assert first[0] != first[1]
  assert len({tuple(order) for order in np.asarray(orders)}) > 3


def test_three_networks_agree_with_the_oracle():
  p = toy.problem('splitmix', TOY)
  got = oracles.weights_of(toy.run(p).server.params)
  for a, b in zip(got, oracles.ORACLES['splitmix'](p), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_what_nobody_takes_stays():
  p = toy.problem('splitmix', TOY, server={'optimizer': 'momentum'})
  everyone, one = [0, 1, 2, 3], [2, toy.DEAD, toy.DEAD, toy.DEAD]
  p = p.with_cohorts(np.array([everyone, one, one]))
  go = toy.program(p)
  before, after = (go(p.hyper, p.federation, p.state, n).server for n in (1, 2))
  moved = [
    tuple(np.abs(a - b).max((1, 2)) > 0)
    for a, b in zip(
      jax.tree.leaves((before.params, before.opt[0].trace)),
      jax.tree.leaves((after.params, after.opt[0].trace)),
      strict=True,
    )
  ]
  assert len(set(moved)) == 1
  assert sum(moved[0]) == 1
  assert int(after.extra.taken) == 5


def judged(settings, model, state, data):
  """Metrics of the method's mixture on the toy examples."""
  test = data._replace(size=jnp.zeros_like(data.size))
  net = toy.net()
  submodels = models.width_submodels(net, data.x[:1], ('1/3',) * 3)
  parts = algorithms.Parts(model, toy.given(), submodels=submodels)
  algorithm = splitmix.splitmix(settings, parts)
  return evaluate.evaluate(algorithm, model, None, state, data, test)


def test_mixtures_of_the_first_networks():
  p = toy.problem('splitmix', TOY)
  got = judged(TOY, toy.model(), p.state, p.federation)
  x, y = np.asarray(p.federation.x), np.asarray(p.federation.y)
  w1, w2 = (
    np.asarray(p.state.server.params[n]['kernel'])
    for n in ('dense0', 'classifier')
  )
  assert w1.shape == (3, 4, 2)
  logits = np.einsum('bnh,bhy->bny', np.maximum(x @ w1, 0), w2)
  for name, count in (('@1/3', 1), ('@2/3', 2), ('', 3)):
    right = logits[:count].mean(0).argmax(1) == y
    assert got[f'accuracy{name}'] == pytest.approx(right.mean())
  assert '@1' not in ''.join(got).replace('@1/3', '')


def with_batch_norm(**fields):
  settings = dataclasses.replace(TOY, **fields)
  p = toy.problem('splitmix', settings)
  net = models.MLP(3, hidden=(6,), norm='bn', norm_affine=True)
  submodels = models.width_submodels(net, p.federation.x[:1], ('1/3',) * 3)
  model = toy.model(net)
  parts = algorithms.Parts(model, toy.given(), submodels=submodels)
  algorithm = splitmix.splitmix(settings, parts)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, p.hyper, p.federation, key, seed=0)
  return p._replace(algorithm=algorithm, state=state), model, submodels


def test_statistics_of_the_test_batch_are_an_option():
  p, model, submodels = with_batch_norm()
  other, _, _ = with_batch_norm(batch_statistics=True)
  x = p.federation.x[:8]
  params, stats = p.state.server[:2]
  tracked, kept = p.algorithm.network.apply(params, stats, x)
  batch, same = other.algorithm.network.apply(params, stats, x)
  small = with_module(model, submodels.module(0))

  def mean(train):
    every = [
      small.apply(*jax.tree.map(lambda a, j=j: a[j], (params, stats)), x,
                  train=train)[0].logits
      for j in range(3)
    ]  # fmt: skip
    return np.mean(every, 0)

  near(tracked.logits, mean(False), 1e-9)
  near(batch.logits, mean(True), 1e-9)
  assert np.abs(batch.logits - tracked.logits).max() > 0.01
  jax.tree.map(np.testing.assert_array_equal, (kept, same), (stats, stats))


def test_statistics_are_each_networks_own():
  p, _, _ = with_batch_norm()
  p = p.with_cohorts([[2, toy.DEAD, toy.DEAD, toy.DEAD]])
  mean = toy.run(p, 1).server.stats['norm0']['mean']
  assert sum(np.abs(mean).max(1) > 0) == 1


def test_rescaled_weights_have_the_whole_networks_variance():
  net = models.MLP(10, hidden=(64, 64))
  x = jnp.ones((1, 4))
  submodels = models.width_submodels(net, x, ('1', '1/4'))
  small = submodels.module(1).init(jax.random.key(0), x)['params']
  stacked = jax.tree.map(lambda a: a[None], small)
  got = splitmix.rescaled(stacked, submodels.shapes[0], 0.25)
  jax.tree.map(np.testing.assert_array_equal, got['dense0'], stacked['dense0'])
  for name in ('dense1', 'classifier'):
    deviation = got[name]['kernel'].std()
    assert deviation == pytest.approx(64**-0.5, rel=0.15)


def test_options_change_the_start_and_the_steps():
  plain = toy.problem('splitmix', TOY)
  wide = toy.problem('splitmix', dataclasses.replace(TOY, rescale=True))
  start, small = (q.state.server.params for q in (plain, wide))
  near(small['dense0']['kernel'], start['dense0']['kernel'], 0)
  near(
    small['classifier']['kernel'] * 3**0.5, start['classifier']['kernel'], 1e-9
  )
  scaled = toy.problem('splitmix', dataclasses.replace(TOY, scaler=True))
  near(scaled.state.server.params, start, 0)
  # Outputs of the hidden layer are three times as large.
  near(
    moved(scaled, scaled.state.server.params),
    moved(plain, jax.tree.map(lambda a: a, start), tripled=True),
    1e-9,
  )


def moved(p, params, tripled=False):
  """The first change of the classifier by one small step."""
  if tripled:
    first = jax.tree.map(lambda a: 3 * a, params['dense0'])
    params = {**params, 'dense0': first}
  client = dataclasses.replace(
    p.hyper.client, unit='steps', amount=1, momentum=0.0, weight_decay=0.0
  )
  ctx = toy.ctx(p, 0)
  ctx = ctx._replace(message=ctx.message._replace(params=params))
  upload = p.algorithm.phases[0].client(p.hyper._replace(client=client), ctx)
  return upload.summed['delta'].value['classifier']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'base': '2/5'}, "algorithm.base = '2/5' does not divide 1; choose 1/n"),
    (
      {'base': '1/3'},
      "has 1/2, which is no multiple of algorithm.base = '1/3'",
    ),
    ({'base': 'x'}, r"algorithm.base\[0\] = 'x' is no share"),
    ({'scaler': True}, "algorithm.scaler = True scales what model.norm = 'bn'"),
  ],
)
def test_settings_that_make_no_sense(change, message):
  config = digits.get_config('splitmix')
  config.model.norm = 'bn'
  config.algorithm = dataclasses.replace(config.algorithm, **change)
  with pytest.raises(fl.ConfigError, match=message):
    validate(config)


def test_a_tier_pays_for_all_of_its_networks():
  config = digits.get_config('splitmix')
  config.model.hidden = (16,)
  nets = networks(config, fl.data.load('digits'), 'matmul')
  example = jnp.ones((1, 8, 8), jnp.uint8)
  spent = costs(nets.net, example, nets.submodels)
  got = algorithms.find('splitmix').costs(config.algorithm, spent)
  assert [c.parameters for c in got] == [
    n * (64 + 10) * 2 for n in (8, 4, 2, 1)
  ]
  assert [c.macs for c in got] == [c.parameters for c in got]


def test_the_published_networks_have_their_sizes():
  config = splitmix_cifar10.get_config()
  images = {'x': ['uint8', [32, 32, 3]], 'y': ['int32', []], 'num_classes': 10}
  dataset = samples.of_kind(images)
  nets = networks(config, dataset, 'native')
  (whole,) = costs(nets.net, dataset.x_train)
  spent = costs(nets.net, dataset.x_train, nets.submodels)
  spent = algorithms.find('splitmix').costs(config.algorithm, spent)
  assert whole.parameters == 11_172_170
  assert [c.parameters for c in spent] == [n * 176_178 for n in (1, 2, 4, 8)]
  assert [c.macs for c in spent] == [n * 8_872_576 for n in (1, 2, 4, 8)]
  config.adversarial.steps = 7
  model = networks(config, dataset, 'native').model
  small = with_module(model, nets.submodels.module(0))
  params, stats = jax.eval_shape(small.init, jax.random.key(0))
  assert sum(a.size for a in jax.tree.leaves(params['noise'])) == 2 * 488
  assert len(stats['noise']) == 17


# Wrong ones.


def test_a_queue_that_does_not_move(monkeypatch):
  patched_server_step(
    monkeypatch,
    splitmix,
    lambda before, after: after._replace(extra=before.extra),
  )
  assert error('splitmix') > 1e-4


def test_dropping_n_k(monkeypatch):
  monkeypatch.setattr(server, 'client_weight', lambda *_: jnp.ones(()))
  assert error('splitmix') > 1e-4


def test_taking_the_first_networks(monkeypatch):
  """As nested widths would."""
  monkeypatch.setattr(
    splitmix, 'draw', lambda queue, ctx, count: jnp.arange(count)
  )
  assert error('splitmix') > 1e-4


def test_drawing_all_at_random(monkeypatch):
  def shuffled(queue, ctx, count):
    chance = jax.random.fold_in(ctx.key, splitmix._BASES)
    return jnp.argsort(jax.random.uniform(chance, (count,)))

  monkeypatch.setattr(splitmix, 'draw', shuffled)
  assert error('splitmix') > 1e-4
