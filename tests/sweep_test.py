"""Studies: the algebra, what shares a program, and that points are runs."""

import json
import math
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedjax_ls as fl
from experiments import commandline
from fedjax_ls import build, sweep
from fedjax_ls import config as config_lib
from fedjax_ls import round as round_lib
from fedjax_ls import train as train_lib
from fedjax_ls.sweep import axes, groups, halving, launch, layouts, programs
from fedjax_ls.sweep.folders import Run
from fedjax_ls.sweep.programs import Layout, Programs
from fedjax_ls.train import train
from tests.messages_test import says
from tests.resume_test import assert_same_run
from tests.train_test import lines, tiny

ROOT = pathlib.Path(__file__).parent.parent

names = st.sampled_from('abcdefgh')
values = st.lists(st.integers(), min_size=1, max_size=4, unique=True)


def axis_of(name):
  return values.map(lambda v: sweep.axis(name, v))


@given(axis_of('a'), axis_of('a'), axis_of('b'), axis_of('c'))
def test_algebra(a, other, b, c):
  product, chain = sweep.product, sweep.chain
  assert len(product(a, b, c)) == len(a) * len(b) * len(c)
  assert product(product(a, b), c) == product(a, product(b, c))
  assert product(a, [{}]) == a
  assert product(a, []) == []
  assert chain(chain(a, b), other) == chain(a, chain(b, other))
  assert chain(a, a) == a
  assert product(chain(a, other), b) == chain(product(a, b), product(other, b))
  n = min(len(a), len(b))
  zipped = sweep.zip_(a[:n], b[:n])
  assert zipped == [product(a, b)[i * len(b) + i] for i in range(n)]


def test_algebra_refuses_what_is_ambiguous():
  seeds = sweep.axis('seed', (0, 1))
  with says('seed', 'leave it out'):
    sweep.product(seeds, sweep.axis('seed', (2, 3)))
  with says('2, 1 points', 'same length'):
    sweep.zip_(seeds, sweep.axis('rounds', (3,)))
  with says('seed', '1 twice'):
    sweep.axis('seed', (1, 1))
  with says('seed', 'no values'):
    sweep.axis('seed', ())


def test_parse_reads_every_type():
  text = (
    'model.hidden=(8,),(16, 8);client.clip=true;client.momentum=1e-1;'
    'algorithm=fedga;algorithm.beta=2|model.norm=ln'
  )
  common = {
    'client.clip': True, 'client.momentum': 0.1, 'algorithm': 'fedga',
    'algorithm.beta': 2.0,
  }  # fmt: skip
  assert sweep.parse(text, fl.Config()) == [
    {'model.hidden': (8,), **common},
    {'model.hidden': (16, 8), **common},
    {'model.norm': 'ln'},
  ]


WRONG = [
  ('client.learning_rat=0.1', "did you mean 'client.learning_rate'?"),
  ('client=0.1', 'is a group'),
  ('seed', 'write FIELD=VALUE'),
  ('seed=1,', 'write FIELD=VALUE'),
  ('seed=1;;seed=2', 'write FIELD=VALUE'),
  ('model.hidden=(8,16', 'write FIELD=VALUE'),
  ('seed=1;seed=2', 'leave it out of one'),
  ('seed=1,1', '1 twice'),
  ('seed=1.5', "seed = '1.5' is no whole number"),
  ('client.learning_rate=0.1,big', "'big' is no finite number"),
  ('client.clip=1', "'1' is no truth value"),
  ('client.learning_rate=-1', 'choose a number above 0'),
  ('model.norm=lm', "did you mean 'ln'?"),
  ('algorithm=fedavgg', "did you mean 'fedavg'?"),
  ('algorithm.beta=1', 'no settings of its own'),
  ('algorithm=fedavg,fedga;algorithm.beta=1', 'method fedavg has no such'),
  ('rounds=5,6', 'does not make another run'),
  ('execution.chunk=1,2', 'does not make another run'),
]


@pytest.mark.parametrize(('text', 'part'), WRONG)
def test_a_wrong_sweep_is_one_sentence(text, part):
  with says(part):
    sweep.points(tiny(), sweep.parse(text, tiny()))


def test_methods_start_from_their_own_configuration():
  made = sweep.points(
    tiny(),
    sweep.parse('algorithm=fedavg,scaffold', tiny()),
    lambda name: tiny(name, client__amount=5),
  )
  assert [p.config.client.amount for p in made] == [3, 5]
  assert [config_lib.method_name(p.config) for p in made] == [
    'fedavg', 'scaffold',
  ]  # fmt: skip


def test_points_of_equal_configurations_are_one():
  base = tiny()
  rates = sweep.axis('client.learning_rate', (0.1, 0.2))
  same = sweep.product(rates, sweep.axis('model.norm', ('ln',)))
  assert len(sweep.points(base, sweep.chain(rates, same))) == 2
  (a, _), (b, _) = sweep.points(base, rates), sweep.points(base, same)
  assert a.id == b.id
  assert a.name != b.name
  longer = tiny(rounds=9, execution__chunk=2)
  assert sweep.points(longer, rates)[0].id == a.id


@pytest.mark.parametrize('method', sorted(fl.algorithms.METHODS))
def test_numbers_are_the_leaves_of_the_settings(method):
  config = tiny(method)
  found = axes.numbers(config)
  settings = build.settings(config)
  assert len(found) == len(jax.tree.leaves(settings))
  for field in found:
    changed = tiny(method, **{field.replace('.', '__'): 0.625})
    leaves = map(jax.tree.leaves, (settings, build.settings(changed)))
    assert sum(a != b for a, b in zip(*leaves, strict=True)) == 1
    assert axes.structure(changed) == axes.structure(config)


@pytest.mark.parametrize(
  ('field', 'value', 'shared'),
  [
    ('seed', 5, True),
    ('partition__alpha', 0.7, True),
    ('client__batch_size', 8, False),
    ('model__norm_eps', 1e-3, False),
    ('client__clip', True, False),
    ('data__name', 'synthetic', False),
  ],
)
def test_what_shares_a_structure(field, value, shared):
  same = axes.structure(tiny()) == axes.structure(tiny(**{field: value}))
  assert same == shared


def plain(**fields) -> fl.Config:
  """Without a norm, which compiles faster."""
  return tiny(**{'model__norm': 'none', **fields})


def dirichlet(**fields) -> fl.Config:
  """Clients of other sizes under every seed."""
  fields = {
    'partition__kind': 'dirichlet',
    'partition__alpha': 0.5,
    'partition__min_size': 5,
    **fields,
  }
  return plain(**fields)


def counted(monkeypatch) -> list[int]:
  """Grows by one whenever a block of rounds is traced."""
  traces = []
  run_rounds = round_lib.run_rounds

  def counting(*args):
    traces.append(1)
    return run_rounds(*args)

  monkeypatch.setattr(round_lib, 'run_rounds', counting)
  return traces


def study(base: fl.Config, text: str) -> list[sweep.Point]:
  return sweep.points(base, sweep.parse(text, base))


def assert_same_results(ours, theirs, rel=1e-5):
  a, b = lines(ours), lines(theirs)
  assert len(a) == len(b) > 0
  for x, y in zip(a, b, strict=True):
    assert list(x) == list(y)
    assert x == pytest.approx(y, rel=rel)


TEXT = 'client.learning_rate=0.05,0.2;seed=0,3'


@pytest.fixture(scope='module')
def singles(tmp_path_factory) -> pathlib.Path:
  """The points of `TEXT` as single runs."""
  root = tmp_path_factory.mktemp('singles')
  for point in study(dirichlet(), TEXT):
    train(point.config, root / point.name)
  return root


@pytest.mark.parametrize(
  ('at_once', 'devices'), [(1, 1), (2, 2), (4, 1), (0, 3)]
)
def test_points_are_their_single_runs(
  tmp_path, monkeypatch, singles, at_once, devices
):
  points = study(dirichlet(), TEXT)
  traces = counted(monkeypatch)
  done = sweep.run(points, tmp_path, sweep.Options(at_once, devices))
  assert len(traces) == 1
  assert done == {'finished': points, 'diverged': [], 'stopped': []}
  sizes = set()
  for point in points:
    ours, theirs = tmp_path / 'points' / point.name, singles / point.name
    assert_same_results(ours, theirs)
    files = [{p.name for p in path.iterdir()} for path in (ours, theirs)]
    assert files[0] == files[1]
    a, b = (json.loads((p / 'config.json').read_text()) for p in (ours, theirs))
    assert {k: a[k] for k in a if k != 'resolved'} == {
      k: b[k] for k in b if k != 'resolved'
    }
    sizes.add(a['partition']['rows_max'])
  assert len(sizes) == 2  # padded to one shape


@pytest.mark.parametrize('method', ['scaffold', 'ifca', 'fedbn'])
def test_methods_with_states_are_their_single_runs(tmp_path, method):
  """Also where the cohort changes and client states are scattered."""
  base = dirichlet(
    rounds=3, sampler__name='uniform', sampler__cohort_size=4, eval_every=3
  )
  base.algorithm = fl.algorithms.find(method).settings()
  points = study(base, 'client.learning_rate=0.05,0.2')
  sweep.run(points, tmp_path)
  train(points[1].config, tmp_path / 'single')
  ours = tmp_path / 'points' / points[1].name
  assert_same_results(ours, tmp_path / 'single')


@pytest.mark.parametrize('devices', [1, 4])
def test_clients_may_be_spread_over_devices_too(
  tmp_path, singles, devices, capsys
):
  """With four devices, two points at a time on two devices each."""
  points = study(dirichlet(execution__devices=2), TEXT)
  sweep.run(points, tmp_path, sweep.Options(points_at_once=2, devices=devices))
  assert f'on {max(devices, 2)} devices' in capsys.readouterr().out
  for point in points:
    ours = tmp_path / 'points' / point.name
    assert_same_results(ours, singles / point.name)


def test_a_point_goes_on_as_a_single_run(tmp_path, singles):
  points = study(dirichlet(), TEXT)[:1]
  sweep.run(points, tmp_path / 'study')
  single = tmp_path / 'single'
  shutil.copytree(singles / points[0].name, single)
  longer = dirichlet(rounds=8, client__learning_rate=0.05)
  folder = tmp_path / 'study' / 'points' / points[0].name
  train(longer, folder)
  train(longer, single)
  assert lines(folder)[-1]['round'] == 8
  assert_same_results(folder, single)


def test_structures_compile_once_each(tmp_path, monkeypatch, capsys):
  """And spread over the devices, unless they are told otherwise."""
  traces = counted(monkeypatch)
  base = plain(rounds=2)
  points = study(base, 'model.norm=none,fn;client.learning_rate=0.1,0.2')
  points += study(base, 'algorithm=scaffold;partition.num_clients=10,20')
  assert len(groups.structures(points)) == 3
  sweep.run(points, tmp_path)
  # Other numbers of clients are other shapes.
  assert len(traces) == 4
  assert '2 points, 2 at a time on 2 devices' in capsys.readouterr().out


def test_a_diverging_point_leaves_its_neighbours_alone(tmp_path, monkeypatch):
  base = plain()
  text = 'client.learning_rate=0.1,{}'
  calm, wild = study(base, text.format(0.2)), study(base, text.format(1e20))
  sweep.run(calm, tmp_path / 'calm')
  done = sweep.run(wild, tmp_path / 'wild')
  assert done['diverged'] == wild[1:]
  name = pathlib.Path('points', calm[0].name, 'metrics.jsonl')
  texts = [(tmp_path / s / name).read_bytes() for s in ('calm', 'wild')]
  assert texts[0] == texts[1]
  folder = tmp_path / 'wild' / 'points' / wild[1].name
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary['diverged']['round'] == 2
  assert 'diverged by round 2' in summary['diverged']['what']
  assert lines(folder) == []
  traces = counted(monkeypatch)
  assert sweep.run(wild, tmp_path / 'wild') == done
  assert not traces


def interrupted(monkeypatch, points, workdir, options, owner, what, call):
  """Runs a study until the `call`-th call of a function of `owner`."""
  function, calls = getattr(owner, what), []

  def stopping(*args):
    calls.append(1)
    if len(calls) == call:
      raise KeyboardInterrupt
    return function(*args)

  with monkeypatch.context() as patched:
    patched.setattr(owner, what, stopping)
    with pytest.raises(KeyboardInterrupt):
      sweep.run(points, workdir, options)


@pytest.fixture(scope='module')
def whole(tmp_path_factory) -> pathlib.Path:
  """Two batches of two points, which nobody stopped."""
  root = tmp_path_factory.mktemp('whole')
  points = study(dirichlet(writers__checkpoint_every=2), TEXT)
  sweep.run(points, root, sweep.Options(points_at_once=2, devices=1))
  return root


@pytest.mark.parametrize(
  ('owner', 'what', 'call'),
  [
    (Run, 'checkpoint', 4),  # one of two points has its second checkpoint
    (Run, 'checkpoint', 9),  # the first batch is done
    (Run, 'results', 8),
    (train_lib, 'conclude', 2),  # one of two points has no summary
  ],
)
def test_a_killed_study_ends_with_the_same_bits(
  tmp_path, monkeypatch, whole, owner, what, call
):
  points = study(dirichlet(writers__checkpoint_every=2), TEXT)
  options = sweep.Options(points_at_once=2, devices=1)
  interrupted(monkeypatch, points, tmp_path, options, owner, what, call)
  assert sweep.run(points, tmp_path, options)['finished'] == points
  for point in points:
    ours, theirs = (r / 'points' / point.name for r in (tmp_path, whole))
    assert_same_run(ours, theirs, 6)
    summaries = [(f / 'summary.json').read_bytes() for f in (ours, theirs)]
    assert summaries[0] == summaries[1]
  assert len(list((tmp_path / 'groups').iterdir())) == 1


@pytest.mark.parametrize('step', ['4', '6'])
def test_a_damaged_checkpoint_throws_one_point_back(
  tmp_path, monkeypatch, whole, step
):
  points = study(dirichlet(writers__checkpoint_every=2), TEXT)
  options = sweep.Options(points_at_once=2, devices=1)
  owner, what, call = (Run, 'checkpoint', 4)
  if step == '6':
    owner, what, call = (train_lib, 'conclude', 2)
  interrupted(monkeypatch, points, tmp_path, options, owner, what, call)
  damaged = []
  for point in points:
    folder = tmp_path / 'points' / point.name
    if not (folder / 'summary.json').exists():
      damaged += folder.glob(f'checkpoints/{step}/record')
  assert len(damaged) == 1
  shutil.rmtree(damaged[0])
  sweep.run(points, tmp_path, options)
  for point in points:
    ours, theirs = (r / 'points' / point.name for r in (tmp_path, whole))
    assert_same_run(ours, theirs, 6)


def test_a_study_that_goes_on_otherwise_is_the_same_up_to_rounding(
  tmp_path, monkeypatch, whole
):
  """With other options, more rounds and fewer points."""
  points = study(dirichlet(writers__checkpoint_every=2), TEXT)
  first = sweep.Options(points_at_once=2, devices=1)
  interrupted(monkeypatch, points, tmp_path, first, Run, 'checkpoint', 4)
  sweep.run(points[:3], tmp_path, sweep.Options(points_at_once=1, devices=1))
  assert len(list((tmp_path / 'groups').iterdir())) == 2
  longer = study(dirichlet(writers__checkpoint_every=2, rounds=8), TEXT)
  sweep.run(longer, tmp_path, first)
  sweep.run(longer, whole, first)
  for point in longer:
    ours, theirs = (r / 'points' / point.name for r in (tmp_path, whole))
    assert lines(ours)[-1]['round'] == 8
    assert_same_results(ours, theirs)


def test_a_point_without_its_summary_gets_it(tmp_path, monkeypatch, singles):
  points = study(dirichlet(), TEXT)[:1]
  folder = tmp_path / 'points' / points[0].name
  shutil.copytree(singles / points[0].name, folder)
  (folder / 'summary.json').unlink()
  traces = counted(monkeypatch)
  sweep.run(points, tmp_path)
  assert not traces
  assert json.loads((folder / 'summary.json').read_text())['last']


def test_added_points_run_alone(tmp_path, monkeypatch):
  base = plain(rounds=2)
  first = study(base, 'seed=0')
  sweep.run(first, tmp_path)
  folder = tmp_path / 'points' / first[0].name
  before = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
  both = study(base, 'seed=0,1;model.norm=none')
  assert both[0].name != first[0].name
  done = sweep.run(both, tmp_path)
  assert done['finished'] == both
  assert len(list((tmp_path / 'points').iterdir())) == 2
  after = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
  assert after == before


def test_shares_of_machines_merge_by_copying(tmp_path, monkeypatch):
  base = plain(rounds=2)
  points = study(base, 'model.norm=fn,none;seed=0,1,2')
  shares = [sweep.share(points, i, 3) for i in range(3)]
  assert sorted(p.id for s in shares for p in s) == sorted(p.id for p in points)
  assert [len(groups.structures(s)) for s in shares] == [1, 2, 1]
  for i in (0, 2):
    sweep.run(shares[i], tmp_path / str(i))
    shutil.copytree(tmp_path / str(i), tmp_path / 'all', dirs_exist_ok=True)
  traces = counted(monkeypatch)
  done = sweep.run(shares[0] + shares[2], tmp_path / 'all')
  assert len(done['finished']) == 4
  assert not traces
  with says('index = 3 is no share of 3'):
    sweep.share(points, 3, 3)


def test_halving_keeps_the_best_settings(tmp_path, monkeypatch):
  base = plain(data__validation=0.2, rounds=4)
  points = study(base, 'client.learning_rate=0.1,0.001,0.3;seed=0,1')
  options = sweep.Options(devices=1, halving=halving.parse('2:1'))
  done = sweep.run(points, tmp_path, options)
  means: dict[float, list[float]] = {}
  for point in points:
    folder = tmp_path / 'points' / point.name
    rate = point.config.client.learning_rate
    found = lines(folder)
    means.setdefault(rate, []).append(found[0]['validation/accuracy'])
    summary = json.loads((folder / 'summary.json').read_text())
    goes_on = point in done['finished']
    assert [line['round'] for line in found] == ([2, 4] if goes_on else [2])
    assert summary.get('stopped') == (None if goes_on else {'round': 2})
  best = max(means, key=lambda rate: np.mean(means[rate]))
  rates = [p.config.client.learning_rate for p in done['finished']]
  assert rates == [best, best]
  assert len(done['stopped']) == 4
  traces = counted(monkeypatch)
  assert sweep.run(points, tmp_path, options) == done
  assert not traces
  point = done['finished'][0]
  train(point.config, tmp_path / 'single')
  assert_same_results(tmp_path / 'points' / point.name, tmp_path / 'single')


@pytest.mark.parametrize(
  ('text', 'fields', 'part'),
  [
    ('2-1', {}, 'ROUND:SETTINGS'),
    ('4:2,2:1', {}, 'no order'),
    ('3:1', {}, 'multiples below the last'),
    ('6:1', {}, 'multiples below the last'),
    ('2:1', {'data__validation': 0.0}, 'data.validation = 0'),
    ('2:1', {'execution__data': 'host'}, 'execution.data = device'),
    ('2:1', {'diagnostics__every': 2}, 'diagnostics.every = 0'),
  ],
)
def test_a_plan_that_cannot_be_is_refused(text, fields, part):
  base = tiny(**{'data__validation': 0.1, **fields})
  with says(part):
    halving.check(study(base, 'seed=0,1'), halving.parse(text))


def test_validation_rows_of_every_seed_are_there():
  """Seeds take other rows away, and then the examples differ."""
  base = dirichlet(data__validation=0.2)
  (group,) = groups.prepare(study(base, 'seed=0,1'))
  assert group.x.shape[0] == 2 * len(group.job.federation.x)
  assert set(group.tests) == {'test'}
  for clients in group.clients:
    shared, own = clients.federation, clients.plan.job.federation
    for c, size in enumerate(own.size):
      rows = shared.index[c, :size]
      np.testing.assert_array_equal(group.x[rows], own.x[own.index[c, :size]])
      np.testing.assert_array_equal(group.y[rows], own.y[own.index[c, :size]])
  (group,) = groups.prepare(study(dirichlet(), 'seed=0,1'))
  assert group.x is group.job.federation.x


@pytest.mark.parametrize(
  'fields', [{'execution__data': 'host'}, {'diagnostics__every': 2}]
)
def test_what_cannot_run_together_runs_alone(tmp_path, fields):
  base = plain(rounds=2, **fields)
  points = study(base, 'client.learning_rate=0.1,1e20')
  done = sweep.run(points, tmp_path)
  assert (done['finished'], done['diverged']) == (points[:1], points[1:])


@given(
  st.lists(st.integers(1, 9), min_size=1, max_size=6),
  st.integers(1, 5),
  st.integers(1, 12),
  st.booleans(),
)
def test_every_point_has_one_place(sizes, devices, at_once, mixed):
  layout = layouts.choose(sizes, devices, at_once, mixed)
  assert 1 <= layout.devices <= devices
  assert layout.packs * layout.points <= at_once
  assert mixed or layout.packs == 1
  sets = {i: [f'{i}.{j}' for j in range(size)] for i, size in enumerate(sizes)}
  count = sum(math.ceil(size / layout.points) for size in sizes)
  assert count >= layout.devices  # no device is idle from the start
  batches = math.ceil(count / math.prod(layout[:2]))
  packs = [
    members[at : at + layout.points]
    for members in sets.values()
    for at in range(0, len(members), layout.points)
  ]
  seen = []
  for i in range(batches):
    room = layout.grid[0]
    batch = layouts.Batch(packs[i * room : (i + 1) * room])
    grid = batch.grid(layout)
    assert np.shape(grid) == layout.grid
    for point, (g, v) in batch.places():
      assert grid[g][v] == point
      seen.append(point)
  assert sorted(seen) == sorted(p for members in sets.values() for p in members)


def test_packs_share_clients_and_training_seed():
  points = study(
    dirichlet(), 'client.learning_rate=0.1,0.2,0.3;seed=0,1;train_seed=-1,7'
  )
  (group,) = groups.prepare(points)
  batches = layouts.deal(group, Layout(2, 1, 2))
  for batch in batches:
    for pack in batch.packs:
      keys = {tuple(config_lib.seeds(p.config).items()) for p in pack}
      assert len(keys) == 1
  ids = [p.id for b in batches for p in b.points]
  assert sorted(ids) == sorted(p.id for p in points)


def test_narrow_clients_of_several_points_choose_one_network():
  """Batched numbers would batch the cohort, and so run every tier's network."""
  base = plain(sampler__name='uniform', sampler__cohort_size=4)
  base.algorithm = fl.algorithms.find('width').settings(rates=('1', '1/2'))
  (group,) = groups.prepare(study(base, 'client.learning_rate=0.1,0.2'))
  ready = launch.fitting(group, sweep.Options(points_at_once=2, devices=1))
  assert ready.layout.points == 2
  assert ' conditional(' in ready.compiled.advance.as_text()


@pytest.mark.parametrize(
  ('name', 'at_once'), [('uniform', 8), ('pow_d', 1), ('rpow_d', 1)]
)
def test_points_with_cohorts_of_their_own_run_one_at_a_time(name, at_once):
  base = plain(sampler__name=name, sampler__cohort_size=4)
  (group,) = groups.prepare(study(base, 'client.learning_rate=0.1,0.2'))
  assert launch._cached_points(group) == at_once


def test_memory_makes_fewer_points_and_clients_at_a_time(monkeypatch):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  (group,) = groups.prepare(study(plain(), 'seed=0,1,2,3'))
  tried = []

  def compiled(group, layout, arguments):
    chunk = group.job.execution.chunk
    tried.append((math.prod(layout), chunk))
    if math.prod(tried[-1]) > 30:
      raise fl.OutOfMemory
    return Programs(None, None, 0.0, math.prod(tried[-1]))

  monkeypatch.setattr(programs, 'compile_group', compiled)

  def room(budget):
    tried.clear()
    limit = budget / build.MEMORY_SHARE
    monkeypatch.setattr(build, 'free_bytes', lambda: limit)
    launch.fitting(group, sweep.Options(devices=1))
    return tried

  assert room(100) == [(4, 10), (2, 10)]
  assert room(10) == [(4, 10), (2, 10), (1, 10)]
  assert room(2) == [(4, 10), (2, 10), (1, 10), (1, 5), (1, 2)]
  with pytest.raises(fl.OutOfMemory, match='use points_at_once = 2'):
    launch.fitting(group, sweep.Options(points_at_once=4, devices=1))


def test_a_dry_run_tells_and_leaves_no_trace(tmp_path):
  points = study(tiny(), 'client.learning_rate=0.1,0.2;seed=0,1;model.norm=ln')
  told = '\n'.join(
    sweep.dry_run(points, str(tmp_path), sweep.Options(devices=1))
  )
  for part in (
    '4 points, 0 of them done',
    'client.learning_rate: 2 values, number',
    'seed: 2 values, data',
    'model.norm: 1 values, structure: a str that shapes the program',
    'structure 1 of 1: model.norm = ln',
    '2 partitions of 10 clients',
    'MB state a point',
    'compiled in',
  ):
    assert part in told
  assert not list(tmp_path.iterdir())


COMMAND = [
  sys.executable, '-m', 'experiments.sweep',
  f'--config={ROOT}/configs/digits.py', '--config.writers.progress=off',
  '--config.model.hidden=8', '--config.rounds=10',
]  # fmt: skip


def launched(*arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True
  )


def test_a_study_from_the_command_line(tmp_path):
  text = 'algorithm=fedavg|algorithm=fedga;algorithm.beta=0.1,0.2'
  done = launched(f'--sweep={text}', f'--workdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert '3 finished, 0 diverged, 0 stopped' in done.stdout
  found = sorted(
    p.name.rpartition('-')[0] for p in (tmp_path / 'points').iterdir()
  )
  assert found == [
    'algorithm=fedavg',
    'algorithm=fedga,beta=0.1',
    'algorithm=fedga,beta=0.2',
  ]


def test_a_wrong_study_is_one_sentence_and_status_2(tmp_path):
  done = launched('--sweep=seed=a', f'--workdir={tmp_path}')
  assert done.returncode == 2
  assert done.stderr == (
    "error: seed = 'a' is no whole number; give one, such as 10\n"
  )


def test_a_config_file_offers_a_sweep(tmp_path):
  file = tmp_path / 'own.py'
  file.write_text(
    'from fedjax_ls import sweep\n'
    "def get_sweep():\n  return sweep.axis('seed', (0, 1))\n"
  )
  assert commandline.sweep_of(str(file)) == sweep.axis('seed', (0, 1))
  file.write_text('def get_sweep():\n  return 3\n')
  with says('get_sweep gives a int'):
    commandline.sweep_of(str(file))
  file.write_text('def get_sweep():\n  return 1 / 0\n')
  with says('get_sweep fails', 'division by zero'):
    commandline.sweep_of(str(file))
  file.write_text('')
  assert commandline.sweep_of(str(file)) is None
