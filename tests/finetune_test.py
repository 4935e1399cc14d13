"""Fine-tuning before evaluation."""

import numpy as np
import pytest

from fedjax_ls import algorithms, build, finetune, hyper, loop
from fedjax_ls.config import ConfigError
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.combinations_test import base


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', ['fedavg', 'ifca'])
def test_a_tuned_model_is_one_after_local_steps(name):
  client = {'unit': 'steps', 'amount': 3}
  p = toy.problem(name, client=client)
  ctx = toy.ctx(p, 4)
  change = p.algorithm.phases[0].client(p.hyper, ctx).summed['delta'].value
  own = ctx._replace(message=p.state.server)
  if name == 'ifca':
    before = p.algorithm.personal(p.hyper, own)[0]
  else:
    before = p.state.server.params
  # The number of steps of training is another.
  other = toy.problem(name)
  tuned = finetune.tuned(other.algorithm, toy.model(), 3)
  after = tuned.personal(other.hyper, own)[0]
  for a, b, c in zip(
    *map(oracles.weights_of, (after, before, change)), strict=True
  ):
    np.testing.assert_allclose(a, b + c.reshape(b.shape), atol=1e-12)


def test_zero_steps_is_the_method():
  p = toy.problem('fedavg')
  assert finetune.tuned(p.algorithm, toy.model(), 0) is p.algorithm


def test_a_configuration_judges_tuned_models():
  losses = []
  for steps in (0, 20):
    config = base()
    config.fine_tune = steps
    job, state, *_ = build.prepare(validate(config))
    programs = loop.compile_job(job, state)
    metrics, _ = programs.judge(job.hyper, job.federation, state, job.tests)
    losses.append(float(metrics['test/loss']))
  assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize(
  ('field', 'value', 'named'),
  [
    ('algorithm', algorithms.find('depthfl').settings(), 'method depthfl, '),
    ('sampler', hyper.Sampler('pow_d', 3), "sampler.name = 'pow_d', which"),
  ],
)
def test_a_refusal_names_the_method_or_the_sampler(field, value, named):
  config = base()
  config.fine_tune = 2
  setattr(config, field, value)
  with pytest.raises(ConfigError, match=f'fine_tune = 2 does not fit {named}'):
    build.prepare(validate(config))


@pytest.mark.parametrize(
  ('field', 'value'), [('asks', True), ('network', 0), ('ready', 0)]
)
def test_what_does_not_fit_is_refused(field, value):
  algorithm = toy.problem('fedavg').algorithm
  if field == 'asks':
    changes = {'sampler': algorithm.sampler._replace(asks=True)}
  else:
    changes = {field: value}
  with pytest.raises(ValueError, match=r'fine_tune = 2 does not fit .* 0 or'):
    finetune.tuned(algorithm._replace(**changes), toy.model(), 2)
