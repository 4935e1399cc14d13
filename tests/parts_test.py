"""Loss terms, calibrations and SAM under any method."""

import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import calibrations
from fedjax_ls.algorithms.fedrs import FedRS
from fedjax_ls.config import set_field
from fedjax_ls.references import references
from fedjax_ls.validate import validate
from tests import oracles, toy
from tests.oracles import fedga, fedprox, scaffold
from tests.oracles.feddecorr import penalized

PARTS = {
  'fedprox': {'loss': {'terms': ('proximal',), 'mu': 0.5}},
  'feddecorr': {'loss': {'terms': ('decorrelation',), 'decorrelation': 0.1}},
  'fedlc': {'loss': {'calibration': 'fedlc', 'tau': 0.5}},
  'fedrs': {'loss': {'calibration': 'fedrs', 'alpha': 0.5}},
  'fedsam': {'client': {'sam': True, 'rho': 0.1}},
}


def weights(p):
  return oracles.weights_of(toy.run(p).server.params)


def assert_same(got, expected, tolerance):
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', PARTS)
def test_fedavg_with_the_part_is_the_method(name):
  with_part = toy.problem('fedavg', **PARTS[name])
  assert_same(weights(with_part), weights(toy.problem(name)), 0)


@pytest.mark.usefixtures('x64')
def test_graded_fedrs_as_a_part():
  loss = {'calibration': 'fedrs_graded', 'alpha': 0.5}
  graded = toy.problem('fedrs', FedRS(graded=True))
  expected = oracles.ORACLES['fedrs'](graded)
  assert_same(weights(toy.problem('fedavg', loss=loss)), expected, 1e-9)


@pytest.mark.usefixtures('x64')
def test_scaffold_with_decorrelation():
  loss = {'terms': ('decorrelation',), 'decorrelation_scale': 'code'}
  p = toy.problem('scaffold', loss=loss)
  of = penalized(float(p.hyper.loss.decorrelation), 'code')
  assert_same(weights(p), scaffold.oracle(p, lambda w, i: of), 1e-9)


@pytest.mark.usefixtures('x64')
def test_fedga_is_pulled_to_the_model_that_was_sent():
  """And not to the displaced one that its steps begin at."""
  p = toy.problem('fedga', loss={'terms': ('proximal',), 'mu': 0.5})
  expected = fedga.oracle(p, fedprox.pulled_by(0.5))
  assert_same(weights(p), expected, 1e-9)


def config(method, **changes):
  made = fl.Config(algorithm=fl.algorithms.find(method).settings())
  for name, value in changes.items():
    set_field(made, name.replace('__', '.'), value)
  return made


@pytest.mark.parametrize(
  ('method', 'changes', 'message'),
  [
    (
      'fedprox',
      {'loss__terms': ('proximal',)},
      r"loss.terms = \('proximal',\) repeats the term 'proximal'",
    ),
    (
      'feddecorr',
      {'loss__terms': ('proximal', 'decorrelation')},
      "repeats the term 'decorrelation' of method feddecorr; leave it out",
    ),
    (
      'feddecorr',
      {'algorithm__scale': 'sum'},
      "algorithm.scale = 'sum' is out of range; choose paper or code",
    ),
    (
      'fedlc',
      {'loss__calibration': 'fedrs'},
      "'fedrs' does not go with method fed(lc|rs), .*; use none",
    ),
    (
      'fedrs',
      {'loss__calibration': 'fedrs'},
      "'fedrs' does not go with method fed(lc|rs), .*; use none",
    ),
    (
      'fedrs',
      {'model__loss': 'squared_error'},
      "'squared_error' has no classes, .* method fed(lc|rs) .*; use cross",
    ),
    (
      'fedlc',
      {'model__loss': 'squared_error'},
      "'squared_error' has no classes, .* method fed(lc|rs) .*; use cross",
    ),
    ('fedsam', {'client__sam': True}, 'client.sam = True repeats what'),
    ('fedrs', {'algorithm__alpha': 1.5}, r'algorithm.alpha = 1.5 .* \[0, 1\]'),
    ('fedavg', {'loss__terms': ('moon',)}, 'choose from proximal, decorrel'),
  ],
)
def test_what_makes_no_sense_is_refused(method, changes, message):
  with pytest.raises(fl.ConfigError, match=message) as caught:
    validate(config(method, **changes))
  assert '\n' not in str(caught.value)


def test_what_goes_together():
  validate(
    config(
      'fedprox',
      loss__terms=('decorrelation',),
      loss__calibration='fedlc',
      client__sam=True,
    )
  )


@pytest.mark.parametrize('name', ['fedlc', 'fedrs', 'fedrs_graded'])
@pytest.mark.parametrize('classes', [0, 4])
def test_calibrations_need_the_classes_of_the_logits(name, classes):
  numbers = fl.Hyper(None, None, None, fl.Loss())
  labels, logits = jnp.ones(classes, int), jnp.ones((2, 3))
  with pytest.raises(ValueError, match=f'3 logits and the data .* {classes} '):
    calibrations.CALIBRATIONS[name](numbers, labels, logits)


def test_a_run_names_the_papers_of_its_parts():
  made = config(
    'fedprox',
    loss__terms=('decorrelation',),
    loss__calibration='fedrs_graded',
    client__sam=True,
  )
  names = [line.split()[0].rstrip(',') for line in references(made)]
  assert names == ['Li', 'Shi', 'Li', 'Qu', 'Foret']
  twice = config('fedlc', loss__calibration='fedlc')
  assert len(references(twice)) == 1
