"""Reports of a study that was written by hand, against numbers from NumPy."""

import base64
import json
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

import fedjax_ls as fl
from experiments import commandline
from fedjax_ls import config as config_lib
from fedjax_ls import data, diagnostic_plots, report, study
from fedjax_ls.writers import Folder
from tests.messages_test import says

READMES = sorted(
  (pathlib.Path(__file__).parent.parent / 'configs').glob('*/README.md')
)
ROWS = {
  'FedAvg': {'algorithm': 'fedavg'},
  'LN': {'algorithm': 'fedavg', 'model.norm': 'ln'},
}
COLUMNS = {
  'one class': {'partition.kind': 'classes'},
  'Dir': {'partition.kind': 'dirichlet'},
}


def point(root, kind, norm, rate, seed, curves, method='fedavg', **more):
  """A folder as a run leaves it; `curves` are `[(validation, test)]`."""
  config = fl.Config(
    seed=seed,
    rounds=5 * len(curves),
    partition=config_lib.Partition(kind=kind, num_clients=2),
    model=config_lib.Model(norm=norm),
    algorithm=fl.algorithms.find(method).settings(),
    client=fl.Client(learning_rate=rate),
  )
  folder = root / 'points' / f'{kind}-{norm}-{rate}-{seed}-{method}'
  folder.mkdir(parents=True)
  parts = [np.arange(3), np.arange(3, 10)]
  data.Partition(parts, []).save(str(folder / 'partition.npz'))
  content = {
    'config': config_lib.to_dict(config),
    'seeds': config_lib.seeds(config),
    'partition': {'hash': f'{kind} {seed}'},
  }
  (folder / 'config.json').write_text(json.dumps(content))
  lines = []
  for i, (validation, test) in enumerate(curves):
    line = {'round': 5 * i + 5, 'test/accuracy': test}
    line |= {} if validation is None else {'validation/accuracy': validation}
    line |= {k: f(validation, test) for k, f in more.items()}
    lines.append(json.dumps(line) + '\n')
  (folder / 'metrics.jsonl').write_text(''.join(lines))


@pytest.fixture
def workdir(tmp_path):
  for seed, gain in enumerate((0.00, 0.03, 0.01)):
    # On validation, rate 0.1 and round 5 win everywhere; on test they lose.
    for kind in ('classes', 'dirichlet'):
      for norm, base in (('none', 0.5), ('ln', 0.6)):
        test = base + gain * (2 if norm == 'ln' else 1)
        good = [(0.8, test), (0.7, 0.95)]
        bad = [(0.4, test + 0.2), (0.3, 0.99)]
        point(tmp_path, kind, norm, 0.1, seed, good)
        point(tmp_path, kind, norm, 0.3, seed, bad)
  return tmp_path


def cells_of(workdir, **more):
  found = report.cells(study.read(workdir), ROWS, COLUMNS, **more)
  return {(cell.row, cell.column): cell for cell in found}


def test_point_and_round_are_chosen_on_validation(workdir):
  cells = cells_of(workdir)
  assert list(cells) == [(row, column) for row in ROWS for column in COLUMNS]
  for (row, _), cell in cells.items():
    expected = {'FedAvg': [0.50, 0.53, 0.51], 'LN': [0.60, 0.66, 0.62]}[row]
    assert cell.setting == {'client.learning_rate': 0.1}
    assert cell.rounds == [5, 5, 5]
    assert cell.how == 'selected_on_validation'
    np.testing.assert_allclose(cell.values, expected)
    assert cell.std == pytest.approx(np.std(expected, ddof=1))


def test_the_choice_on_test_is_marked(tmp_path):
  for rate, test in ((0.1, 0.5), (0.3, 0.7)):
    point(tmp_path, 'iid', 'ln', rate, 0, [(None, test), (None, 0.2)])
  (cell,) = report.cells(study.read(tmp_path))
  assert (cell.setting, cell.rounds) == ({'client.learning_rate': 0.3}, [5])
  text = report.markdown('T', report.sections([cell]))
  assert '| fedavg | 70.0† | 0.3 | 5 |' in text
  assert 'these numbers flatter' in text
  assert 'validation data; the' not in text


def test_what_is_written_around_a_report_stays(workdir, tmp_path):
  sections = report.sections(list(cells_of(workdir).values()))[:1]
  readme = tmp_path / 'README.md'
  report.write('T', sections, tmp_path)
  first = readme.read_text()
  assert first == report.markdown('T', sections)
  report.write('Other', sections, tmp_path)
  assert readme.read_text() == first
  begin, end = report.pages.MARKS
  around = first.replace(begin, f'Before.\n\n{begin}') + '\n## After\n'
  readme.write_text(around.replace('FedAvg', 'an older line'))
  report.write('T', sections, tmp_path)
  assert readme.read_text() == around
  readme.write_text('By hand.')
  report.write('T', sections, tmp_path)
  assert readme.read_text() == f'By hand.\n\n{begin}{first.split(begin)[1]}'
  readme.write_text(around.replace(end, ''))
  with pytest.raises(ValueError, match=f'no {end} after it; put it where'):
    report.write('T', sections, tmp_path)
  assert '## After' in readme.read_text()


@pytest.mark.parametrize('path', READMES, ids=lambda path: path.parent.name)
def test_reports_of_configurations_are_marked(path):
  title, begin, rest = path.read_text().partition(report.pages.MARKS[0])
  assert title.startswith('# ')
  assert '## Test accuracy' in rest.partition(report.pages.MARKS[1])[0]
  assert begin


def test_results_as_text(workdir):
  table = report.results(list(cells_of(workdir).values()))
  lines = report.tables.markdown(table).splitlines()
  assert lines == [
    '|  | one class | learning rate | round | Dir | learning rate | round |',
    '|---|---|---|---|---|---|---|',
    '| FedAvg | 51.3 ± 1.5 | 0.1 | 5 | 51.3 ± 1.5 | 0.1 | 5 |',
    '| LN | **62.7 ± 3.1** | 0.1 | 5 | **62.7 ± 3.1** | 0.1 | 5 |',
  ]
  tex = report.tables.latex(table)
  assert r'LN & \textbf{62.7 $\pm$ 3.1} & 0.1 & 5 &' in tex


def test_submodels_have_a_column_for_each_rate(tmp_path):
  """Sorted by size, of the chosen round, and – where nothing was judged."""
  width = {'test/accuracy@1/8': lambda v, t: t - 0.3,
           'test/accuracy@0.5': lambda v, t: t - 0.2}  # fmt: skip
  depth = {'test/accuracy@1/2': lambda v, t: t - 0.1,
           'test/accuracy@exit1': lambda v, t: t - 0.4}  # fmt: skip
  for seed, test in enumerate((0.5, 0.54)):
    curves = [(0.8, test), (0.7, 0.9)]
    point(tmp_path, 'iid', 'ln', 0.1, seed, curves, 'heterofl', **width)
    point(tmp_path, 'iid', 'ln', 0.1, seed, curves, 'depthfl', **depth)
    point(tmp_path, 'iid', 'ln', 0.1, seed, curves)
  cells = report.cells(study.read(tmp_path))
  lines = report.tables.markdown(report.submodels(cells)).splitlines()
  assert lines == [
    '| problem |  | 1/8 | 1/2 | whole network |',
    '|---|---|---|---|---|',
    '|  | depthfl | – | 42.0 ± 2.8 | 52.0 ± 2.8 |',  # noqa: RUF001
    '|  | fedavg | – | – | 52.0 ± 2.8 |',  # noqa: RUF001
    '|  | heterofl | 22.0 ± 2.8 | 32.0 ± 2.8 | 52.0 ± 2.8 |',
  ]
  assert 'Accuracy of submodels' in report.markdown('', report.sections(cells))
  plain = [cell for cell in cells if cell.row == 'fedavg']
  assert report.submodels(plain) is None


def test_differences_have_students_interval(workdir):
  cells = list(cells_of(workdir).values())
  table = report.differences(cells, 'FedAvg', 0.9)
  gaps = 100 * (np.array([0.60, 0.66, 0.62]) - [0.50, 0.53, 0.51])
  half = stats.t.ppf(0.95, 2) * np.std(gaps, ddof=1) / math.sqrt(3)
  text = f'{gaps.mean():+.1f} [{gaps.mean() - half:+.1f}, '
  assert table.rows[0][1].startswith(text)
  assert table.rows == [['LN', *2 * [table.rows[0][1], '3/0/0']]]
  assert report.differences(cells, 'LN').rows[0][2] == '0/0/3'


def test_what_is_not_finished_does_not_compete(workdir):
  # Best of all on validation, but with one seed; and one that has diverged.
  point(workdir, 'classes', 'ln', 0.5, 0, [(0.99, 0.1), (0.9, 0.1)])
  folder = workdir / 'points' / 'dirichlet-ln-0.1-1-fedavg'
  (folder / 'summary.json').write_text('{"diverged": {"round": 5}}')
  cells = cells_of(workdir)
  chosen = {'client.learning_rate': 0.1}
  assert cells['LN', 'one class'].setting == chosen
  assert cells['LN', 'Dir'].setting == {'client.learning_rate': 0.3}
  text = report.markdown('T', report.sections(list(cells.values())))
  assert 'Of 25 runs 1 diverged' in text


def test_labels_come_from_what_differs(workdir):
  for seed in range(3):
    point(workdir, 'classes', 'none', 0.1, seed, [(0.5, 0.5)] * 2, 'fedprox')
  cells = report.cells(study.read(workdir))
  assert report.tables.labels(cells) == (
    ['fedavg, norm=ln', 'fedavg, norm=none', 'fedprox, norm=none'],
    ['kind=classes', 'kind=dirichlet'],
  )
  with says("'a' and 'b'", 'one more setting'):
    two = {'a': {'model.norm': 'ln'}, 'b': {'algorithm': 'fedavg'}}
    report.cells(study.read(workdir), two)


def test_clients_with_their_own_models_stand_apart(tmp_path):
  for seed in range(2):
    # The own models are best at round 10, the global one at round 5.
    point(
      tmp_path, 'classes', 'none', 0.1, seed, [(0.8, 0.8), (0.9, 0.9)],
      'fedrod',
      **{
        'test/global_accuracy': lambda _, test: 0.9 - test,
        'validation/global_accuracy': lambda validation, _: 1 - validation,
      },
    )  # fmt: skip
  own, shared = report.cells(study.read(tmp_path), {'FedROD': {}})
  assert (own.row, own.rounds, own.personal) == (
    'FedROD (own models)', [10, 10], True,
  )  # fmt: skip
  assert (shared.row, shared.rounds) == ('FedROD (global model)', [5, 5])
  np.testing.assert_allclose(shared.values, 0.1)
  assert report.results([own, shared]).bold == set()


def test_curves(workdir):
  cell = cells_of(workdir)['LN', 'Dir']
  curve = report.learning_curve(cell)
  np.testing.assert_allclose(curve.x, [5, 10])
  np.testing.assert_allclose(curve.mean, [0.626667, 0.95], rtol=1e-5)
  np.testing.assert_allclose(
    curve.std, [np.std([0.6, 0.66, 0.62], ddof=1), 0], atol=1e-9
  )
  assert report.learning_curve(cell, 'bytes_up') is None
  curve = report.sensitivity(cell, 'client.learning_rate')
  np.testing.assert_allclose(curve.x, [0.1, 0.3])
  np.testing.assert_allclose(curve.mean, [0.626667, 0.826667], rtol=1e-5)


def test_the_cost_of_a_target(tmp_path):
  curves = {
    'none': [[0.3, 0.6], [0.6, 0.7], [0.2, 0.3]],
    'ln': [[0.7, 0.9], [0.6, 0.8], [0.5, 0.7]],
  }
  for norm, runs in curves.items():
    for seed, tests in enumerate(runs):
      pairs = [(test, test) for test in tests]
      sent = {'bytes_up': lambda _, test: 1e8 * test}
      point(tmp_path, 'iid', norm, 0.1, seed, pairs, **sent)
  cells = report.cells(study.read(tmp_path))
  table = report.to_target(cells, 'norm=none', 0.6)
  assert table.header == ['', 'to 60 %', 'rounds', 'MB to the server']
  half = np.std([60, 60], ddof=1)
  ln = [5, 5, 10], [70, 60, 70]
  rounds, sent = (f'{np.mean(v):.3g} ± {np.std(v, ddof=1):.3g}' for v in ln)
  assert table.rows == [
    ['norm=ln', '3 of 3', rounds, sent],
    ['norm=none', '2 of 3', '7.5 ± 3.54', f'60 ± {half:g}'],
  ]
  # What norm=none reaches: (0.6 + 0.7 + 0.3) / 3 = 0.533.
  assert report.to_target(cells, 'norm=none').header[1] == 'to 53 %'
  never = report.to_target(cells, 'norm=none', 0.99).rows[0]
  assert never == ['norm=ln', '0 of 3', *2 * [report.tables.NONE]]
  with says('target = 60.0 is no accuracy'):
    report.sections(cells, target=60.0)


def test_further_measures_are_of_the_chosen_round(tmp_path):
  values = {'ln': [[0.9, 0.2], [0.7, 0.1]], 'none': [[0.5, 0.6]]}
  for norm, runs in values.items():
    for seed, tests in enumerate(runs):
      pairs = [(test, test) for test in tests]
      spread = {'test/accuracy/client_std': lambda _, test: test / 2}
      point(tmp_path, 'iid', norm, 0.1, seed, pairs, **spread)
  cells = report.cells(study.read(tmp_path))
  named = {'spread (%)': ('test/accuracy/client_std', 100), 'bits': ('b', 1)}
  table = report.tables.measures(cells, named)
  none = report.tables.NONE
  assert table.header == ['', 'spread (%)', 'bits']
  assert table.rows == [
    ['norm=ln', f'40 ± {np.std([45, 35], ddof=1):.3g}', none],
    ['norm=none', '30', none],
  ]
  told = report.sections(cells, measures=named)
  assert table in [section.table for section in told]


def test_costs_far_apart_are_drawn_on_a_logarithmic_axis(tmp_path, monkeypatch):
  for norm, price in (('ln', 1.0), ('none', 100.0)):
    sent = {'bytes_up': lambda _, test, price=price: price * test}
    point(tmp_path, 'iid', norm, 0.1, 0, [(0.5, 0.5), (0.6, 0.6)], **sent)
  drawn = {}
  draw = report.pictures.draw

  def noted(curves, reference, xlabel, *, log):
    drawn[xlabel] = log
    return draw(curves, reference, xlabel, log=log)

  monkeypatch.setattr(report.pictures, 'draw', noted)
  report.sections(report.cells(study.read(tmp_path)))
  assert drawn['bytes sent to the server']
  assert not drawn['round']


def test_spectra_are_of_the_chosen_setting(workdir, monkeypatch):
  decay = {0.1: 0.5, 0.3: 0.9}
  for rate, ratio in decay.items():
    for now in (5, 10):
      spectrum = now * ratio ** np.arange(4)
      arrays = {'global/spectrum': spectrum, 'client/spectrum': spectrum[None]}
      folder = workdir / 'points' / f'classes-ln-{rate}-0-fedavg'
      Folder(folder).write_diagnostics(now, arrays)
  drawn = []
  spectra = diagnostic_plots.spectra

  def noted(lines, path):
    drawn.append(lines)
    spectra(lines, path)

  monkeypatch.setattr(diagnostic_plots, 'spectra', noted)
  sections = report.sections(list(cells_of(workdir).values()))
  (section,) = (s for s in sections if s.title == 'Spectra')
  assert list(section.images) == ['spectra_one_class.png']
  assert section.images['spectra_one_class.png'][1:4] == b'PNG'
  (lines,) = drawn
  assert list(lines) == ['LN']
  np.testing.assert_allclose(
    lines['LN']['global/spectrum'], 10 * 0.5 ** np.arange(4)
  )


def test_many_rows_get_a_panel_each():
  curve = report.Curve(np.arange(2), np.zeros(2), np.zeros(2))
  seven = {str(i): curve for i in range(7)}
  assert len(report.draw(seven, '0', 'round').axes) == 1
  axes = report.draw({**seven, '7': curve}, '0', 'round').axes
  assert [len(a.lines) for a in axes[:8]] == [1, *7 * [2]]
  assert report.draw({'0': None}, '0', 'round') is None


def test_the_command_writes_one_page_that_needs_nothing_else(workdir):
  config = workdir / 'labels.py'
  config.write_text(
    '"""A study of two."""\nimport fedjax_ls as fl\n'
    f'ROWS = {ROWS!r}\nCOLUMNS = {COLUMNS!r}\n'
    "MEASURES = {'%': ('test/accuracy', 100)}\n"
    'def get_config(method="fedavg"):\n  return fl.Config()\n'
  )
  command = [sys.executable, '-m', 'experiments.report', f'--workdir={workdir}']
  done = subprocess.run(
    [*command, f'--config={config}'], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  folder = workdir / 'report'
  page = (folder / 'report.html').read_text()
  assert '<h1>A study of two</h1>' in page
  assert '<h2>Further measures</h2>' in page
  images = re.findall(r'<img [^>]*src="([^"]*)"', page)
  assert len(images) == 6  # sensitivity, curves and clients, twice
  for image in images:
    assert base64.b64decode(image.split(',')[1])[1:4] == b'PNG'
  assert 'href' not in page
  text = (folder / 'README.md').read_text()
  for name in re.findall(r'\]\((.*?)\)', text):
    assert (folder / name).stat().st_size < 100_000
  config.write_text(config.read_text().replace("('test/accuracy', 100)", '3'))
  with says("MEASURES has '%': 3", "write {'heading'"):
    commandline.measures_of(str(config))
  done = subprocess.run(
    [*command, '--reference=FN'], capture_output=True, text=True
  )
  assert done.returncode == 2
  assert "reference = 'FN' is no row; choose one of" in done.stderr
