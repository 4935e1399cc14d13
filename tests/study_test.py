"""What a study's folders say, against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest

import fedjax_ls as fl
from fedjax_ls import config as config_lib
from fedjax_ls import study
from tests.messages_test import says


def point(root, method, rate, seed, curves, **marks) -> None:
  """A folder as a run leaves it; `curves` are `[(validation, test)]`."""
  config = fl.Config(
    seed=seed,
    rounds=2 * len(curves),
    algorithm=fl.algorithms.find(method).settings(),
    client=fl.Client(learning_rate=rate),
  )
  folder = root / 'points' / f'{method}-{rate}-{seed}'
  folder.mkdir(parents=True)
  content = {
    'config': config_lib.to_dict(config),
    'seeds': config_lib.seeds(config),
    'partition': {'hash': f'of seed {seed}'},
  }
  (folder / 'config.json').write_text(json.dumps(content))
  lines = []
  for i, (validation, test) in enumerate(curves):
    line = {'round': 2 * i + 2, 'test/accuracy': test}
    line |= {} if validation is None else {'validation/accuracy': validation}
    lines.append(json.dumps(line) + '\n')
  (folder / 'metrics.jsonl').write_text(''.join(lines))
  (folder / 'summary.json').write_text(json.dumps(marks))


@pytest.fixture
def workdir(tmp_path):
  # Round 1 is best on validation, round 2 on test.
  point(tmp_path, 'fedavg', 0.1, 0, [(0.6, 0.50), (0.5, 0.90)])
  point(tmp_path, 'fedavg', 0.1, 1, [(0.6, 0.54), (0.5, 0.90)])
  # Better on test, worse on validation.
  point(tmp_path, 'fedavg', 0.3, 0, [(0.5, 0.70), (0.4, 0.95)])
  point(tmp_path, 'fedavg', 0.3, 1, [(0.5, 0.74), (0.4, 0.95)])
  point(tmp_path, 'fedga', 0.1, 0, [(0.7, 0.51), (0.5, 0.80)])
  point(tmp_path, 'fedga', 0.1, 1, [(0.7, 0.58), (0.5, 0.80)])
  # The best of all on one seed, and diverged on the other.
  point(tmp_path, 'fedga', 0.3, 0, [(0.9, 0.99), (0.5, 0.80)])
  point(tmp_path, 'fedga', 0.3, 1, [(0.9, 0.99)], diverged={'round': 4})
  return tmp_path


def where(records, method, rate):
  return [
    r
    for r in records
    if r.fields['algorithm.name'] == method
    and r.fields['client.learning_rate'] == rate
  ]


def test_table_has_mean_and_deviation_at_the_chosen_round(workdir):
  records = study.read(workdir)
  # Settings that only one method has differ, too; seeds do not count.
  groups = {name.split('.')[0] for name in study.varying(records)}
  assert groups == {'algorithm', 'client'}
  rows = {
    (row['algorithm.name'], row['client.learning_rate']): row
    for row in study.table(records)
  }
  assert len(rows) == 4
  row = rows['fedavg', 0.1]
  assert row['mean'] == pytest.approx(0.52)
  assert row['std'] == pytest.approx(0.04 / math.sqrt(2))
  assert (row['seeds'], row['diverged']) == (2, 0)
  assert row['how'] == 'selected_on_validation'
  row = rows['fedga', 0.3]
  assert (row['mean'], row['seeds'], row['diverged']) == (0.99, 1, 1)
  assert math.isnan(row['std'])


def test_best_is_chosen_on_validation_among_whole_settings(workdir):
  setting, records, how = study.best(study.read(workdir))
  assert setting['algorithm.name'] == 'fedga'
  assert setting['client.learning_rate'] == 0.1
  assert [r.seeds['train'] for r in records] == [0, 1]
  assert how == 'selected_on_validation'


def test_without_validation_the_choice_says_that_it_looked(tmp_path):
  for rate, test in ((0.1, 0.5), (0.3, 0.7)):
    point(tmp_path, 'fedavg', rate, 0, [(None, test), (None, 0.4)])
  setting, _, how = study.best(study.read(tmp_path))
  assert setting == {'client.learning_rate': 0.3}
  assert how == 'best_on_test'
  assert {r['how'] for r in study.table(study.read(tmp_path))} == {how}


def test_pairs_have_students_interval(workdir):
  records = study.read(workdir)
  ours, theirs = where(records, 'fedga', 0.1), where(records, 'fedavg', 0.1)
  found = study.paired(ours, theirs[::-1], tie=0.02)
  np.testing.assert_allclose(np.sort(found.differences), [0.01, 0.04])
  # The 97.5 % point of t with one degree of freedom is 12.706.
  half = 12.7062 * 0.03 / 2
  assert found.mean == pytest.approx(0.025)
  assert (found.low, found.high) == pytest.approx(
    (0.025 - half, 0.025 + half), rel=1e-4
  )
  assert (found.wins, found.ties, found.losses) == (1, 1, 0)
  alone = study.paired(ours[:1], theirs[:1])
  assert math.isnan(alone.low)
  with says('share no seeds'):
    study.paired(ours[:1], theirs[1:])
  with says('the seeds of another run'):
    study.paired(where(records, 'fedavg', 0.3) + theirs, ours)


def test_wins_count_pairs_that_agree_in_all_else(workdir):
  records = study.read(workdir)
  by_method = study.win_tie_loss(records, 'algorithm.name', tie=0.02)
  assert by_method == {
    ('fedavg', 'fedga'): (0, 1, 2),
    ('fedga', 'fedavg'): (2, 1, 0),
  }
  by_rate = study.win_tie_loss(records, 'client.learning_rate')
  assert by_rate[0.3, 0.1] == (3, 0, 0)
  point(workdir, 'fedga', 0.100001, 0, [(0.7, 0.5), (0.5, 0.8)])
  (other,) = where(study.read(workdir), 'fedga', 0.100001)
  other.fields['client.learning_rate'] = 0.1
  other.fields['algorithm.beta'] = 9.0
  with says('all but algorithm.', 'choose one'):
    study.win_tie_loss([*records, other], 'algorithm.name')


def test_rounds_to_a_target(workdir):
  record = where(study.read(workdir), 'fedavg', 0.1)[0]
  assert study.to_target(record, 0.5) == 2
  assert study.to_target(record, 0.51) == 4
  assert study.to_target(record, 0.91) is None
  validation = study.to_target(record, 0.5, 'validation/accuracy')
  assert validation == 2


def test_statuses(workdir):
  point(workdir, 'scaffold', 0.1, 0, [(0.9, 0.9)], stopped={'round': 2})
  records = {r.name: r.status for r in study.read(workdir)}
  assert records['scaffold-0.1-0'] == 'stopped'
  assert records['fedga-0.3-1'] == 'diverged'
  assert records['fedga-0.3-0'] == 'finished'
  with says('holds no points'):
    study.read(workdir / 'points')
