"""Successive halving: after some rounds only the best settings go on.

Points that differ in nothing but seeds are one setting, judged by its mean
over the seeds on validation data.
"""

import json

import numpy as np

from fedjax_ls import config as config_lib
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.consistency import require
from fedjax_ls.sweep import axes
from fedjax_ls.sweep.folders import Folders
from fedjax_ls.sweep.point import Point
from fedjax_ls.writers import Folder, Line, summary

Plan = tuple[tuple[int, int], ...]


def parse(text: str) -> Plan:
  """`'20:8,60:2'`: 8 settings go on after round 20 and 2 after round 60.

  Raises:
    ConfigError: it is written otherwise.

  >>> parse('20:8,60:2')
  ((20, 8), (60, 2))
  """
  try:
    pairs = [part.split(':') for part in text.split(',') if part]
    return tuple((int(now), int(keep)) for now, keep in pairs)
  except ValueError:
    raise ConfigError(
      f'halving = {text} is no plan; write ROUND:SETTINGS,ROUND:SETTINGS, such '
      'as 20:8,60:2'
    ) from None


def check(points: list[Point], plan: Plan) -> None:
  """Refuses a plan that does not fit the study.

  Raises:
    ConfigError: rounds or numbers are in no order, a round is not evaluated,
      or there is no validation data to judge by.
  """
  rounds, keeps = [now for now, _ in plan], [keep for _, keep in plan]
  require(
    rounds == sorted(set(rounds)) and min(keeps, default=1) >= 1,
    f'halving = {plan} is in no order; give rounds that grow, and keep 1 or '
    'more',
  )
  for point in points if plan else ():
    config = point.config
    require(
      not axes.alone(config),
      'halving needs points that run together; set execution.data = device, '
      'execution.debug = false and diagnostics.every = 0',
    )
    require(
      config.data.validation > 0,
      'halving chooses by validation data but data.validation = 0; set aside '
      'a share, such as data.validation = 0.1',
    )
    require(
      all(now % config.eval_every == 0 < now < config.rounds for now in rounds),
      f'halving at rounds {rounds} does not fit rounds = {config.rounds} and '
      f'eval_every = {config.eval_every}; choose multiples below the last',
    )


def setting(config: Config) -> str:
  """Text that is the same for points that differ in seeds only."""
  tree = {k: value for k, (_, value) in config_lib.leaves(config).items()}
  kept = {k: value for k, value in tree.items() if k not in config_lib.SEEDS}
  return json.dumps([config_lib.method_name(config), kept], default=list)


def survivors(
  points: list[Point], folders: Folders, now: int, keep: int
) -> tuple[list[Point], list[Point]]:
  """The points of the best settings, and the others, which are marked.

  Args:
    points: all that have come to round `now`.
    folders: theirs.
    now: the round.
    keep: number of settings.
  """
  scores: dict[str, list[float]] = {}
  for point in points:
    lines = Folder(folders.of(point)).metrics()
    scores.setdefault(setting(point.config), []).append(_score(lines, now))
  best = sorted(scores, key=lambda key: -np.mean(scores[key]))[:keep]
  alive = [p for p in points if setting(p.config) in best]
  out = [p for p in points if setting(p.config) not in best]
  for point in out:
    folder = Folder(folders.of(point))
    if 'diverged' not in (folder.read('summary.json') or {}):
      note = {**summary(folder.metrics()), 'stopped': {'round': now}}
      folder.write('summary.json', note)
  return alive, out


def _score(lines: list[Line], now: int) -> float:
  """Validation accuracy, or minus the loss; the worst without any."""
  for line in lines:
    if line['round'] == now:
      for name, sign in (('accuracy', 1), ('loss', -1)):
        value = line.get(f'validation/{name}')
        if value is not None:
          return sign * value
  return -np.inf
