"""FedROD: what each head learns, and which model is judged."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_ls import algorithms, evaluate
from fedjax_ls import config as config_lib
from fedjax_ls.algorithms import fedrod
from fedjax_ls.data import federate
from fedjax_ls.hyper import Client, Hyper, Server
from fedjax_ls.models import flax_model
from fedjax_ls.models.base import Outputs
from fedjax_ls.models.flax_model import cross_entropy
from tests import oracles, toy
from tests.breaking import error
from tests.oracles.fedrod import heads

pytestmark = pytest.mark.usefixtures('x64')


def hyper(gamma=1.0):
  return Hyper(Client(), Server(), fedrod.FedROD(gamma))


def test_the_personal_heads_agree_with_the_oracle():
  p = toy.problem('fedrod')
  _, expected = heads(p)
  kept = toy.run(p).clients['kernel']
  np.testing.assert_allclose(kept, np.stack(expected), rtol=1e-9, atol=1e-9)
  assert np.abs(kept).max(axis=(1, 2)).min() > 1e-2


def judged(p):
  """Metrics on every client's own examples, after three rounds."""
  state, data = toy.run(p), p.federation
  parts = [np.asarray(data.index[i, :n]) for i, n in enumerate(toy.SIZES)]
  test = federate(data.x, data.y, parts, num_classes=3)
  test = jax.tree.map(jnp.asarray, test)
  return evaluate.evaluate(p.algorithm, toy.model(), p.hyper, state, data, test)


def test_clients_are_judged_by_both_heads_and_the_generic_model_by_one():
  p = toy.problem('fedrod')
  got, d = judged(p), oracles.Data(p)
  w, own = heads(p)
  examples = [d.own(i) for i in range(toy.DEAD)]

  def right(head, x, y):
    return (np.maximum(x @ w[0], 0) @ head).argmax(1) == y

  both = [right(w[1] + own[i], *examples[i]) for i in range(toy.DEAD)]
  one = [right(w[1], *examples[i]) for i in range(toy.DEAD)]
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
  near(got['accuracy'], np.concatenate(both).mean())
  near(got['accuracy/client_mean'], np.mean([r.mean() for r in both]))
  near(got['global_accuracy'], np.concatenate(one).mean())
  assert got['global_accuracy'] != got['accuracy']
  loss = sum(len(y) * oracles.loss(w, x, y) for x, y in examples)
  near(got['global_loss'], loss / sum(toy.SIZES))


def test_absent_classes_have_no_logit_and_finite_gradients():
  logits, labels = jnp.array([[1.0, 2.0, 30.0]]), jnp.array([4, 1, 0])

  def loss(logits, gamma=1.0):
    changed = fedrod.balanced(hyper(gamma), labels, logits)
    return cross_entropy(Outputs(changed, changed), jnp.array([0])).sum()

  value, slope = jax.value_and_grad(loss)(logits)
  np.testing.assert_allclose(value, -np.log(4 * np.e / (4 * np.e + np.e**2)))
  assert jnp.isfinite(slope).all()
  assert slope[0, 2] == 0
  # Without margins every class has its logit.
  assert jnp.abs(jax.grad(loss)(logits, 0.0)[0, 2]) > 0.9


def test_clipping_leaves_the_generic_model_alone():
  client = {'clip': True, 'clip_norm': 0.1}
  ours, theirs = (
    oracles.weights_of(toy.run(p).server.params)
    for p in (
      toy.problem('fedrod', fedrod.FedROD(0.0), client),
      toy.problem('fedavg', client=client),
    )
  )
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_leaving_out_the_class_counts(monkeypatch):
  monkeypatch.setattr(fedrod, 'balanced', lambda hyper, labels, logits: logits)
  assert error('fedrod') > 1e-4


def test_training_the_body_through_the_personal_head(monkeypatch):
  monkeypatch.setattr(jax.lax, 'stop_gradient', lambda tree: tree)
  assert error('fedrod') > 1e-4


def test_training_the_personal_head_with_margins(monkeypatch):
  def wrong(model):
    def term(hyper, view):
      head = view.params.personal['kernel']
      frozen = jax.lax.stop_gradient(view.outputs)
      logits = frozen.logits + frozen.features @ head
      loss = model.loss(frozen._replace(logits=logits), view.y)
      return fedrod.masked_mean(loss, view.mask)

    return term

  p = toy.problem('fedrod')
  expected = np.stack(heads(p)[1])
  monkeypatch.setattr(fedrod, 'personal_loss', wrong)
  got = toy.run(toy.problem('fedrod')).clients['kernel']
  assert np.abs(got - expected).max() > 1e-4


def test_a_bias_belongs_to_the_head():
  model = toy.model(toy.net().clone(use_bias=True))
  parts = algorithms.Parts(model, toy.given())
  made = fedrod.fedrod(fedrod.FedROD(), parts)
  p = toy.problem('fedavg')
  server, head = made.init(p.hyper, jax.random.key(0), p.federation)
  ctx = toy.ctx(p, 1)._replace(message=server, state=head)
  upload = jax.jit(made.phases[0].client)(
    p.hyper._replace(method=fedrod.FedROD()), ctx
  )
  assert np.abs(upload.state['bias']).max() > 1e-3
  params, _ = made.personal(p.hyper, ctx._replace(state=upload.state))
  np.testing.assert_allclose(
    params['classifier']['bias'],
    server.params['classifier']['bias'] + upload.state['bias'],
  )


def test_a_network_without_a_classifier():
  model = flax_model(nn.Sequential([nn.Dense(3)]), jnp.zeros((1, 4)))
  with pytest.raises(ValueError, match="named 'classifier'"):
    fedrod.fedrod(fedrod.FedROD(), algorithms.Parts(model, toy.given()))


@pytest.mark.parametrize(
  ('field', 'value', 'fix'),
  [
    ('loss.calibration', 'fedlc', 'use none'),
    ('model.loss', 'squared_error', 'use cross_entropy'),
  ],
)
def test_what_it_refuses(field, value, fix):
  config = config_lib.Config(algorithm=fedrod.FedROD())
  config_lib.set_field(config, field, value)
  with pytest.raises(ValueError, match=fix) as caught:
    fedrod.METHOD.check(config)
  assert '\n' not in str(caught.value)
