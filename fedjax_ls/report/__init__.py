"""Reports of studies: tables, pictures and one page, from their records."""

from fedjax_ls.report.pages import (
  Section,
  latex,
  markdown,
  page,
  sections,
  write,
)
from fedjax_ls.report.pictures import Curve, draw, learning_curve, sensitivity
from fedjax_ls.report.selection import Cell, best, cells, judged_by
from fedjax_ls.report.tables import (
  Table,
  differences,
  results,
  settings,
  submodels,
  to_target,
)

__all__ = [
  'Cell',
  'Curve',
  'Section',
  'Table',
  'best',
  'cells',
  'differences',
  'draw',
  'judged_by',
  'latex',
  'learning_curve',
  'markdown',
  'page',
  'results',
  'sections',
  'sensitivity',
  'settings',
  'submodels',
  'to_target',
  'write',
]
