"""Local training: schedules, batches, steps, gradients over all examples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_ls import hyper, local, transforms
from fedjax_ls.types import Upload
from tests import oracles, toy


@pytest.mark.parametrize(
  ('settings', 'expected'),
  [
    ({}, [0.2, 0.2, 0.2]),
    ({'schedule': 'exponential', 'decay': 0.5}, [0.2, 0.1, 0.05]),
    ({'schedule': 'cosine', 'horizon': 2}, [0.2, 0.1, 0.0]),
    (
      {'schedule': 'step', 'decay': 0.1, 'milestones': (1, 2)},
      [0.2, 0.02, 0.002],
    ),
  ],
)
def test_learning_rate_of_a_round(settings, expected):
  client = hyper.Client(learning_rate=0.2, **settings)
  got = [hyper.learning_rate(client, jnp.asarray(t)) for t in range(3)]
  np.testing.assert_allclose(got, expected, atol=1e-8)


def batches(client, size, steps, rows=None):
  rows = jnp.arange(12) if rows is None else rows
  key = jax.random.key(0)
  made, chosen = [], None
  for s in range(steps):
    chosen = local.reshuffled(client, key, size, s, chosen)
    made.append(local.batch(client, rows, size, chosen, s))
  return [np.asarray(r)[np.asarray(m)] for r, m in made]


def test_masked_epochs_visit_every_row_once_in_new_orders():
  client = hyper.Client(batch_size=4, unit='epochs', amount=2)
  assert local.num_steps(client, 11) == 6
  made = batches(client, 11, 6)
  assert [len(b) for b in made] == [4, 4, 3, 4, 4, 3]
  first, second = np.concatenate(made[:3]), np.concatenate(made[3:])
  np.testing.assert_array_equal(np.sort(first), np.arange(11))
  np.testing.assert_array_equal(np.sort(second), np.arange(11))
  assert (first != second).any()


def test_dropped_epochs_have_full_batches_of_distinct_rows():
  client = hyper.Client(
    batch_size=4, unit='epochs', amount=1, last_batch='dropped'
  )
  assert local.num_steps(client, 11) == 2
  made = batches(client, 11, 2)
  assert [len(b) for b in made] == [4, 4]
  assert len(set(np.concatenate(made))) == 8


def test_steps_run_over_epochs_and_clients_smaller_than_a_batch():
  client = hyper.Client(batch_size=4, unit='steps', amount=5)
  assert local.num_steps(client, 3) == 5
  made = batches(client, 3, 5, rows=jnp.array([7, 9, 2] + [7] * 9))
  for rows in made:
    np.testing.assert_array_equal(np.sort(rows), [2, 7, 9])


def result_of(p, client, **options):
  """What local training of one client gives."""
  ends = []

  def finish(hyper, ctx, begin, end):
    ends.append(end)
    return Upload()

  model = options.pop('model', toy.model())
  run = local.local_sgd(model, finish=finish, **options)
  run(p.hyper, toy.ctx(p, client))
  return ends[0]


@pytest.mark.usefixtures('x64')
def test_unrolled_steps_and_both_loops_agree():
  steps = {'unit': 'steps', 'amount': 6, 'batch_size': 4}
  epochs = {'unit': 'epochs', 'amount': 2, 'batch_size': 4}
  by_steps = result_of(toy.problem('fedavg', client=steps), 1)
  unrolled = result_of(toy.problem('fedavg', client=steps), 1, unroll=3)
  by_epochs = result_of(toy.problem('fedavg', client=epochs), 1)
  for other in (unrolled, by_epochs):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
      other,
      by_steps,
    )
  assert by_steps.steps == 6
  assert by_steps.examples == 22


@pytest.mark.usefixtures('x64')
def test_a_term_and_the_keywords_of_the_chain_arrive():
  """A proximal term as a loss and as a transform take the same steps."""
  p = toy.problem('fedavg')
  mu = 0.3

  def term(hyper, view):
    gap = optax.tree.sub(view.params, view.ctx.message.params)
    return mu / 2 * sum(jnp.sum(g * g) for g in jax.tree.leaves(gap))

  def proximal():
    def update(updates, state, params=None, *, anchor, grad_fn, value, **_):
      assert value.shape == ()
      again = jax.tree.leaves(grad_fn(params))
      for a, b in zip(again, jax.tree.leaves(updates), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
      pull = jax.tree.map(lambda y, x: mu * (y - x), params, anchor)
      return optax.tree.add(updates, pull), state

    return optax.GradientTransformationExtraArgs(
      lambda _: optax.EmptyState(), update
    )

  def start(hyper, ctx):
    message = ctx.message
    return local.Start(
      message.params, message.stats, extra={'anchor': message.params}
    )

  def tx(hyper, ctx):
    return optax.chain(proximal(), local.optimizer(hyper, ctx))

  by_term = result_of(p, 3, terms=(term,))
  with jax.disable_jit():
    by_transform = result_of(p, 3, tx=tx, start=start)
  plain = result_of(p, 3)
  got, expected, without = (
    oracles.weights_of(e.params) for e in (by_transform, by_term, plain)
  )
  for a, b, c in zip(got, expected, without, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10)
    assert np.abs(b - c).max() > 1e-3


@pytest.mark.usefixtures('x64')
def test_full_gradient_and_loss_read_every_row_once():
  p = toy.problem('fedavg')
  ctx = toy.ctx(p, 1)
  params = p.state.server.params
  gradient, loss = local.full_gradient(
    toy.model(), p.hyper, ctx, params, p.state.server.stats
  )
  w = oracles.weights_of(params)
  own = oracles.Data(p).own(1)
  expected = oracles.gradient(w, *own)
  for a, b in zip(oracles.weights_of(gradient), expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10)
  again = local.full_loss(
    toy.model(), p.hyper, ctx, params, p.state.server.stats
  )
  np.testing.assert_allclose([loss, again], oracles.loss(w, *own), rtol=1e-10)


@pytest.mark.usefixtures('x64')
def test_clipping_bounds_the_step():
  p = toy.problem(
    'fedavg',
    client={
      'optimizer': 'sgd', 'unit': 'steps', 'amount': 1, 'weight_decay': 0.0,
      'clip': True, 'clip_norm': 1e-3,
    },
  )  # fmt: skip
  end = result_of(p, 1)
  step = optax.tree.sub(end.params, p.state.server.params)
  rate = p.hyper.client.learning_rate
  np.testing.assert_allclose(optax.tree.norm(step), 1e-3 * rate, rtol=1e-6)


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('schedule', 'linear'),
    ('optimizer', 'lion'),
    ('unit', 'minutes'),
    ('last_batch', 'kept'),
  ],
)
def test_unknown_words_are_refused(field, value):
  client = dataclasses.replace(toy.CLIENT, **{field: value})
  p = toy.problem('fedavg')
  p = p._replace(hyper=p.hyper._replace(client=client))
  with pytest.raises(ValueError, match=f"client.{field} is '{value}'; use "):
    result_of(p, 0)


def test_local_steps_see_augmented_examples():
  p = toy.problem('fedavg', client={'amount': 1, 'unit': 'steps'})
  seen = []

  def spy(hyper, view):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), view.x)
    return 0.0

  model = toy.model()._replace(
    augment=lambda key, x: x + jax.random.normal(key, x.shape)
  )
  client = local.local_sgd(model, terms=(spy,))
  for round in (0, 1):
    key = jax.random.key(round)
    client(p.hyper, toy.ctx(p, 1)._replace(key=key))
  jax.effects_barrier()
  x = np.asarray(toy.federation().x)
  assert len(seen) == 2
  assert not np.isclose(seen[0][0], x).all(1).any()
  assert (seen[0] != seen[1]).any()


def test_sam_takes_the_gradient_at_the_worst_point():
  x = {'a': jnp.array([3.0, 0.0]), 'b': jnp.array([1.0])}
  curvature = {'a': jnp.array([1.0, 2.0]), 'b': jnp.array([4.0])}

  def grad_fn(y):
    return jax.tree.map(jnp.multiply, curvature, y)

  g = grad_fn(x)
  tx = transforms.sharpness_aware(0.1)
  got, _ = tx.update(g, tx.init(x), x, grad_fn=grad_fn)
  # g = (3, 0, 4), |g| = 5
  np.testing.assert_allclose(got['a'], [3 + 0.1 * 3 / 5, 0], rtol=1e-6)
  np.testing.assert_allclose(got['b'], [4 * (1 + 0.1 * 4 / 5)], rtol=1e-6)
  zero = jax.tree.map(jnp.zeros_like, x)
  got, _ = tx.update(zero, tx.init(x), zero, grad_fn=grad_fn)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(got))
