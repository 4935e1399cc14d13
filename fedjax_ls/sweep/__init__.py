"""Studies: many configurations as one launch, one program a structure."""

from fedjax_ls.sweep.algebra import Settings, Sweep, axis, chain, product, zip_
from fedjax_ls.sweep.dry_run import dry_run
from fedjax_ls.sweep.points import Point, parse, points
from fedjax_ls.sweep.run import Options, part, run

__all__ = [
  'Options',
  'Point',
  'Settings',
  'Sweep',
  'axis',
  'chain',
  'dry_run',
  'parse',
  'part',
  'points',
  'product',
  'run',
  'zip_',
]
