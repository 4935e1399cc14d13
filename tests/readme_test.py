"""The README's code runs, and what it names exists."""

import pathlib
import re

from fedjax_ls import algorithms, samplers

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def test_the_notebook_example_learns():
  (block,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
  names: dict = {}
  exec(block.replace('rounds=50', 'rounds=20'), names)
  history = names['result'].history
  assert [line['round'] for line in history] == [10, 20]
  assert history[-1]['test/accuracy'] > 0.5


def test_every_method_is_in_the_table():
  table = README.split('## Methods')[1].split('##')[0]
  assert all(f'`{name}`' in table for name in algorithms.METHODS)


def test_every_sampler_is_in_the_table():
  table = README.split('## Who takes part')[1].split('##')[0]
  assert all(f'| `{name}` |' in table for name in samplers.SAMPLERS)


def test_every_file_it_names_exists():
  named = re.findall(
    r'`((?:fedjax_ls|tests|experiments|configs)/[\w/.]*)`', README
  )
  named += re.findall(r'--config=([\w/.]+)', README)
  assert len(named) > 5
  missing = [name for name in named if not (ROOT / name).exists()]
  assert not missing
