"""From the points of a study to the cells of a table, chosen honestly.

A row is a method, a column a problem (`partition.*`, `data.*`, `tiers.*`); what
else differs inside a cell is tuned: its best value, and the best round of each
run, are chosen on validation data, and the test set is reported for those.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_ls import study
from fedjax_ls.consistency import require
from fedjax_ls.study import Record

Labels = Mapping[str, Mapping[str, Any]]

TUNED = ('client.learning_rate',)
ON_TEST = 'best_on_test'
PROBLEM = ('partition', 'data', 'tiers')
GLOBAL = 'global_accuracy'


class Cell(NamedTuple):
  """One row of a table under one column.

  Attributes:
    row: its label.
    column: its label.
    records: all points.
    setting: the tuned fields that were chosen.
    runs: of the chosen setting, none where no setting is finished.
    how: it was chosen, `selected_on_validation` or `best_on_test`.
    personal: whether clients are judged with models of their own.
  """

  row: str
  column: str
  records: list[Record]
  setting: dict[str, Any]
  runs: list[Record]
  how: str
  personal: bool

  def measured(self, metric: str) -> np.ndarray:
    """A metric of each run at its chosen round."""
    lines = [study.chosen(run)[0] for run in self.runs]
    return np.array([line[metric] for line in lines], float)

  @property
  def values(self) -> np.ndarray:
    """Test accuracy of each run at its chosen round."""
    return self.measured(study.ACCURACY)

  @property
  def rounds(self) -> list[int]:
    """The chosen round of each run."""
    return [study.chosen(run)[0]['round'] for run in self.runs]

  @property
  def mean(self) -> float:
    """Of the values, NaN for none."""
    return float(self.values.mean()) if self.runs else math.nan

  @property
  def std(self) -> float:
    """Of the values, of the sample; NaN for fewer than two."""
    return float(self.values.std(ddof=1)) if len(self.runs) > 1 else math.nan


def cells(
  records: Sequence[Record],
  rows: Labels | None = None,
  columns: Labels | None = None,
  tuned: Sequence[str] = TUNED,
) -> list[Cell]:
  """Sorts records into cells, and chooses the best setting of each.

  Args:
    records: of a study.
    rows: `{label: settings}`; a record belongs to the label with the most
      settings that are all its own.  Records of no label, and all without
      labels, are named after the fields in which they differ.
    columns: likewise.
    tuned: fields that name no row.

  Returns:
    Cells, row after row.  A method that is judged with the clients' own models
    and with the global one gets a row for each.

  Raises:
    ValueError: two labels fit a record equally well, or a record has no test
      accuracy.
  """
  tuned = [*tuned, 'rounds']
  named = {k for settings in (columns or {}).values() for k in settings}
  problem = [
    f
    for f in study.varying(records)
    if f.split('.')[0] in PROBLEM or f in named
  ]
  of_row = _labelled(records, rows, [*tuned, *problem])
  others = [f for f in study.varying(records) if f not in problem]
  of_column = _labelled(records, columns, [*others, *tuned], plain='')
  found: dict[tuple[str, str], list[Record]] = {}
  for record in records:
    key = of_row[record.path], of_column[record.path]
    found.setdefault(key, []).append(record)
  return [
    cell
    for row in _order(of_row, rows)
    for personal in (True, False)
    for column in _order(of_column, columns)
    if (row, column) in found
    for cell in _cell(row, column, found[row, column], personal)
  ]


def best(records: Sequence[Record]) -> tuple[dict[str, Any], list[Record], str]:
  """`study.best` among the settings with the most runs; empty for none.

  A setting whose other seeds have not begun yet does not compete.
  """
  settings = study.by_setting(records)
  most = max(len(members) for _, members in settings)
  whole = [
    (setting, members)
    for setting, members in settings
    if len(members) == most and all(r.status == 'finished' for r in members)
  ]
  if not whole:
    return {}, [], ''
  _, runs, how = study.best([r for _, members in whole for r in members])
  (setting,) = [s for s, members in whole if members[0].path == runs[0].path]
  return setting, runs, how


def judged_by(record: Record, measure: str) -> Record:
  """A record whose accuracy is another measure, for choice and report.

  Args:
    record: of a run.
    measure: such as `global_accuracy` or `accuracy/client_mean`.

  Raises:
    ValueError: the run has no such measure.
  """
  splits = ('test', 'validation')
  for line in record.lines:
    require(
      f'test/{measure}' in line,
      f'{record.path} has no test/{measure}; give measure = one of '
      + ', '.join(k[5:] for k in line if k.startswith('test/')),
    )
  lines = [
    {
      **{k: v for k, v in line.items() if k.split('/')[0] not in splits},
      **{
        f'{split}/accuracy': line[f'{split}/{measure}']
        for split in splits
        if f'{split}/{measure}' in line
      },
    }
    for line in record.lines
  ]
  return record._replace(lines=lines)


def _cell(
  row: str, column: str, records: list[Record], personal: bool
) -> list[Cell]:
  """The cell of the clients' own models, or the one of the global model."""
  both = any(f'test/{GLOBAL}' in line for r in records for line in r.lines)
  if not both:
    return [] if personal else [_chosen(row, column, records, False)]
  if personal:
    return [_chosen(f'{row} (own models)', column, records, True)]
  records = [judged_by(record, GLOBAL) for record in records]
  return [_chosen(f'{row} (global model)', column, records, False)]


def _chosen(
  row: str, column: str, records: list[Record], personal: bool
) -> Cell:
  return Cell(row, column, records, *best(records), personal)


def _labelled(
  records: Sequence[Record],
  labels: Labels | None,
  hidden: Sequence[str],
  plain: str | None = None,
) -> dict[Any, str]:
  """`{path of a record: label}`."""
  found = {r.path: _fitting(r, labels or {}) for r in records}
  rest = [r for r in records if not found[r.path]]
  fields = [f for f in study.varying(rest) if f not in hidden] if rest else []
  fields = _telling(rest, fields)
  for record in rest:
    found[record.path] = _named(record, fields, plain)
  return {path: label or '' for path, label in found.items()}


def _fitting(record: Record, labels: Labels) -> str | None:
  """The label with the most settings, all of them the record's."""
  fits = [
    (len(settings), label)
    for label, settings in labels.items()
    if all(_has(record, k, v) for k, v in settings.items())
  ]
  fits = [fit for fit in fits if fit[0] == max(fits)[0]]
  require(
    len(fits) < 2,
    f'{record.name} is {" and ".join(repr(f[1]) for f in fits)}; tell them '
    'apart by one more setting',
  )
  return fits[0][1] if fits else None


def _has(record: Record, field: str, value: Any) -> bool:
  field = 'algorithm.name' if field == 'algorithm' else field
  value = list(value) if isinstance(value, tuple) else value
  return field in record.fields and record.fields[field] == value


def _telling(records: Sequence[Record], fields: list[str]) -> list[str]:
  """Leaves out fields that follow from the method."""
  of_method: dict[str, list[Record]] = {}
  for record in records:
    of_method.setdefault(record.fields['algorithm.name'], []).append(record)
  inside = {f for group in of_method.values() for f in study.varying(group)}
  first = [f for f in fields if f == 'algorithm.name']
  return first + [f for f in fields if f in inside and f not in first]


def _named(record: Record, fields: list[str], plain: str | None) -> str:
  parts = []
  for field in fields:
    if field not in record.fields:
      continue
    last = field.rpartition('.')[2]
    clash = sum(f.rpartition('.')[2] == last for f in fields) > 1
    value = shown(record.fields[field])
    name = field if clash else last
    parts.append(value if field == 'algorithm.name' else f'{name}={value}')
  if plain is None:
    plain = record.fields['algorithm.name']
  return ', '.join(parts) or plain


def shown(value: Any) -> str:
  """A value of a field, for people."""
  return f'{value:g}' if isinstance(value, float) else str(value)


def _order(found: dict[Any, str], labels: Labels | None) -> list[str]:
  """Labels in the order they were given in, then in that of the records."""
  used = set(found.values())
  given = [label for label in labels or {} if label in used]
  return [*given, *dict.fromkeys(v for v in found.values() if v not in given)]
