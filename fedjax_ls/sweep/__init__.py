"""Studies: many configurations as one launch, one program a structure."""

from fedjax_ls.sweep.algebra import Settings, Sweep, axis, chain, product, zip_
from fedjax_ls.sweep.launch import Options, run, share
from fedjax_ls.sweep.point import Point, parse, points
from fedjax_ls.sweep.preview import dry_run

__all__ = [
  'Options',
  'Point',
  'Settings',
  'Sweep',
  'axis',
  'chain',
  'dry_run',
  'parse',
  'points',
  'product',
  'run',
  'share',
  'zip_',
]
