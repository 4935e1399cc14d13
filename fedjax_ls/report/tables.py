"""Tables of a study, as Markdown, LaTeX and HTML."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from fedjax_ls import study
from fedjax_ls.report.selection import ON_TEST, Cell, shown

NONE = '–'  # noqa: RUF001
# What a target costs: heading and unit.
_UNITS = {
  'round': ('rounds', 1.0),
  'bytes_up': ('MB to the server', 1e6),
  'simulated_seconds': ('simulated s', 1.0),
}
_LATEX = {'±': r'$\pm$', '–': '--', '†': r'$\dagger$'} | {  # noqa: RUF001
  c: f'\\{c}' for c in '%_&#$'
}


class Table(NamedTuple):
  """Text in rows and columns.

  Attributes:
    header: one text a column.
    rows: as long as the header; the first text names the row.
    bold: `(row, column)` of what stands out.
  """

  header: list[str]
  rows: list[list[str]]
  bold: frozenset[tuple[int, int]] = frozenset()


def results(cells: Sequence[Cell]) -> Table:
  """Mean and standard deviation in %, and the values that were chosen.

  `†` marks what was chosen on the test set, `(n)` a number of seeds that is
  not the one of most cells, bold the best of the rows whose clients share one
  model.
  """
  at = {(c.row, c.column): c for c in cells}
  rows, columns = labels(cells)
  usual = usual_seeds(cells)
  fields = {c: _tuned(cells, c) for c in columns}
  header, texts = [''], [[row] for row in rows]
  bold = set()
  for column in columns:
    best = _best(cells, column)
    names = [_heading(fields[column])] if fields[column] else []
    header += [column or 'test accuracy', *names, 'round']
    for i, row in enumerate(rows):
      cell = at.get((row, column))
      if cell is not None and cell is best:
        bold.add((i, len(texts[i])))
      texts[i] += [_score(cell, usual)]
      texts[i] += [_setting(cell, fields[column])] if names else []
      texts[i] += [_rounds(cell)]
  return Table(header, texts, frozenset(bold))


def differences(
  cells: Sequence[Cell], reference: str, level: float = 0.95
) -> Table:
  """Each row minus a reference row, seed by seed, in percentage points.

  Args:
    cells: of a study.
    reference: label of the row.
    level: of the confidence interval, Student's t over the pairs.
  """
  at = {(c.row, c.column): c for c in cells}
  rows, columns = labels(cells)
  header, texts = [''], [[row] for row in rows if row != reference]
  for column in columns:
    header += [column or 'difference', 'win/tie/loss']
    base = at.get((reference, column))
    for text in texts:
      text += _difference(at.get((text[0], column)), base, level)
  return Table(header, texts)


def submodels(cells: Sequence[Cell]) -> Table | None:
  """Accuracy of networks of every size at the chosen settings and rounds.

  Args:
    cells: of a study; those of methods with submodels have measured
      `accuracy@1/2` and so on.

  Returns:
    A row a cell, problem after problem, from the smallest network to the whole
    one; None where none but whole networks were judged.
  """
  rates = sorted({rate for cell in cells for rate in _rates(cell)})
  if not rates:
    return None
  _, columns = labels(cells)
  texts = []
  for column in columns:
    for cell in cells:
      if cell.column == column and cell.runs:
        names = _rates(cell)
        small = [_measured(cell, names.get(rate)) for rate in rates]
        whole = _measured(cell, study.ACCURACY)
        texts.append([column, cell.row, *small, whole])
  return Table(['problem', '', *map(str, rates), 'whole network'], texts)


def to_target(
  cells: Sequence[Cell], reference: str, target: float = 0.0
) -> Table | None:
  """What it takes the chosen settings to reach a test accuracy.

  Rounds, and where they were counted, megabytes (1e6) sent to the server and
  simulated seconds: mean and standard deviation over the seeds that reach it,
  and how many do.

  Args:
    cells: of a study.
    reference: label of a row.
    target: the accuracy in (0, 1]; 0 for the whole percent below the mean that
      the reference has in the same column.

  Returns:
    None where no column has a target.
  """
  rows, columns = labels(cells)
  header, texts = [''], [[row] for row in rows]
  for column in columns:
    found = {c.row: c for c in cells if c.column == column and c.runs}
    base = found.get(reference)
    level = target or (_whole_percent(base.mean) if base else 0.0)
    costs = _costs([run for cell in found.values() for run in cell.runs])
    if not level or not costs:
      continue
    header += [f'{column} to {100 * level:g} %'.lstrip(), *costs.values()]
    for text in texts:
      text += _reached(found.get(text[0]), level, list(costs))
  return Table(header, texts) if len(header) > 1 else None


def measures(
  cells: Sequence[Cell], named: Mapping[str, tuple[str, float]]
) -> Table:
  """Other metrics at the chosen settings and rounds, over the seeds.

  Args:
    cells: of a study.
    named: `{heading: (metric, factor that it is shown times)}`.
  """
  at = {(c.row, c.column): c for c in cells}
  rows, columns = labels(cells)
  header, texts = [''], [[row] for row in rows]
  for column in columns:
    header += [f'{column} {heading}'.lstrip() for heading in named]
    for text in texts:
      cell = at.get((text[0], column))
      lines = [study.chosen(run)[0] for run in cell.runs] if cell else []
      for metric, factor in named.values():
        found = [factor * line[metric] for line in lines if metric in line]
        text.append(_amount(np.array(found)))
  return Table(header, texts)


def settings(cells: Sequence[Cell]) -> Table:
  """Every setting of every cell, chosen or not."""
  texts = []
  for cell in cells:
    for row in study.table(cell.records):
      setting = {k: v for k, v in row.items() if k not in _OF_TABLE}
      names = ', '.join(f'{k}={shown(v)}' for k, v in setting.items())
      mark = ' (chosen)' if cell.runs and setting == cell.setting else ''
      texts.append(
        [
          cell.row,
          cell.column,
          names + mark,
          percent(row['mean'], row['std']),
          str(row['seeds']),
          str(row['diverged']),
        ]
      )
  header = ['', 'problem', 'setting', 'test accuracy', 'seeds', 'diverged']
  return Table(header, texts)


def markdown(table: Table) -> str:
  """A pipe table.

  >>> print(markdown(Table(['', 'a'], [['LN', '1'], ['FN', '2']], {(1, 1)})))
  |  | a |
  |---|---|
  | LN | 1 |
  | FN | **2** |
  """
  texts = _marked(table, '**{}**', lambda text: text.replace('|', r'\|'))
  header = [text.replace('|', r'\|') for text in table.header]
  lines = [header, ['---'] * len(header), *texts]
  rows = [f'| {" | ".join(line)} |' for line in lines]
  rows[1] = '|' + '---|' * len(header)
  return '\n'.join(rows)


def latex(table: Table) -> str:
  r"""A tabular for the package booktabs.

  >>> print(latex(Table(['', 'a'], [['x_y', '1 ± 2']])))
  \begin{tabular}{ll}
  \toprule
   & a \\
  \midrule
  x\_y & 1 $\pm$ 2 \\
  \bottomrule
  \end{tabular}
  """
  texts = _marked(table, r'\textbf{{{}}}', _for_latex)
  header = [_for_latex(text) for text in table.header]
  lines = [f'{" & ".join(line)} \\\\' for line in (header, *texts)]
  return '\n'.join(
    [
      rf'\begin{{tabular}}{{{"l" * len(header)}}}',
      r'\toprule',
      lines[0],
      r'\midrule',
      *lines[1:],
      r'\bottomrule',
      r'\end{tabular}',
    ]
  )


def to_html(table: Table) -> str:
  """A `<table>`; the first text of a row is its heading."""
  texts = _marked(table, '<b>{}</b>', html.escape)
  head = ''.join(f'<th>{html.escape(text)}</th>' for text in table.header)
  body = '\n'.join(
    f'<tr><th>{first}</th>'
    + ''.join(f'<td>{text}</td>' for text in rest)
    + '</tr>'
    for first, *rest in texts
  )
  return f'<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'


def labels(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
  """Rows and columns, in their order."""
  rows = list(dict.fromkeys(cell.row for cell in cells))
  return rows, list(dict.fromkeys(cell.column for cell in cells))


def usual_seeds(cells: Sequence[Cell]) -> int:
  """The number of seeds that most finished cells have, 0 for none."""
  counts = [len(cell.runs) for cell in cells if cell.runs]
  return max(counts, key=counts.count) if counts else 0


def percent(mean: float, std: float = math.nan) -> str:
  """A share in %.

  >>> percent(0.8714, 0.004), percent(0.5), percent(float('nan'))
  ('87.1 ± 0.4', '50.0', '–')
  """
  if math.isnan(mean):
    return NONE
  spread = '' if math.isnan(std) else f' ± {100 * std:.1f}'
  return f'{100 * mean:.1f}{spread}'


_OF_TABLE = ('mean', 'std', 'seeds', 'diverged', 'how')


def _best(cells: Sequence[Cell], column: str) -> Cell | None:
  shared = [c for c in cells if c.column == column and not c.personal]
  ended = [cell for cell in shared if cell.runs]
  return max(ended, key=lambda cell: cell.mean) if len(ended) > 1 else None


def _tuned(cells: Sequence[Cell], column: str) -> list[str]:
  fields = [f for c in cells if c.column == column for f in c.setting]
  return list(dict.fromkeys(fields))


def _heading(fields: list[str]) -> str:
  if len(fields) > 1:
    return 'chosen'
  return fields[0].rpartition('.')[2].replace('_', ' ')


def _score(cell: Cell | None, usual: int) -> str:
  if cell is None or not cell.runs:
    return NONE
  mark = '†' if cell.how == ON_TEST else ''
  few = f' ({len(cell.runs)})' if len(cell.runs) != usual else ''
  return percent(cell.mean, cell.std) + mark + few


def _setting(cell: Cell | None, fields: list[str]) -> str:
  if cell is None or not cell.runs:
    return NONE
  if len(fields) == 1:
    return shown(cell.setting.get(fields[0], NONE))
  return ', '.join(
    f'{f.rpartition(".")[2]}={shown(cell.setting[f])}'
    for f in fields
    if f in cell.setting
  )


def _rounds(cell: Cell | None) -> str:
  if cell is None or not cell.runs:
    return NONE
  return ', '.join(str(r) for r in sorted(set(cell.rounds)))


def _difference(
  cell: Cell | None, base: Cell | None, level: float
) -> list[str]:
  if cell is None or base is None or not cell.runs or not base.runs:
    return [NONE, NONE]
  try:
    found = study.paired(cell.runs, base.runs, level=level)
  except ValueError:  # no seeds in common
    return [NONE, NONE]
  text = f'{100 * found.mean:+.1f}'
  if not math.isnan(found.low):
    text += f' [{100 * found.low:+.1f}, {100 * found.high:+.1f}]'
  return [text, f'{found.wins}/{found.ties}/{found.losses}']


def _rates(cell: Cell) -> dict[Fraction, str]:
  """`{rate: metric}` of the submodels that every run of a cell has judged."""
  lines = [study.chosen(run)[0] for run in cell.runs]
  found = {}
  for name in set.intersection(*map(set, lines)) if lines else ():
    rate = re.fullmatch(rf'{study.ACCURACY}@([\d./]+)', name)
    if rate:
      found[Fraction(rate[1])] = name
  return found


def _measured(cell: Cell, metric: str | None) -> str:
  if metric is None:
    return NONE
  values = cell.measured(metric)
  std = values.std(ddof=1) if len(values) > 1 else math.nan
  return percent(values.mean(), std)


def _whole_percent(share: float) -> float:
  return math.floor(100 * share + 1e-9) / 100  # 0.29 is 29 %


def _costs(runs: Sequence[study.Record]) -> dict[str, str]:
  """Of `_UNITS`, those that every run has counted, with their headings."""
  return {
    name: heading
    for name, (heading, _) in _UNITS.items()
    if runs and all(name in line for run in runs for line in run.lines)
  }


def _reached(cell: Cell | None, level: float, costs: list[str]) -> list[str]:
  if cell is None:
    return [NONE] * (1 + len(costs))
  spent = {
    name: [study.to_target(run, level, over=name) for run in cell.runs]
    for name in costs
  }
  firsts = spent['round']
  count = sum(first is not None for first in firsts)
  texts = [f'{count} of {len(firsts)}']
  for name in costs:
    values = [v / _UNITS[name][1] for v in spent[name] if v is not None]
    texts.append(_amount(np.array(values)))
  return texts


def _amount(values: np.ndarray) -> str:
  """Mean and deviation with three digits, whole ones from 100.

  >>> _amount(np.array([20.0, 30.0])), _amount(np.array([1234.5]))
  ('25 ± 7.07', '1234')
  """

  def short(value: float) -> str:
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'

  if not len(values):
    return NONE
  spread = f' ± {short(values.std(ddof=1))}' if len(values) > 1 else ''
  return short(values.mean()) + spread


def _marked(table: Table, bold: str, escape) -> list[list[str]]:
  return [
    [
      bold.format(escape(text)) if (i, j) in table.bold else escape(text)
      for j, text in enumerate(row)
    ]
    for i, row in enumerate(table.rows)
  ]


def _for_latex(text: str) -> str:
  return re.sub('.', lambda m: _LATEX.get(m[0], m[0]), text)
