"""A whole run in a folder, and a run by one call."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import build, loop, padding, progress, writers
from fedjax_ls import config as config_lib
from fedjax_ls import round as round_lib
from fedjax_ls.checkpoint import Checkpoints, newest
from fedjax_ls.models.flax_model import cross_entropy
from fedjax_ls.train import train
from tests.config_test import example


def tiny(method: str = 'fedavg', **fields) -> fl.Config:
  """Digits, a net of 64-8-10, six rounds, evaluated every second."""
  config = example(method)
  changes = {
    'rounds': 6,
    'eval_every': 2,
    'model.hidden': (8,),
    'model.norm': 'ln',
    'client.amount': 3,
    'writers.progress': 'off',
    'writers.plots': False,
  }
  for name, value in {**changes, **fields}.items():
    config_lib.set_field(config, name.replace('__', '.'), value)
  return config


def lines(folder) -> list[dict]:
  text = (folder / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_a_run_writes_its_files(tmp_path):
  result = train(tiny(writers__plots=True), tmp_path)
  names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*')}
  assert {
    'config.json',
    'partition.npz',
    'metrics.jsonl',
    'timing.jsonl',
    'summary.json',
    'plots/clients.png',
    'plots/learning_curve.png',
    'plots/partition.png',
    'checkpoints/6',
  } <= names
  assert [line['round'] for line in lines(tmp_path)] == [2, 4, 6]
  assert {'test/accuracy', 'test/loss', 'train/loss'} <= set(result['last'])
  stored = json.loads((tmp_path / 'config.json').read_text())
  assert stored['resolved']['execution.chunk'] == 1
  assert stored['resolved']['execution.conv'] == 'matmul'
  assert {'python', 'jax', 'flax', 'optax', 'commit'} <= set(stored['versions'])
  partition = fl.data.Partition.load(str(tmp_path / 'partition.npz'))
  assert partition.hash == stored['partition']['hash']


def test_a_finished_run_is_left_alone(tmp_path, capsys):
  first = train(tiny(), tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  times = (tmp_path / 'timing.jsonl').read_bytes()
  capsys.readouterr()
  assert train(tiny(), tmp_path) == first
  assert 'finished' in capsys.readouterr().out
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before
  assert (tmp_path / 'timing.jsonl').read_bytes() == times


def test_the_round_is_selected_on_validation(tmp_path):
  result = train(tiny(data__validation=0.2), tmp_path)
  found = lines(tmp_path)
  best = max(found, key=lambda line: line['validation/accuracy'])
  assert result['selected_on_validation'] == best
  tested = max(found, key=lambda line: line['test/accuracy'])
  assert result['best_on_test'] == tested


@pytest.mark.parametrize(
  ('method', 'more'),
  [
    ('scaffold', {}),
    ('fedavg', {'attack': fl.Attack('sign_flip'), 'fine_tune': 2}),
    ('fedavg', {'attack': fl.Attack('label_flip')}),
  ],
)
def test_a_run_and_one_call_are_the_same_loop(tmp_path, method, more):
  config = tiny(method, sampler__name='uniform', sampler__cohort_size=4, **more)
  train(config, tmp_path)
  dataset = fl.data.load('digits')
  partition = fl.data.classes(dataset.y_train, 10, 1, 0, dataset.y_test)
  result = fl.fit(
    fl.flax_model(
      fl.MLP(10, hidden=(8,), norm='ln'), dataset.x_train[:1]
    ),
    fl.federate(dataset.x_train, dataset.y_train, partition.train),
    test=(dataset.x_test, dataset.y_test, partition.test),
    method=method,
    client=fl.Client(amount=3),
    sampler=fl.samplers.uniform(4),
    rounds=6,
    eval_every=2,
    **more,
  )  # fmt: skip
  assert result.history == lines(tmp_path)


@pytest.mark.parametrize('method', sorted(fl.algorithms.METHODS))
def test_every_method_runs(tmp_path, method):
  train(tiny(method, rounds=2), tmp_path)
  (line,) = lines(tmp_path)
  assert 0 <= line['test/accuracy'] <= 1
  assert line['test/clients_left_out'] == 0


def test_tiers_are_dealt_evenly(tmp_path):
  experiment = build.prepare(tiny('width'))
  tier = np.asarray(experiment.job.federation.tier)
  assert sorted(np.bincount(tier)) == [3, 3, 4]


def test_divergence_names_the_round_and_keeps_the_last_good_state(tmp_path):
  config = tiny(client__learning_rate=1e20, model__norm='none')
  with pytest.raises(fl.Diverged, match=r'diverged by round 2: train/loss is'):
    train(config, tmp_path)
  assert lines(tmp_path) == []
  assert newest(tmp_path / 'checkpoints') == 0


def test_own_module_loss_and_real_targets():
  random = np.random.RandomState(0)
  x = random.randn(60, 3).astype(np.float32)
  y = x @ np.array([[1.0], [-2.0], [0.5]], np.float32)

  def absolute_error(outputs, y):
    return jnp.abs(outputs.logits - y).mean(-1)

  model = fl.flax_model(nn.Dense(1), x[:1], loss=absolute_error)
  result = fl.fit(
    model,
    fl.federate(x[:50], y[:50], np.split(np.arange(50), 5)),
    test=(x[50:], y[50:]),
    client=fl.Client(learning_rate=0.05, batch_size=8),
    rounds=40,
    eval_every=20,
  )
  assert [line['round'] for line in result.history] == [20, 40]
  assert set(result.history[0]) == {'round', 'test/loss', 'train/loss'}
  kernel = result.params['kernel'][:, 0]
  np.testing.assert_allclose(kernel, [1, -2, 0.5], atol=0.1)


def test_tests_of_a_client_may_be_empty():
  x, y = np.ones((4, 2), np.float32), np.array([0, 1, 1, 1])
  federation = fl.federate(x, y, [[0, 1], [2], [3]])
  test = loop.evaluation_set(x, y, federation, [[], [1, 2], [0]])
  np.testing.assert_array_equal(test.size, [0, 2, 1])
  np.testing.assert_array_equal(test.labels, [[0, 0], [0, 2], [1, 0]])
  np.testing.assert_array_equal(test.index[1], [1, 2])


@pytest.mark.parametrize('devices', [2, 4])
def test_devices_change_rounding_only(tmp_path, devices):
  one, many = tmp_path / 'one', tmp_path / 'many'
  train(tiny(rounds=2), one)
  train(tiny(rounds=2, execution__devices=devices), many)
  (a,), (b,) = lines(one), lines(many)
  assert a['train/loss'] == pytest.approx(b['train/loss'], rel=1e-5)
  stored = json.loads((many / 'config.json').read_text())
  assert stored['resolved']['execution.devices'] == devices


def test_debug_mode_runs_a_whole_run(tmp_path):
  config = tiny(
    rounds=1,
    client__amount=1,
    model__norm='none',
    execution__debug=True,
    partition__num_clients=2,
  )
  config.partition.classes_per_client = 5
  train(config, tmp_path / 'debug')
  config.execution.debug = False
  train(config, tmp_path / 'fast')
  (a,), (b,) = lines(tmp_path / 'debug'), lines(tmp_path / 'fast')
  assert a['train/loss'] == pytest.approx(b['train/loss'], rel=1e-5)


def test_largest_chunk_is_a_divisor_that_fits():
  for budget in range(0, 140, 7):
    sizes = [n for n in (1, 2, 3, 4, 6, 12) if 10 * n <= budget] or [1]
    found = build.largest_chunk(12, lambda n: 10 * n, budget)
    assert found == sizes[-1]


def test_chunk_shrinks_to_the_memory(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  experiment = build.prepare(tiny())
  assert experiment.shrinks
  assert experiment.job.execution.chunk == 10
  whole = loop.compile_job(experiment.job, experiment.state).memory
  monkeypatch.setattr(build, 'free_bytes', lambda: whole)
  smaller, programs = build.compiled(experiment)
  assert smaller.job.execution.chunk in (1, 2, 5)
  assert smaller.resolved['execution.chunk'] == smaller.job.execution.chunk
  assert programs.memory <= build.MEMORY_SHARE * whole


def _state() -> round_lib.State:
  return round_lib.State(
    server={'w': jnp.arange(3, dtype=jnp.bfloat16), 'none': jnp.zeros((2, 0))},
    clients=(),
    sampler={'seen': jnp.array([True, False])},
    tally={'train/loss': (jnp.float32(1) / 3, jnp.float32(7))},
    seed=jnp.uint32(2**32 - 1),
    round=jnp.int32(5),
  )


def test_checkpoint_keeps_bits_and_types(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(_state(), {'metrics_bytes': 12})
  checkpoints.close()
  checkpoints = Checkpoints(tmp_path)
  restored, record = checkpoints.restore(5, _state())
  checkpoints.close()
  assert record == {'metrics_bytes': 12}
  for a, b in zip(
    jax.tree.leaves(restored), jax.tree.leaves(_state()), strict=True
  ):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_checkpoint_of_other_arrays_is_refused(tmp_path):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(_state(), {})
  other = _state()._replace(seed=jnp.int32(0))
  with pytest.raises(ValueError, match=r'\.seed.*another workdir'):
    checkpoints.restore(5, other)
  checkpoints.close()


def test_unfinished_checkpoints_do_not_count(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(_state(), {})
  checkpoints.close()
  (tmp_path / '9.orbax-checkpoint-tmp').mkdir()
  (tmp_path / '8').mkdir()
  assert newest(tmp_path) == 5
  assert newest(tmp_path / 'nothing') == 0


def test_keep_deletes_the_oldest(tmp_path):
  train(tiny(writers__keep=2), tmp_path)
  kept = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {'4', '6'}


def test_metrics_are_cut_to_a_checkpoint(tmp_path):
  folder = writers.Folder(tmp_path)
  size = folder.add_metrics({'round': 1, 'x': 0.1})
  folder.add_metrics({'round': 2, 'x': float('nan')})
  assert folder.metrics()[1] == {'round': 2, 'x': None}
  folder.cut_metrics(size)
  assert folder.metrics() == [{'round': 1, 'x': 0.1}]
  with pytest.raises(ValueError, match='restore the file'):
    folder.cut_metrics(size + 1)


@pytest.mark.parametrize('kind', ['lines', 'bar', 'auto'])
def test_progress_tells_round_accuracy_and_rate(capsys, kind):
  with progress.progress(kind, 4) as shown:
    shown.show(2, {'test/accuracy': 0.25, 'train/loss': 1.0})
    shown.show(3, {})
    shown.show(4, {'test/accuracy': 0.75, 'train/loss': 0.5})
  text = capsys.readouterr().out
  for part in ('4/4', '0.7500', 'rounds/s', 'left'):
    assert part in text


def test_progress_can_be_off(capsys):
  with progress.progress('off', 4) as shown:
    shown.show(4, {'test/accuracy': 0.75})
  assert capsys.readouterr().out == ''


def test_summary_of_a_regression_takes_the_least_loss():
  told = [{'round': 1, 'test/loss': 0.5}, {'round': 2, 'test/loss': 0.7}]
  assert writers.summary(told)['best_on_test']['round'] == 1


class Full(jax.errors.JaxRuntimeError):
  """What a device without memory raises."""


def full(*args):
  raise Full('RESOURCE_EXHAUSTED: Out of memory while trying to allocate')


@pytest.mark.parametrize(
  ('chunk', 'where', 'message'),
  [
    (8, 'device', 'execution.chunk = 8 .*; use execution.chunk = 4$'),
    (
      1,
      'device',
      r'use execution\.data = host or a smaller client\.batch_size',
    ),
    (1, 'host', r'use a smaller client\.batch_size'),
  ],
)
def test_without_memory_a_run_names_what_to_change(
  tmp_path, monkeypatch, chunk, where, message
):
  compile_job = loop.compile_job

  def compiled(job, state):
    return compile_job(job, state)._replace(advance=full)

  monkeypatch.setattr(loop, 'compile_job', compiled)
  config = tiny(execution__chunk=chunk, execution__data=where)
  with pytest.raises(fl.OutOfMemory, match=message):
    train(config, tmp_path)


def test_data_that_do_not_fit_are_named(monkeypatch):
  monkeypatch.setattr(build, 'place', full)
  with pytest.raises(fl.OutOfMemory, match=r'execution\.data = host'):
    build.prepare(tiny())


def test_other_errors_of_the_device_stay():
  def fails():
    raise jax.errors.JaxRuntimeError('INTERNAL: something else')

  with (
    pytest.raises(jax.errors.JaxRuntimeError, match='something else'),
    loop.memory_named(None),
  ):
    fails()


def test_chunks_that_cannot_be_compiled_shrink(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  compile_job = loop.compile_job

  def compiled(job, state):
    with loop.memory_named(job):
      return full() if job.execution.chunk > 2 else compile_job(job, state)

  monkeypatch.setattr(loop, 'compile_job', compiled)
  monkeypatch.setattr(build, 'free_bytes', lambda: 1e12)
  experiment, _ = build.compiled(build.prepare(tiny()))
  assert experiment.job.execution.chunk == 2


@pytest.mark.parametrize('how', ['fast', 'debug', 'host'])
def test_everything_runs_in_the_precision_that_is_set(how):
  seen = set()

  def loss(outputs, y):
    seen.add(jax.config.jax_default_matmul_precision)
    return cross_entropy(outputs, y)

  experiment = build.prepare(
    tiny(
      rounds=1,
      client__amount=1,
      execution__precision='tensorfloat32',
      execution__debug=how == 'debug',
      execution__data='host' if how == 'host' else 'device',
      partition__num_clients=10,
    )
  )
  job = experiment.job
  parts = fl.algorithms.Parts(
    job.model._replace(loss=loss), fl.samplers.uniform(1)
  )
  algorithm = fl.algorithms.find('fedavg').build(None, parts)
  job = job._replace(algorithm=algorithm, model=parts.model)
  programs = loop.compile_job(job, experiment.state)
  next(loop.run(job, programs, experiment.state, 1, 1))
  assert seen == {'tensorfloat32'}


def test_a_run_prints_what_to_cite_and_where_work_is_padding(tmp_path, capsys):
  config = tiny(rounds=1, client__batch_size=600, server__optimizer='adam')
  train(config, tmp_path)
  told = capsys.readouterr().out
  for part in ('McMahan', 'Reddi', 'Zhang'):
    assert part in told
  assert 'padding: 76% of the local work' in told
  assert 'smaller client.batch_size (now 600)' in told


@pytest.mark.parametrize('unit', ['steps', 'epochs'])
@pytest.mark.parametrize('last_batch', ['masked', 'dropped'])
@pytest.mark.parametrize('chunk', [1, 3])
def test_padded_work_equals_a_plain_count(unit, last_batch, chunk):
  sizes = np.array([9, 4, 30, 5, 12, 7, 4])
  client = fl.Client(batch_size=4, unit=unit, amount=2, last_batch=last_batch)
  useful = computed = 0.0
  ordered = sorted(sizes, reverse=True)
  for i in range(0, len(ordered), chunk):
    steps = []
    for size in ordered[i : i + chunk]:
      batches = [min(4, size - at) for at in range(0, size, 4)]
      if last_batch == 'dropped':
        batches = [b for b in batches if b == 4]
      number = 2 if unit == 'steps' else 2 * len(batches)
      useful += number * np.mean(batches)
      steps.append(number)
    computed += 4 * chunk * max(steps)
  found = padding.padded_work(client, sizes, 1, chunk)
  assert found == pytest.approx(1 - useful / computed)
