"""Notebooks from their sources: NAME.ipynb of every notebooks/NAME.py.

  python -m experiments.notebooks

A source is Python in cells, `# %%` for code and `# %% [markdown]` for text,
and runs as a script.  The notebook has, after the first cell, a badge that
opens it in Colab and the cell that installs, `notebooks/_install.py`; both
follow `repository-code` of CITATION.cff.  Without it the badge opens Colab
itself, to upload the file to, and the cell asks where to install from.
"""

import json
import pathlib
import re
from typing import Any

from experiments import commandline

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / 'notebooks'
BRANCH = 'main'

_COLAB = 'https://colab.research.google.com/'
_MARK = '# %%'
_TEXT = '# %% [markdown]'

Cell = dict[str, Any]


def sources() -> list[pathlib.Path]:
  """The sources of all notebooks."""
  return sorted(FOLDER.glob('[!_]*.py'))


def repository() -> str:
  """Where the project lives, `https://github.com/OWNER/NAME`; '' if unknown."""
  text = (ROOT / 'CITATION.cff').read_text()
  found = re.search(
    r'^repository-code:\s*[\'"]?([^\s\'"]+)', text, re.MULTILINE
  )
  return found[1].removesuffix('/') if found else ''


def notebook(source: pathlib.Path, repository: str) -> str:
  """The text of a notebook, without outputs.

  Args:
    source: its cells.
    repository: where the project lives, '' if unknown.

  Raises:
    ValueError: the source does not begin with a cell of text.
  """
  first, *rest = cells(source.read_text())
  if first['cell_type'] != 'markdown':
    raise ValueError(f'{source} begins with code; begin with {_TEXT!r}')
  opened = _markdown(badge(source.stem, repository))
  content: dict[str, Any] = {
    'cells': [first, opened, _code(install(repository)), *rest],
    'metadata': {
      'kernelspec': {
        'display_name': 'Python 3',
        'language': 'python',
        'name': 'python3',
      },
      'language_info': {'name': 'python'},
    },
    'nbformat': 4,
    'nbformat_minor': 5,
  }
  for i, cell in enumerate(content['cells']):
    cell['id'] = f'cell-{i}'
  text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
  return text + '\n'


def cells(text: str) -> list[Cell]:
  """The cells of a source.

  Raises:
    ValueError: something stands before the first cell.

  >>> for cell in cells('# %% [markdown]\\n# Two\\n# %%\\nprint(2)\\n'):
  ...   print(cell['cell_type'], cell['source'])
  markdown ['Two']
  code ['print(2)']
  """
  before, *parts = re.split(rf'^(?={_MARK})', text, flags=re.MULTILINE)
  if before.strip():
    raise ValueError(f'{before!r} stands before the first cell; move it inside')
  return [_cell(*part.split('\n', 1)) for part in parts]


def badge(name: str, repository: str) -> str:
  """Markdown that opens a notebook in Colab."""
  image = f'[![Open in Colab]({_COLAB}assets/colab-badge.svg)]'
  if not repository:
    return f'{image}({_COLAB}) (upload `{name}.ipynb` there)'
  place = repository.removeprefix('https://')
  place = place.replace('github.com', 'github', 1)
  return f'{image}({_COLAB}{place}/blob/{BRANCH}/notebooks/{name}.ipynb)'


def install(repository: str) -> str:
  """The cell that installs."""
  text = (FOLDER / '_install.py').read_text()
  if not repository:
    return text
  return text.replace("SOURCE = ''", f"SOURCE = 'git+{repository}'")


def _cell(mark: str, body: str = '') -> Cell:
  if mark.strip() == _TEXT:
    return _markdown(re.sub(r'^# ?', '', body, flags=re.MULTILINE))
  return _code(body)


def _markdown(text: str) -> Cell:
  lines = text.strip().splitlines(keepends=True)
  return {'cell_type': 'markdown', 'metadata': {}, 'source': lines}


def _code(text: str) -> Cell:
  lines = text.strip().splitlines(keepends=True)
  return {
    'cell_type': 'code',
    'execution_count': None,
    'metadata': {},
    'outputs': [],
    'source': lines,
  }


def main() -> None:
  for source in sources():
    text = notebook(source, repository())
    source.with_suffix('.ipynb').write_text(text)


if __name__ == '__main__':
  commandline.run(main, needs_config=False)
