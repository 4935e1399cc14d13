"""The networks for text: sizes, formulas, causality, narrow versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fedjax_ls.models import (
  LSTM,
  Outputs,
  Transformer,
  flax_model,
  make_net,
)
from tests.networks import (
  KEY,
  check_masked_is_sliced,
  filled,
  near,
  num_parameters,
  quick_jit,
  to_numpy,
)

LENGTH, SYMBOLS = 6, 5


def text(batch=3, seed=0):
  symbols = np.random.default_rng(seed).integers(0, SYMBOLS, (batch, LENGTH))
  return jnp.asarray(symbols, jnp.int32)


def small_lstm(**options):
  return LSTM(SYMBOLS, embedding=4, hidden=(5, 6), **options)


def small_transformer(**options):
  options = {'norm': 'ln', 'norm_affine': True, **options}
  return Transformer(
    SYMBOLS, features=7, heads=2, head_features=4, hidden=9, blocks=2,
    dropout=0.0, **options,
  )  # fmt: skip


SMALL = {'lstm': small_lstm, 'transformer': small_transformer}


@pytest.mark.parametrize(
  ('symbols', 'expected'), [(80, 817_872), (90, 820_522)]
)
def test_the_lstm_has_its_known_size(symbols, expected):
  net = make_net('lstm', num_classes=symbols, use_bias=True)
  assert num_parameters(net, (80,), jnp.int32) == expected


def test_the_transformer_has_the_size_of_its_layers():
  options = {'norm': 'ln', 'norm_affine': True, 'use_bias': True}
  net = make_net('transformer', num_classes=90, **options)
  d, f, y, t = 256, 512, 90, 64
  block = 4 * (d * d + d) + d * f + f + f * d + d + 2 * 2 * d
  head = d * d + d + 2 * d + d * y + y
  expected = y * d + t * d + 2 * d + 4 * block + head
  assert num_parameters(net, (t,), jnp.int32) == expected


def test_input_symbols_may_outnumber_the_classes():
  net = make_net('lstm', num_classes=2, vocabulary=100)
  shapes = jax.eval_shape(net.init, KEY, text())['params']
  assert shapes['embedding'].shape == (100, 8)
  assert shapes['classifier']['kernel'].shape == (256, 2)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_the_lstm_is_its_formula():
  net = small_lstm(use_bias=True, positions='every')
  x = text()
  params = filled(net, x, jnp.float32)[0]
  outputs = to_numpy(quick_jit(net.apply)({'params': params}, x))
  seen = params['embedding'][np.asarray(x)]
  for layer in ('lstm0', 'lstm1'):
    w = params[layer]
    size = w['bias'].shape[1]
    h, c, hidden = np.zeros((3, size)), np.zeros((3, size)), []
    for t in range(LENGTH):
      i, f, g, o = (
        seen[:, t] @ w['input'][:, n]
        + h @ w['recurrent'][:, n]
        + w['bias'][n]
        for n in range(4)
      )  # fmt: skip
      c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
      h = sigmoid(o) * np.tanh(c)
      hidden.append(h)
    seen = np.stack(hidden, 1)
  near(outputs.features, seen)
  head = params['classifier']
  near(outputs.logits, seen @ head['kernel'] + head['bias'])


def layer_norm(x):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(
    x.var(-1, keepdims=True) + 1e-5
  )


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_the_transformer_is_its_formula():
  net = small_transformer(norm_affine=False, positions='every')
  x = text()
  params = filled(net, x, jnp.float32)[0]
  outputs = to_numpy(quick_jit(net.apply)({'params': params}, x))
  u = layer_norm(params['embedding'][np.asarray(x)] + params['position'])
  for block in ('block0', 'block1'):
    w = {
      k.removeprefix(f'{block}_'): v['kernel']
      for k, v in params.items()
      if k.startswith(block) and 'kernel' in v
    }
    total = np.zeros_like(u)
    for head in range(2):
      q, k, v = (u @ w[part][:, head] for part in 'qkv')
      for t in range(LENGTH):
        scores = np.einsum('bd,bsd->bs', q[:, t], k[:, : t + 1]) / np.sqrt(4)
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        mixed = np.einsum('bs,bsd->bd', p, v[:, : t + 1])
        total[:, t] += mixed @ w['out'][head]
    u = layer_norm(u + total)
    u = layer_norm(u + gelu(u @ w['dense0']) @ w['dense1'])
  u = layer_norm(gelu(u @ params['dense']['kernel']))
  near(outputs.features, u, 1e-4)
  near(outputs.logits, u @ params['classifier']['kernel'], 1e-4)


@pytest.mark.parametrize('name', SMALL)
def test_no_position_sees_a_later_one(name):
  every, last = (SMALL[name](positions=p) for p in ('every', 'last'))
  x = text()
  variables = {'params': filled(every, x, jnp.float32)[0]}
  run = quick_jit(
    lambda x: (every.apply(variables, x), last.apply(variables, x))
  )
  outputs, end = to_numpy(run(x))
  assert outputs.logits.shape == (3, LENGTH, SYMBOLS)
  near(outputs.logits[:, -1], end.logits)
  near(outputs.features[:, -1], end.features)
  changed, _ = to_numpy(run(x.at[:, 4].set((x[:, 4] + 1) % SYMBOLS)))
  near(changed.logits[:, :4], outputs.logits[:, :4], 1e-6)
  assert np.abs(changed.logits - outputs.logits)[:, 4:].max() > 1e-3


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize(
  ('norm', 'positions'),
  [('none', 'last'), ('ln', 'every'), ('gn', 'every'), ('bn', 'every')],
)
def test_a_masked_network_is_the_sliced_one(x64, name, norm, positions):
  net = SMALL[name](
    norm=norm, norm_affine=True, use_bias=True, positions=positions
  )
  x = text(4)
  y = jnp.array([0, 3, 1, 2])
  y = y if positions == 'last' else (x + y[:, None]) % SYMBOLS
  check_masked_is_sliced(net, x, y)


@pytest.mark.parametrize('name', SMALL)
def test_gradients_on_a_mesh_are_those_of_one_device(name):
  net = SMALL[name](lowering='matmul')
  x = text(4)
  params = filled(net, x, jnp.float32)[0]
  mesh = jax.make_mesh((2,), ('clients',), (jax.sharding.AxisType.Auto,))
  split, whole = PartitionSpec('clients'), PartitionSpec()

  def own(params, x):
    params = jax.lax.pcast(params, 'clients', to='varying')

    def total(params):
      return jnp.sum(jnp.sin(net.apply({'params': params}, x).logits))

    return jax.lax.psum(jax.grad(total)(params), 'clients')

  def gradients(devices):
    sharded = jax.shard_map(
      own, mesh=devices, in_specs=(whole, split), out_specs=whole
    )
    return to_numpy(quick_jit(sharded)(params, x))

  alone = jax.make_mesh((1,), ('clients',), (jax.sharding.AxisType.Auto,))
  near(gradients(mesh), gradients(alone), 1e-4)


def test_losses_and_accuracy_are_means_over_positions():
  model = flax_model(small_lstm(positions='every'), text(1))
  logits = np.random.default_rng(0).normal(size=(3, LENGTH, SYMBOLS))
  outputs, y = Outputs(jnp.asarray(logits), None), text()
  log_p = np.asarray(jax.nn.log_softmax(logits))
  chosen = np.take_along_axis(log_p, np.asarray(y)[..., None], 2)[..., 0]
  near(model.loss(outputs, y), -chosen.mean(1))
  right = (log_p.argmax(2) == np.asarray(y)).mean(1)
  near(model.metrics(outputs, y)['accuracy'], right)


def test_dropout_drops_in_training_only():
  net = small_transformer().clone(dropout=0.5)
  params = filled(net, text(), jnp.float32)[0]
  model = flax_model(net, text(1))

  @quick_jit
  def logits(key):
    train = model.apply(params, {}, text(), train=True, key=key)[0].logits
    return train, model.apply(params, {}, text(), key=key)[0].logits

  one, test = to_numpy(logits(jax.random.key(1)))
  other, same = to_numpy(logits(jax.random.key(2)))
  assert np.any(one != other)
  near(test, same, 0)


@pytest.mark.parametrize('name', SMALL)
def test_bfloat16_stays_near_with_float32_parameters_and_logits(name):
  exact, half = (SMALL[name](dtype=d) for d in (None, jnp.bfloat16))
  x = text()
  params = jax.eval_shape(half.init, KEY, x)
  assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(params))
  params = filled(exact, x, jnp.float32)[0]
  ours, expected = quick_jit(
    lambda: [net.apply({'params': params}, x) for net in (half, exact)]
  )()
  assert ours.logits.dtype == jnp.float32
  assert ours.features.dtype == jnp.bfloat16
  error = np.abs(to_numpy(ours.logits) - to_numpy(expected.logits)).max()
  assert 0 < error < 0.1


def test_bad_input_is_one_sentence():
  with pytest.raises(ValueError, match=r'type float32; .* of type int32'):
    small_lstm().init(KEY, jnp.zeros((2, 3)))
  with pytest.raises(ValueError, match=r"positions = 'first'.*'last'"):
    small_lstm(positions='first').init(KEY, text())
