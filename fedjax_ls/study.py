"""Reads a study's folders and compares what is there, honestly.

Rounds and settings are chosen on validation data and the test set is only
reported for what was chosen; without validation data the choice looks at the
test set, and says so (`best_on_test`).  Points that differ in seeds only are
one setting; methods are compared seed by seed, where they share the partition
and the initial model.
"""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_ls import config as config_lib
from fedjax_ls.consistency import require
from fedjax_ls.writers import Folder, Line, summary

ACCURACY = 'test/accuracy'


class Record(NamedTuple):
  """One point of a study.

  Attributes:
    name: of its folder.
    path: its folder.
    fields: `{dotted field: value}`; the method is `algorithm.name`.
    seeds: in force, of the partition, the model and the training.
    partition: hash of who owns what.
    lines: of `metrics.jsonl`.
    status: `finished`, `diverged`, `stopped` (by halving) or `unfinished`.
  """

  name: str
  path: pathlib.Path
  fields: dict[str, Any]
  seeds: dict[str, int]
  partition: str
  lines: list[Line]
  status: str


class Paired(NamedTuple):
  """Ours minus theirs, seed by seed.

  Attributes:
    differences: one a pair.
    mean: of them.
    low: lower end of the confidence interval of the mean (Student's t), NaN
      for a single pair.
    high: upper end.
    wins: pairs in which ours is larger by more than the tie.
    ties: pairs in which neither is.
    losses: pairs in which theirs is.
  """

  differences: np.ndarray
  mean: float
  low: float
  high: float
  wins: int
  ties: int
  losses: int


def read(*workdirs: str | os.PathLike) -> list[Record]:
  """The points of studies that have begun, and single runs.

  Args:
    *workdirs: of studies (`WORKDIR/points`) or of runs.

  Raises:
    ValueError: a folder holds neither, or a file cannot be read.
  """
  return [_record(path) for workdir in workdirs for path in _runs(workdir)]


def varying(records: Sequence[Record]) -> list[str]:
  """Fields in which settings differ, seeds and what computes them aside."""
  names = {name: None for record in records for name in record.fields}
  return [
    name
    for name in names
    if name not in (*config_lib.SEEDS, 'rounds')
    and name.split('.')[0] not in config_lib.OTHERS
    and len({_hashable(record.fields.get(name)) for record in records}) > 1
  ]


def by_setting(
  records: Sequence[Record],
) -> list[tuple[dict[str, Any], list[Record]]]:
  """Each setting, by the fields that vary, with its records."""
  names = varying(records)
  found: dict[str, tuple[dict[str, Any], list[Record]]] = {}
  for record in records:
    setting = {k: record.fields[k] for k in names if k in record.fields}
    key = json.dumps(setting, default=list)
    found.setdefault(key, (setting, []))[1].append(record)
  return list(found.values())


def chosen(record: Record) -> tuple[Line, str]:
  """The line of the best round, and how it was chosen.

  Returns:
    The line, and `selected_on_validation` or `best_on_test`.

  Raises:
    ValueError: the record has no results.
  """
  require(bool(record.lines), f'{record.name} has no results yet; run it first')
  found = summary(record.lines)
  for how in ('selected_on_validation', 'best_on_test'):
    if how in found:
      return found[how], how
  raise ValueError(
    f'{record.name} has neither test nor validation results; use other data'
  )


def table(
  records: Sequence[Record], metric: str = ACCURACY
) -> list[dict[str, Any]]:
  """Mean and standard deviation over seeds of each setting.

  Args:
    records: of a study.
    metric: at each run's chosen round.

  Returns:
    A row a setting: its fields, `mean`, `std` (of the sample, NaN for one
    seed), `seeds` and `diverged` (how many), and `how` rounds were chosen.
    Runs that are not finished do not enter the mean.
  """
  rows = []
  for setting, members in by_setting(records):
    ended = [chosen(r) for r in members if r.status == 'finished']
    values = np.array([line[metric] for line, _ in ended], float)
    rows.append(
      {
        **setting,
        'mean': float(values.mean()) if len(values) else math.nan,
        'std': float(values.std(ddof=1)) if len(values) > 1 else math.nan,
        'seeds': len(values),
        'diverged': sum(r.status == 'diverged' for r in members),
        'how': ended[0][1] if ended else '',
      }
    )
  return rows


def best(
  records: Sequence[Record],
) -> tuple[dict[str, Any], list[Record], str]:
  """The setting that is best on average over its seeds.

  Args:
    records: of a study; a setting takes part if all its runs are finished.

  Returns:
    The setting, its records, and how it was chosen: `selected_on_validation`,
    or `best_on_test` where there is no validation data.

  Raises:
    ValueError: no setting is finished, or only some have validation data.
  """
  whole = [
    (setting, members)
    for setting, members in by_setting(records)
    if all(r.status == 'finished' for r in members)
  ]
  require(bool(whole), 'no setting of the study is finished; run it to the end')
  hows = {chosen(r)[1] for _, members in whole for r in members}
  require(
    len(hows) == 1,
    'some points have validation data and some have none; compare those with '
    'the same data.validation',
  )
  (how,) = hows
  split = 'validation' if how == 'selected_on_validation' else 'test'
  means = [
    np.mean([_score(chosen(r)[0], split) for r in members])
    for _, members in whole
  ]
  return (*whole[int(np.argmax(means))], how)


def paired(
  ours: Sequence[Record],
  theirs: Sequence[Record],
  metric: str = ACCURACY,
  *,
  level: float = 0.95,
  tie: float = 0.0,
) -> Paired:
  """Compares two settings on the seeds that both have.

  Args:
    ours: runs of one setting.
    theirs: runs of the other.
    metric: at each run's chosen round.
    level: of the confidence interval of the mean difference, in (0, 1).
    tie: differences up to this count as none, >= 0.

  Raises:
    ValueError: a setting has two runs of the same seeds, or they share none.
  """
  a, b = _by_seeds(ours), _by_seeds(theirs)
  both = [key for key in a if key in b]
  require(
    bool(both),
    'the two settings share no seeds and partition; run both with the same '
    'seeds',
  )
  found = [chosen(a[k])[0][metric] - chosen(b[k])[0][metric] for k in both]
  return _paired(np.array(found, float), level, tie)


def win_tie_loss(
  records: Sequence[Record],
  field: str,
  metric: str = ACCURACY,
  *,
  tie: float = 0.0,
) -> dict[tuple[Any, Any], tuple[int, int, int]]:
  """Counts how often one value of a field beats another, all else equal.

  Args:
    records: of a study; unfinished runs are left out.
    field: such as `algorithm.name`, with which all of `algorithm` may differ.
    metric: at each run's chosen round, larger is better.
    tie: differences up to this count as none.

  Returns:
    `{(a, b): (wins of a, ties, losses of a)}`.

  Raises:
    ValueError: a value has several runs that agree in all else.
  """
  ended = [record for record in records if record.status == 'finished']
  same = 'algorithm.' if field.startswith('algorithm.') else field
  others = [name for name in varying(ended) if not name.startswith(same)]
  found: dict[Any, dict[str, float]] = {}
  for record in ended:
    rest = [record.fields.get(name) for name in others]
    key = json.dumps([rest, _seeds(record)], default=list)
    cells = found.setdefault(_hashable(record.fields[field]), {})
    require(
      key not in cells,
      f'{record.name} agrees with another run in all but {same}; choose one of '
      'them on validation data, as `best` does',
    )
    cells[key] = chosen(record)[0][metric]
  counts = {}
  for a, b in itertools.permutations(found, 2):
    both = [k for k in found[a] if k in found[b]]
    differences = np.array([found[a][k] - found[b][k] for k in both])
    counts[a, b] = _counts(differences, tie)
  return counts


def to_target(
  record: Record,
  target: float,
  metric: str = ACCURACY,
  over: str = 'round',
) -> float | None:
  """The first round (or time, or bytes) at which a run reaches a target.

  Args:
    record: of the run.
    target: value of the metric.
    metric: larger is better.
    over: what to count, such as `round` or `simulated_seconds`.

  Returns:
    The value of `over` there, None if the target is never reached.
  """
  for line in record.lines:
    value = line.get(metric)
    if value is not None and value >= target:
      return line[over]
  return None


def _runs(workdir: str | os.PathLike) -> list[pathlib.Path]:
  path = pathlib.Path(workdir)
  found = sorted(
    [*path.glob('config.json'), *path.glob('points/*/config.json')]
  )
  require(
    bool(found),
    f'{workdir} holds no points of a study and no run; give its workdir',
  )
  return [file.parent for file in found]


def _record(path: pathlib.Path) -> Record:
  folder = Folder(path)
  content = folder.read('config.json')
  found = folder.read('summary.json') or {}
  fields = config_lib.flat(content['config'])
  lines = folder.metrics()
  last = lines[-1]['round'] if lines else 0
  status = 'finished' if last >= fields['rounds'] else 'unfinished'
  for mark in ('stopped', 'diverged'):
    if mark in found:
      status = mark
  return Record(
    path.name,
    path,
    fields,
    content['seeds'],
    content['partition']['hash'],
    lines,
    status,
  )


def _score(line: Line, split: str) -> float:
  accuracy = line.get(f'{split}/accuracy')
  return -line[f'{split}/loss'] if accuracy is None else accuracy


def _seeds(record: Record) -> tuple:
  return (*sorted(record.seeds.items()), record.partition)


def _by_seeds(records: Sequence[Record]) -> dict[tuple, Record]:
  found: dict[tuple, Record] = {}
  for record in records:
    key = _seeds(record)
    require(
      key not in found,
      f'{record.name} has the seeds of another run; give the runs of one '
      'setting',
    )
    found[key] = record
  return found


def _paired(differences: np.ndarray, level: float, tie: float) -> Paired:
  from scipy import stats

  mean, n = float(differences.mean()), len(differences)
  half = math.nan
  if n > 1:
    spread = differences.std(ddof=1) / math.sqrt(n)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * spread)
  counts = _counts(differences, tie)
  return Paired(differences, mean, mean - half, mean + half, *counts)


def _counts(differences: np.ndarray, tie: float) -> tuple[int, int, int]:
  wins, losses = int(np.sum(differences > tie)), int(np.sum(differences < -tie))
  return wins, len(differences) - wins - losses, losses


def _hashable(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value
