"""A study as a folder of files, and as one page that opens from disk."""

import base64
import html
import io
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedjax_ls import config as config_lib
from fedjax_ls import data, diagnostic_plots, samples
from fedjax_ls.consistency import require
from fedjax_ls.report import pictures, tables
from fedjax_ls.report.selection import ON_TEST, Cell
from fedjax_ls.report.tables import Table
from fedjax_ls.study import Record
from fedjax_ls.writers import Folder

COSTS = {
  'simulated_seconds': 'simulated seconds',
  'bytes_up': 'bytes sent to the server',
  'macs': 'multiply-accumulates',
}


# In a `README.md` the report stands between these.
MARKS = '<!-- report -->', '<!-- end of report -->'

# Curves of which one ends so many times later share a logarithmic axis.
FAR = 8


class Section(NamedTuple):
  """A heading and what is under it.

  Attributes:
    title: the heading.
    text: paragraphs.
    table: None for none.
    images: `{file name: PNG}`.
    aside: whether it is long and folded away, on the page alone.
  """

  title: str
  text: list[str]
  table: Table | None = None
  images: dict[str, bytes] = {}  # noqa: RUF012
  aside: bool = False


def sections(
  cells: Sequence[Cell],
  reference: str = '',
  level: float = 0.95,
  target: float = 0.0,
  measures: Mapping[str, tuple[str, float]] | None = None,
) -> list[Section]:
  """What there is to say about a study.

  Args:
    cells: of it.
    reference: label of the row that others are compared with, the first if
      empty.
    level: of the confidence intervals.
    target: test accuracy in (0, 1] that costs are counted to, 0 for what the
      reference reaches.
    measures: further metrics to tell, `{heading: (metric, factor)}`.

  Raises:
    ValueError: there is no row of that name, or the target is no accuracy.
  """
  require(
    0 <= target <= 1,
    f'target = {target} is no accuracy; choose it in (0, 1], or 0 for what the '
    'reference reaches',
  )
  rows, _ = tables.labels(cells)
  reference = reference or rows[0]
  if reference not in rows:
    raise ValueError(
      f'reference = {reference!r} is no row; choose one of {", ".join(rows)}'
    )
  found = [Section('Test accuracy', _how(cells), tables.results(cells))]
  found += _submodels(cells)
  if len(rows) > 1:
    found.append(_compared(cells, reference, level))
  if measures:
    text = 'At the chosen settings and rounds, mean ± standard deviation.'
    table = tables.measures(cells, measures)
    found.append(Section('Further measures', [text], table))
  found += _to_target(cells, reference, target)
  found += _sensitivity(cells, reference)
  found += _curves(cells, reference)
  found += _spectra(cells)
  found += _partitions(cells)
  found.append(
    Section(
      'All settings',
      ["Test accuracy in % at each run's chosen round, finished runs."],
      tables.settings(cells),
      aside=True,
    )
  )
  return found


def write(
  title: str, sections: Sequence[Section], out: str | os.PathLike
) -> list[pathlib.Path]:
  """Writes `README.md`, `report.html`, `table.tex` and the pictures.

  Of a `README.md` that is there only what stands between `MARKS` changes;
  without them the report is added at its end.

  Args:
    title: of the page.
    sections: what is on it.
    out: the folder.

  Returns:
    The files.

  Raises:
    ValueError: one of the marks is missing.
  """
  folder = pathlib.Path(out)
  folder.mkdir(parents=True, exist_ok=True)
  files = {name: png for s in sections for name, png in s.images.items()}
  readme = folder / 'README.md'
  text = markdown(title, sections)
  if readme.exists():
    text = _kept(readme, text)
  files |= {
    'README.md': text.encode(),
    'report.html': page(title, sections).encode(),
    'table.tex': latex(sections).encode(),
  }
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return [folder / name for name in files]


def markdown(title: str, sections: Sequence[Section]) -> str:
  """The report as Markdown, between `MARKS`, its pictures beside it."""
  parts = [f'# {title}', MARKS[0]]
  for section in sections:
    if section.aside:
      continue
    parts += [f'## {section.title}', *section.text]
    if section.table is not None:
      parts.append(tables.markdown(section.table))
    parts += [f'![{section.title}]({name})' for name in section.images]
  return '\n\n'.join([*parts, MARKS[1]]) + '\n'


def _kept(readme: pathlib.Path, text: str) -> str:
  """A page whose report is that of `text`, and all else as it is."""
  begin, end = MARKS
  old = readme.read_text()
  before, found, rest = old.partition(begin)
  if not found:
    before, rest = f'{old.rstrip()}\n\n', f'{end}\n'
  _, found, after = rest.partition(end)
  require(
    bool(found),
    f'{readme} has {begin} but no {end} after it; put it where the report ends',
  )
  report = text.partition(begin)[2].partition(end)[0]
  return f'{before}{begin}{report}{end}{after}'


def latex(sections: Sequence[Section]) -> str:
  """The tables, each after a comment with its title."""
  parts = [
    f'% {s.title}\n{tables.latex(s.table)}\n'
    for s in sections
    if s.table is not None and not s.aside
  ]
  return '\n'.join(parts)


def page(title: str, sections: Sequence[Section]) -> str:
  """The report as one HTML file without any other."""
  body = '\n'.join(_html(section) for section in sections)
  name = html.escape(title)
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width">'
    f'<title>{name}</title><style>{_STYLE}</style></head>\n'
    f'<body><h1>{name}</h1>\n{body}\n</body></html>\n'
  )


def _html(section: Section) -> str:
  parts = [f'<p>{html.escape(text)}</p>' for text in section.text]
  if section.table is not None:
    parts.append(f'<div class="wide">{tables.to_html(section.table)}</div>')
  for name, content in section.images.items():
    text = base64.b64encode(content).decode()
    label = html.escape(f'{section.title}: {name}')
    parts.append(f'<img alt="{label}" src="data:image/png;base64,{text}">')
  inside, heading = '\n'.join(parts), html.escape(section.title)
  if section.aside:
    return f'<details><summary>{heading}</summary>\n{inside}</details>'
  return f'<h2>{heading}</h2>\n{inside}'


def _how(cells: Sequence[Cell]) -> list[str]:
  """How the numbers came about, and what is missing."""
  tuned = sorted({f for cell in cells for f in cell.setting})
  chosen = f'{" and ".join([*tuned, "round"])} {"were" if tuned else "was"}'
  hows = {cell.how for cell in cells if cell.how}
  usual = tables.usual_seeds(cells)
  spread = (
    f'mean ± standard deviation of {usual} seeds' if usual > 1 else 'one seed'
  )
  text = [f'In %, {spread}.']
  if hows - {ON_TEST}:
    text.append(
      f'The {chosen} chosen on validation data; the test set is reported for '
      'what was chosen.'
    )
  if ON_TEST in hows:
    text.append(
      f'† The {chosen} chosen on the test set itself, for want of validation '
      'data (best on test): these numbers flatter.'
    )
  if any(cell.personal for cell in cells):
    text.append(
      'Own models: each client is judged with its own model on its own share '
      'of the test set, an easier task than that of the other rows.'
    )
  return [*text, *_missing(cells)]


def _missing(cells: Sequence[Cell]) -> list[str]:
  records = {r.path: r for cell in cells for r in cell.records}.values()
  counts = {
    status: sum(r.status == status for r in records)
    for status in ('diverged', 'unfinished', 'stopped')
  }
  told = ', '.join(f'{n} {status}' for status, n in counts.items() if n)
  if not told:
    return []
  return [
    f'Of {len(records)} runs {told}; a setting competes when all its runs are '
    'finished.'
  ]


def _submodels(cells: Sequence[Cell]) -> list[Section]:
  table = tables.submodels(cells)
  text = (
    'In %, of the networks that clients of each rate have; settings and rounds '
    'are those above, chosen for the whole network.'
  )
  return [Section('Accuracy of submodels', [text], table)] if table else []


def _compared(cells: Sequence[Cell], reference: str, level: float) -> Section:
  return Section(
    f'Difference to {reference}',
    [
      'In percentage points, seed by seed at the chosen settings: mean '
      f"[{100 * level:g} % confidence interval, Student's t], and how many "
      'seeds win, tie and lose.'
    ],
    tables.differences(cells, reference, level),
  )


def _to_target(
  cells: Sequence[Cell], reference: str, target: float
) -> list[Section]:
  table = tables.to_target(cells, reference, target)
  if table is None:
    return []
  which = (
    'given' if target else f'the whole percent that {reference} reaches there'
  )
  text = (
    'Seeds that reach a test accuracy at any evaluation, and what it takes '
    'them at the chosen settings, mean and standard deviation over these '
    f'seeds.  The target is {which}.'
  )
  return [Section('Cost of a target', [text], table)]


def _sensitivity(cells: Sequence[Cell], reference: str) -> list[Section]:
  """One section for each tuned number."""
  numeric = {
    field: None
    for cell in cells
    for field, value in cell.setting.items()
    if isinstance(value, int | float) and not isinstance(value, bool)
  }
  found = []
  for field in numeric:
    name = field.rpartition('.')[2]
    images = _for_columns(
      cells,
      f'sensitivity_{name}',
      lambda cell, field=field: pictures.sensitivity(cell, field),
      reference,
      name.replace('_', ' '),
      log=True,
    )
    text = (
      f'Test accuracy for each {name.replace("_", " ")}, mean and standard '
      f'deviation over seeds.{_grey(cells, reference)}'
    )
    if images:
      found.append(Section(f'Sensitivity to {field}', [text], images=images))
  return found


def _curves(cells: Sequence[Cell], reference: str) -> list[Section]:
  found = []
  for over, name in {'round': 'round', **COSTS}.items():
    images = _for_columns(
      cells,
      f'curves_{over}',
      lambda cell, over=over: pictures.learning_curve(cell, over),
      reference,
      name,
      log=None,
    )
    if images:
      text = (
        f'Test accuracy over {name} at the chosen settings, mean and standard '
        f'deviation over seeds.{_grey(cells, reference)}'
      )
      found.append(Section(f'Accuracy over {name}', [text], images=images))
  return found


def _grey(cells: Sequence[Cell], reference: str) -> str:
  many = len(tables.labels(cells)[0]) > len(pictures.COLORS)
  return f'  Grey: {reference}.' if many else ''


def _for_columns(
  cells, stem, curve_of, reference, xlabel, *, log: bool | None
) -> dict[str, bytes]:
  """A picture for each column that has curves, `{file name: PNG}`.

  The axis is logarithmic if `log`, or for None where curves end far apart.
  """
  images = {}
  for column in tables.labels(cells)[1]:
    curves = {c.row: curve_of(c) for c in cells if c.column == column}
    ends = [curve.x[-1] for curve in curves.values() if curve is not None]
    far = bool(ends) and max(ends) > FAR * min(ends)
    figure = pictures.draw(
      curves, reference, xlabel, log=far if log is None else log
    )
    if figure is not None:
      figure.suptitle(column, fontsize=11)
      images[_file(stem, column)] = pictures.png(figure)
  return images


def _spectra(cells: Sequence[Cell]) -> list[Section]:
  """Singular values of the features, where a run has diagnostics."""
  images: dict[str, bytes] = {}
  for column in tables.labels(cells)[1]:
    lines = {c.row: _diagnosed(c) for c in cells if c.column == column}
    known = {row: found for row, found in lines.items() if found is not None}
    if known:
      buffer = io.BytesIO()
      diagnostic_plots.spectra(known, buffer)
      images[_file('spectra', column)] = buffer.getvalue()
  text = (
    'Singular values of the covariance of the features, where diagnostics were '
    'on: the chosen setting, first seed, last diagnosed round; of the clients '
    'the geometric mean.'
  )
  return [Section('Spectra', [text], images=images)] if images else []


def _diagnosed(cell: Cell) -> diagnostic_plots.Found | None:
  """What was seen last of the first run of a cell that has diagnostics."""
  for run in cell.runs:
    found = Folder(run.path).diagnostics()
    if found:
      return found[max(found)]
  return None


def _partitions(cells: Sequence[Cell]) -> list[Section]:
  """Who owns what, of one run a column."""
  images: dict[str, bytes] = {}
  shown: set[str] = set()
  for column in tables.labels(cells)[1]:
    record = next(c.records[0] for c in cells if c.column == column)
    file = record.path / 'partition.npz'
    if not file.exists() or record.partition in shown:
      continue
    shown.add(record.partition)
    rows = data.Partition.load(str(file)).train
    sizes = np.array([len(own) for own in rows])
    drawn = pictures.clients(sizes, column)
    images[_file('clients', column)] = pictures.png(drawn)
    counts = _class_counts(record)
    if counts is not None:
      images[_file('partition', column)] = _heatmap(counts)
  text = (
    'Train rows of the clients, first seed; columns of the same clients share '
    'a picture.'
  )
  return [Section('Clients', [text], images=images)] if images else []


def _class_counts(record: Record) -> np.ndarray | None:
  """`[C, Y]`, None where the data are not here or have no classes."""
  content = Folder(record.path).read('config.json')
  try:
    found = samples.read(config_lib.from_dict(content['config']))
  except ValueError:
    return None
  dataset, partition = found.dataset, found.partition
  if partition.hash != record.partition or not dataset.num_classes:
    return None
  return data.statistics(partition.train, dataset.y_train, dataset.num_classes)


def _heatmap(counts: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  data.partition_heatmap(counts, buffer)
  return buffer.getvalue()


def _file(stem: str, column: str) -> str:
  parts = [stem, re.sub(r'[^\w.]+', '_', column).strip('_')]
  return '_'.join(part for part in parts if part) + '.png'


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px;
  margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92em;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.15em 0.9em 0.15em 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid #eee; }
thead th { border-bottom: 1px solid #222; }
tbody th { font-weight: 500; }
img { max-width: 100%; display: block; margin: 1em 0; }
details { margin-top: 2em; } summary { cursor: pointer; font-weight: 600; }
"""
