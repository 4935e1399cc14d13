"""InclusiveFL: text and images, who teaches whom, and wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from configs import digits
from fedjax_ls import algorithms, build, evaluate, models, server
from fedjax_ls import round as round_lib
from fedjax_ls.algorithms import inclusivefl
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.breaking import error

TOY = algorithms.find('inclusivefl').toy


def layers(tree):
  return {
    'shared': set(tree['shared']),
    'own': [set(own) for own in tree['own']],
  }


def built(net, x, y, num_classes, rates=('1', '1/2')):
  """Three clients, the second one's model is the smaller."""
  settings = inclusivefl.InclusiveFL(rates=rates)
  parts = algorithms.Parts(
    models.flax_model(net, x[:1]),
    fl.samplers.everyone(),
    submodels=models.depth_submodels(net, x[:1], rates),
  )
  algorithm = inclusivefl.inclusivefl(settings, parts)
  data = fl.federate(
    x, y, list(np.arange(len(x)).reshape(3, -1)), num_classes=num_classes,
    tier=np.array([0, 1, 0]),
  )  # fmt: skip
  data = jax.tree.map(jnp.asarray, data)
  client = fl.Client(learning_rate=0.05, batch_size=4, amount=2)
  numbers = fl.hyper.Hyper(client, fl.Server(), settings)
  key = jax.random.key(0)
  state = round_lib.init(algorithm, numbers, data, key, seed=0)
  return toy.Problem(algorithm, numbers, data, state)


def test_a_transformer_on_text():
  random = np.random.RandomState(0)
  x = random.randint(0, 5, (12, 6)).astype(np.int32)
  net = models.Transformer(
    5, features=6, heads=2, head_features=3, hidden=8, blocks=3, dropout=0.0,
    norm='ln', norm_affine=True, positions='every',
  )  # fmt: skip
  p = built(net, x, np.roll(x, -1, 1), 5)
  names = layers(p.state.server.params)
  head = {'dense', 'norm', 'classifier'}
  blocks = [
    {n for n in p.state.server.params['own'][-1] if n.startswith('block2')},
    {n for n in p.state.server.params['own'][0] if n.startswith('block1')},
  ]
  assert len(blocks[0]) == len(blocks[1]) == 8
  assert names['own'] == [blocks[1] | head, blocks[0] | head]
  assert {'embedding', 'position', 'embedding_norm'} <= names['shared']
  assert not any('block2' in name for name in names['shared'])
  after = toy.run(p, 1)
  moved = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), after.server.params, p.state.server.params
  )
  assert min(v for v in jax.tree.leaves(moved) if v) > 1e-6
  assert moved['own'][0]['block1_dense0']['kernel'] > 1e-5
  assert np.isfinite(sum(jax.tree.leaves(moved)))


def test_stages_of_a_network_for_images():
  """Every model is judged, the smaller one by its rate."""
  random = np.random.RandomState(0)
  x, y = random.randn(6, 8, 8, 1), np.arange(6) % 3
  net = models.PooledCNN(3, channels=(3, 3), norm='bn', norm_affine=True)
  p = built(net, x, y, 3)
  state = p.state.server
  assert layers(state.params) == {
    'shared': {'conv0', 'norm0'},
    'own': [
      {'conv0', 'norm0', 'classifier'},
      {'conv1', 'norm1', 'classifier'},
    ],
  }
  assert layers(state.stats) == {
    'shared': {'norm0'}, 'own': [{'norm0'}, {'norm1'}],
  }  # fmt: skip
  after = toy.run(p, 1)
  small, large = (after.server.stats['own'][n] for n in range(2))
  assert np.abs(small['norm0']['mean']).max() > 0
  assert np.abs(large['norm1']['mean']).max() > 0
  test = p.federation._replace(size=jnp.zeros_like(p.federation.size))
  model = models.flax_model(net, x[:1])
  got = evaluate.evaluate(
    p.algorithm, model, p.hyper, after, p.federation, test
  )
  expected, _ = models.flax_model(net.shallow(1), x[:1]).apply(
    after.server.params['own'][0], after.server.stats['own'][0], x
  )
  right = (np.asarray(expected.logits).argmax(1) == y).mean()
  assert got['accuracy@1/2'] == pytest.approx(right)
  assert {'accuracy', 'loss', 'loss@1/2'} <= set(got)


def test_models_start_alike():
  """As copies of one network, but for heads of other sizes."""
  params = toy.problem('inclusivefl').state.server.params
  whole = toy.net(3).init(jax.random.key(1), jnp.ones((1, 4)))
  assert whole['params'].keys() == {*params['shared'], *params['own'][-1]}
  for own in params['own']:
    near = params['own'][-1]['classifier']['kernel']
    np.testing.assert_array_equal(own['classifier']['kernel'], near)
  np.testing.assert_array_equal(
    params['own'][0]['dense0']['kernel'], params['shared']['dense0']['kernel']
  )


def test_only_stages_of_one_shape_teach():
  change = {f'dense{n}': {'kernel': jnp.full((2, 2 + n // 2), n + 1.0)}
            for n in range(3)}  # fmt: skip
  got = inclusivefl.teaching(change, 1, 3)
  assert set(got) == {'dense0'}
  # 1 and 2; the third has another shape.
  np.testing.assert_allclose(got['dense0']['kernel'], 1.5)


@pytest.mark.usefixtures('x64')
def test_without_the_larger_model_nobody_teaches():
  """Of three models the largest, the larger two, and the middle one lack."""
  p = toy.problem('inclusivefl')
  dead = toy.DEAD
  for cohort in ([0, 1, 3, 4], [0, 3, dead, dead], [2, 5, 0, 3]):
    q = p.with_cohorts(np.array([cohort, [dead] * 4, [dead] * 4]))
    got = oracles.weights_of(toy.run(q).server.params)
    for a, b in zip(got, oracles.ORACLES['inclusivefl'](q), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_it_runs_from_the_command_line():
  config = digits.get_config('inclusivefl')
  config.model.name = 'cnn'
  config.model.hidden = fl.config.Model().hidden
  with pytest.raises(fl.ConfigError, match='CNN has no method shallow'):
    build.prepare(validate(config))
  config.algorithm.rates = ('1/2',)
  with pytest.raises(fl.ConfigError, match='has no 1'):
    validate(config)
  config = digits.get_config('inclusivefl')
  config.algorithm.beta = 1.5
  with pytest.raises(fl.ConfigError, match=r'algorithm.beta = 1.5 is out of'):
    validate(config)


def test_widths_are_refused():
  p = toy.problem('width')
  net = toy.net()
  sub = models.width_submodels(net, p.federation.x[:1], TOY.rates)
  parts = algorithms.Parts(toy.model(), toy.given(), submodels=sub)
  with pytest.raises(ValueError, match='several widths; use depth_submodels'):
    inclusivefl.inclusivefl(TOY, parts)


# Wrong ones.


@pytest.mark.usefixtures('x64')
def test_a_teacher_that_never_fires(monkeypatch):
  def own(change, depth, larger):
    return {
      name: change[name]
      for name in change
      if inclusivefl.stage_of(name) == depth - 1
    }

  monkeypatch.setattr(inclusivefl, 'teaching', own)
  assert error('inclusivefl') > 1e-4


@pytest.mark.usefixtures('x64')
def test_dropping_n_k(monkeypatch):
  monkeypatch.setattr(server, 'client_weight', lambda *_: jnp.ones(()))
  assert error('inclusivefl') > 1e-4


@pytest.mark.usefixtures('x64')
def test_the_wrong_models_layers(monkeypatch):
  """Client of every tier train the largest model."""
  original = inclusivefl._types
  monkeypatch.setattr(
    inclusivefl,
    '_types',
    lambda *args: original(*args)._replace(of_tier=(2, 2, 2)),
  )
  assert error('inclusivefl') > 1e-4
