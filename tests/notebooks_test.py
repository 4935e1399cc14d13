"""Notebooks run as scripts, and are what their sources make of them."""

import importlib.metadata
import importlib.util
import json
import runpy
import subprocess

import jax
import matplotlib
import pytest

import fedjax_ls as fl
from experiments import notebooks

SOURCES = {source.stem: source for source in notebooks.sources()}
INSTALL = str(notebooks.FOLDER / '_install.py')
URL = 'https://github.com/someone/something'


@pytest.mark.parametrize('name', SOURCES)
def test_notebook_runs(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('FEDJAX_LS_QUICK', '1')
  monkeypatch.setenv('DISPLAY', '')
  monkeypatch.setattr(
    fl.algorithms, 'METHODS', dict(fl.algorithms.METHODS)
  )  # one notebook adds a method
  matplotlib.use('Agg')
  from matplotlib import pyplot

  try:
    runpy.run_path(str(SOURCES[name]))
  finally:
    pyplot.close('all')


def test_there_are_all_notebooks():
  text = (notebooks.ROOT / 'README.md').read_text()
  listed = text.split('## Notebooks')[1].split('\n## ')[0]
  assert len(SOURCES) == 5
  assert all(f'`{name}`' in listed for name in SOURCES)
  assert {path.stem for path in notebooks.FOLDER.glob('*.ipynb')} == {*SOURCES}


@pytest.mark.parametrize('name', SOURCES)
def test_notebook_agrees_with_its_source(name):
  made = notebooks.notebook(SOURCES[name], notebooks.repository())
  assert SOURCES[name].with_suffix('.ipynb').read_text() == made, (
    'run python -m experiments.notebooks'
  )


@pytest.mark.parametrize('name', SOURCES)
def test_cells_are_those_of_the_source(name):
  content = json.loads(SOURCES[name].with_suffix('.ipynb').read_text())
  cells = content['cells']
  assert [cell['cell_type'] for cell in cells[:3]] == [
    'markdown', 'markdown', 'code',
  ]  # fmt: skip
  assert len({cell['id'] for cell in cells}) == len(cells)
  source = SOURCES[name].read_text()
  for cell in (cells[0], *cells[3:]):
    assert not cell.get('outputs')
    text = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
      lines = [f'# {line}'.rstrip() for line in text.split('\n')]
      text = '\n'.join(lines)
    assert text
    assert text in source


def test_a_source_begins_with_text(tmp_path):
  source = tmp_path / 'a.py'
  source.write_text('# %%\nprint(1)\n')
  with pytest.raises(ValueError, match='begins with code'):
    notebooks.notebook(source, '')
  source.write_text('import os\n# %% [markdown]\n# Title\n')
  with pytest.raises(ValueError, match='before the first cell'):
    notebooks.notebook(source, '')


def test_the_repository_is_named_where_it_is_known():
  assert notebooks.badge('quickstart', URL).endswith(
    '(https://colab.research.google.com/github/someone/something/blob/main/'
    'notebooks/quickstart.ipynb)'
  )
  assert f"SOURCE = 'git+{URL}'\n" in notebooks.install(URL)
  assert "SOURCE = ''\n" in notebooks.install('')
  assert 'upload' in notebooks.badge('quickstart', '')


def installed(monkeypatch, jax_version, source='git+' + URL):
  """What pip is asked for where fedjax_ls is missing."""
  asked = []
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: jax_version)
  monkeypatch.setattr(subprocess, 'check_call', lambda args: asked.extend(args))
  text = (notebooks.FOLDER / '_install.py').read_text()
  exec(text.replace("SOURCE = ''", f'SOURCE = {source!r}'), {})
  return asked[4:]


@pytest.mark.parametrize('version', ['0.10.0', '0.10.2', '0.11.9', '0.11.0rc1'])
def test_a_jax_that_fits_is_kept(version, monkeypatch):
  assert installed(monkeypatch, version) == [
    f'fedjax_ls[run] @ git+{URL}', f'jax=={version}',
  ]  # fmt: skip


@pytest.mark.parametrize('version', ['0.9.9', '0.12.0', '1.0'])
def test_another_jax_is_named_and_left_alone(version, monkeypatch):
  with pytest.raises(RuntimeError, match=f'jax is {version} here'):
    installed(monkeypatch, version)


def test_without_a_source_it_says_so(monkeypatch):
  with pytest.raises(RuntimeError, match='set SOURCE to'):
    installed(monkeypatch, jax.__version__, '')


def test_nothing_is_installed_where_it_is_there(monkeypatch):
  def refused(args):
    raise AssertionError(args)

  monkeypatch.setattr(subprocess, 'check_call', refused)
  runpy.run_path(INSTALL)
