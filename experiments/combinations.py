"""Which parts combine: pairs of options, and configurations that cover them.

  python -m experiments.combinations

writes the README's table of what is refused, with the reasons.  The options
are below; methods are found by discovery.
"""

import copy
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import fedjax_ls as fl
from experiments import commandline
from fedjax_ls import config as config_lib
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.validate import validate

README = pathlib.Path(__file__).parent.parent / 'README.md'
MARKS = '<!-- combinations -->\n', '<!-- end of combinations -->\n'

Options = dict[str, dict[str, Any]]

# {axis: {option: the fields it sets}}; the first option of each is the default.
AXES: dict[str, Options] = {
  'norm': {
    'none': {},
    'fn': {'model.norm': 'fn'},
    'ln': {'model.norm': 'ln'},
    'gn': {'model.norm': 'gn'},
    'bn': {'model.norm': 'bn'},
  },
  'loss': {
    'cross-entropy': {},
    **{name: {'loss.terms': (name,)} for name in fl.losses.TERMS},
    **{
      name: {'loss.calibration': name}
      for name in fl.calibrations.CALIBRATIONS
      if name != 'none'
    },
  },
  'client': {
    'sgd': {},
    'momentum': {'client.optimizer': 'momentum'},
    'adam': {'client.optimizer': 'adam', 'client.learning_rate': 0.01},
    'sam': {'client.sam': True},
  },
  'server': {
    name: {'server.optimizer': name}
    for name in ('sgd', 'momentum', 'adagrad', 'adam', 'yogi')
  },
  'uplink': {
    'plain': {},
    'qsgd': {'uplink.links': ('qsgd',), 'uplink.levels': 4.0},
    'bfloat16': {'uplink.links': ('bfloat16',)},
    'clip-top_k': {'uplink.links': ('clip', 'top_k'), 'uplink.keep': 0.2},
    'sign': {'uplink.links': ('sign',), 'uplink.error_feedback': True},
  },
  'sampler': {
    'everyone': {},
    **{
      name: {'sampler.name': name, 'sampler.cohort_size': 3}
      for name in ('uniform', 'pow_d', 'divfl', 'oort')
    },
  },
  'method': {
    'fedavg': {},
    **{name: {} for name in fl.algorithms.METHODS if name != 'fedavg'},
  },
}

# Calibrations that the training cases leave out: functions of the same
# arguments as those that they have.
ALIKE = ('loss', 'fedrs'), ('loss', 'zero'), ('loss', 'exclude')

Case = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]


def default() -> Case:
  """The first option of every axis."""
  return {axis: next(iter(options)) for axis, options in AXES.items()}


def configure(case: Case, base: Config) -> Config:
  """The configuration of a case.

  Args:
    case: `{axis: option}` of some axes; the others keep their default.
    base: what the options do not set.
  """
  case = default() | case
  made = copy.deepcopy(base)
  made.algorithm = fl.algorithms.find(case['method']).settings()
  for axis, option in case.items():
    for field, value in AXES[axis][option].items():
      config_lib.set_field(made, field, value)
  return made


def refusal(case: Case) -> str:
  """Why a case makes no sense, '' if it does."""
  try:
    validate(configure(case, Config()))
  except ConfigError as error:
    return str(error)
  return ''


def pairs() -> list[Pair]:
  """All pairs of options of two axes."""
  return [
    ((a, x), (b, y))
    for a, b in itertools.combinations(AXES, 2)
    for x in AXES[a]
    for y in AXES[b]
  ]


def refused() -> dict[Pair, str]:
  """The pairs that make no sense, and why.

  Where an option is refused with every option of an axis, it is with the
  defaults alone, and no pair is to blame.
  """
  reasons = {pair: refusal(dict(pair)) for pair in pairs()}
  return {pair: why for pair, why in reasons.items() if why}


def covering(forbidden: Iterable[Pair]) -> list[Case]:
  """Few cases that together have every pair but the forbidden ones.

  Greedy: each case starts from a pair that is left and takes, axis by axis,
  the option that adds most pairs.  Options in `ALIKE` are in no case.
  """
  forbidden = {
    *forbidden,
    *(p for p in pairs() if not set(ALIKE).isdisjoint(p)),
  }
  left = dict.fromkeys(pair for pair in pairs() if pair not in forbidden)
  cases = []
  while left:
    case = _grown(dict(next(iter(left))), left, forbidden)
    cases.append(case)
    for pair in pairs_of(case):
      left.pop(pair, None)
  return cases


def rows() -> list[tuple[list[str], list[str], str]]:
  """The refused pairs: each of some options with each of others, and why.

  In the reason `...` stands for options of which there are several.
  """
  found: dict[tuple[str, str], list[str]] = {}
  for ((_, x), (_, y)), why in refused().items():
    why = why.replace(repr(x), '{x!r}', 1).replace(f'method {y}', 'method {y}')
    found.setdefault((why, y), []).append(x)
  merged: dict[tuple[str, tuple[str, ...]], list[str]] = {}
  for (why, y), these in found.items():
    merged.setdefault((why, tuple(these)), []).append(y)
  return [
    (list(these), those, _told(why, these, those))
    for (why, these), those in merged.items()
  ]


def table() -> str:
  """Markdown: what is refused, pairs of one reason in one row."""
  lines = ['| any of these | with any of these | is refused |', '|---|---|---|']
  for *options, why in rows():
    told = [', '.join(f'`{name}`' for name in names) for names in options]
    lines.append(f'| {told[0]} | {told[1]} | {why} |')
  return '\n'.join(lines) + '\n'


def _told(why: str, these: Sequence[str], those: Sequence[str]) -> str:
  """A reason with the names that `rows` took out, where they are single."""
  x, y = (n[0] if len(n) == 1 else '...' for n in (these, those))
  shown = x if x == '...' else repr(x)
  return why.replace('{x!r}', shown).replace('{y}', y)


def pairs_of(case: Case) -> list[Pair]:
  """The pairs that a case has."""
  options = [(axis, case[axis]) for axis in AXES if axis in case]
  return list(itertools.combinations(options, 2))


def _grown(case: Case, left: dict[Pair, None], forbidden: set[Pair]) -> Case:
  for axis in sorted(AXES, key=lambda a: -len(AXES[a])):
    if axis in case:
      continue
    best, most = None, -1
    for option in AXES[axis]:
      new = pairs_of(case | {axis: option})
      gain = sum(pair in left for pair in new)
      if gain > most and not any(pair in forbidden for pair in new):
        best, most = option, gain
    if best is None:
      raise ValueError(f'no option of {axis} goes with {case}')
    case = case | {axis: best}
  return case


def main() -> None:
  before, _, rest = README.read_text().partition(MARKS[0])
  after = rest.partition(MARKS[1])[2]
  README.write_text(before + MARKS[0] + table() + MARKS[1] + after)


if __name__ == '__main__':
  commandline.run(main, needs_config=False)
