"""What came out of a study: tables, pictures and one page.

python -m experiments.report --workdir=DIR[,DIR] [--out=FOLDER]
  [--config=configs/FILE.py] [--reference=ROW] [--measure=accuracy/client_mean]
  [--tuned=client.learning_rate] [--target=0.6]

Reads the points of a study, or single runs, finished or not.  The best values
of the tuned fields and the best round of each run are chosen on validation
data, and the test set is reported for those; without validation data they are
chosen on the test set and marked.  A config file's ROWS and COLUMNS, {label:
settings}, name the rows and columns of the tables; otherwise the settings that
differ do.  Its MEASURES, {heading: (metric, factor)}, are told as well.  Costs
are counted to the test accuracy --target, or to what the reference row reaches.
Writes README.md, report.html (one file), table.tex and the pictures to FOLDER,
DIR/report if left out.  Of a README.md that is there it replaces only what
stands between <!-- report --> and <!-- end of report -->.

Exits with 2 if the command line or a file is wrong.
"""

import ast
import pathlib

from absl import flags

from experiments import commandline
from fedjax_ls import report, study
from fedjax_ls.config import ConfigError

_WORKDIR = flags.DEFINE_list('workdir', [], 'Folders of a study or of runs.')
_OUT = flags.DEFINE_string('out', '', 'Folder for the report.')
_CONFIG = flags.DEFINE_string(
  'config', '', 'Configuration file with ROWS, COLUMNS and MEASURES.'
)
_REFERENCE = flags.DEFINE_string(
  'reference', '', 'Row that the others are compared with, the first if empty.'
)
_MEASURE = flags.DEFINE_string(
  'measure', 'accuracy', 'What to choose by and report.'
)
_TUNED = flags.DEFINE_list(
  'tuned', ['client.learning_rate'], 'Fields that name no row.'
)
_TARGET = flags.DEFINE_float(
  'target',
  0.0,
  'Test accuracy to count costs to, 0 for what REFERENCE reaches.',
)


def main() -> None:
  """Writes the report, or says in one sentence what is wrong."""
  paths = _write()
  print('\n'.join(str(path) for path in paths))


def _write() -> list[pathlib.Path]:
  if not _WORKDIR.value:
    raise ConfigError(
      '--workdir is missing; give the folder of a study, such as '
      '--workdir=runs/first'
    )
  records = study.read(*_WORKDIR.value)
  records = [r for r in records if r.lines]
  if not records:
    raise ConfigError(
      f'--workdir={",".join(_WORKDIR.value)} has no results yet; run it first'
    )
  if _MEASURE.value != 'accuracy':
    records = [report.judged_by(r, _MEASURE.value) for r in records]
  labels = commandline.labels_of(_CONFIG.value) if _CONFIG.value else {}
  cells = report.cells(
    records, labels.get('ROWS'), labels.get('COLUMNS'), _TUNED.value
  )
  sections = report.sections(
    cells, _REFERENCE.value, target=_TARGET.value, measures=_measures()
  )
  first = pathlib.Path(_WORKDIR.value[0])
  return report.write(_title(first), sections, _OUT.value or first / 'report')


def _measures() -> dict[str, tuple[str, float]]:
  return commandline.measures_of(_CONFIG.value) if _CONFIG.value else {}


def _title(workdir: pathlib.Path) -> str:
  """The first line of the config file's docstring, or the folder's name."""
  if not _CONFIG.value:
    return workdir.resolve().name
  tree = ast.parse(pathlib.Path(_CONFIG.value).read_text())
  lines = (ast.get_docstring(tree) or _CONFIG.value).splitlines()
  return lines[0].rstrip('.')


if __name__ == '__main__':
  commandline.run(main, needs_config=False, wrong=ValueError)
