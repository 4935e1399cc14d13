"""Server optimizers against the papers' formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms, server
from fedjax_ls.hyper import Hyper, Server
from fedjax_ls.types import Reduced
from tests import toy

pytestmark = pytest.mark.usefixtures('x64')

LR, M, B1, B2, TAU, V0 = 0.3, 0.8, 0.6, 0.7, 0.05, 0.01


def steps_of(settings, deltas, held=True):
  hyper = Hyper(client=None, server=settings, method=None)
  params = {'w': jnp.array([1.0, -2.0, 0.5])}
  opt = server.optimizer(settings).init(params)
  state = server.ServerState(params, {}, opt)
  for delta in deltas:
    reduced = Reduced(
      mean={'delta': {'w': jnp.asarray(delta)}, 'stats': {}},
      total={},
      held={'delta': {'w': jnp.asarray(held)}, 'stats': {}},
    )
    state = server.step(hyper, state, reduced, (), None)
  return np.asarray(state.params['w']), state.opt


def formula(name, deltas, correct=False):
  x, m, v = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.full(3, V0)
  for t, d in enumerate(deltas, 1):
    match name:
      case 'sgd':
        x = x + LR * d
        continue
      case 'momentum':
        m = M * m + d
        x = x + LR * m
        continue
      case 'damped_momentum':
        m = M * m + (1 - M) * d
        x = x + LR * m
        continue
      case 'adagrad':
        v = v + d**2
      case 'adam':
        v = B2 * v + (1 - B2) * d**2
      case 'yogi':
        v = v - (1 - B2) * d**2 * np.sign(v - d**2)
    m = B1 * m + (1 - B1) * d
    m_hat = m / (1 - B1**t) if correct else m
    v_hat = v / (1 - B2**t) if correct and name != 'adagrad' else v
    x = x + LR * m_hat / (np.sqrt(v_hat) + TAU)
  return x


DELTAS = np.random.RandomState(0).randn(4, 3) * [0.05, 0.3, 1.0]


@pytest.mark.parametrize('correct', [False, True])
@pytest.mark.parametrize(
  'name',
  ['sgd', 'momentum', 'damped_momentum', 'adagrad', 'adam', 'yogi'],
)
def test_follows_its_formula(name, correct):
  settings = Server(name, LR, M, B1, B2, TAU, V0, correct)
  got, _ = steps_of(settings, DELTAS)
  np.testing.assert_allclose(got, formula(name, DELTAS, correct), rtol=1e-12)


def test_what_is_not_held_keeps_its_value_and_moments():
  settings = Server('adam', LR, M, B1, B2, TAU, V0)
  held = np.array([True, False, True])
  got, opt = steps_of(settings, DELTAS, held)
  np.testing.assert_allclose(
    got, np.where(held, formula('adam', DELTAS), [1.0, -2.0, 0.5]), rtol=1e-12
  )
  moments = [a for a in jax.tree.leaves(opt) if a.ndim]
  assert [float(a[1]) for a in moments] == [0.0, V0]


def test_clients_count_as_in_the_paper_of_the_method():
  ctx = toy.ctx(toy.problem('fedavg'), client=1)
  counted = {
    (name, weights): float(
      server.client_weight(
        Hyper(None, Server(weights=weights), algorithms.find(name).settings()),
        ctx,
      )
    )
    for name in ('fedavg', 'scaffold')
    for weights in ('method', 'size', 'uniform')
  }
  assert counted == {
    ('fedavg', 'method'): 11.0,
    ('fedavg', 'size'): 11.0,
    ('fedavg', 'uniform'): 1.0,
    ('scaffold', 'method'): 1.0,
    ('scaffold', 'size'): 11.0,
    ('scaffold', 'uniform'): 1.0,
  }


def test_unknown_words_are_refused():
  with pytest.raises(ValueError, match=r"server.optimizer is 'lamb'; use sgd"):
    server.optimizer(Server('lamb'))
  with pytest.raises(ValueError, match=r"server.weights is 'age'; use method"):
    server.client_weight(Hyper(None, Server(weights='age'), None), None)
