"""One whole run: from a configuration to a folder, and again after a stop."""

import atexit
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import numpy as np

from fedjax_ls import algorithms, build, loop
from fedjax_ls import config as config_lib
from fedjax_ls.build import Experiment
from fedjax_ls.checkpoint import Checkpoints, newest
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.data import partition_heatmap
from fedjax_ls.progress import progress, told
from fedjax_ls.types import State
from fedjax_ls.validate import validate
from fedjax_ls.writers import Folder, learning_curve, summary, versions


def train(config: Config, workdir: str | os.PathLike) -> dict[str, Any]:
  """Runs a configuration in a folder, or goes on with what is there.

  Writes `config.json`, `partition.npz`, `metrics.jsonl`, `timing.jsonl`,
  `summary.json`, `checkpoints/` and `plots/`.  Called again, it continues
  from the newest checkpoint and leaves the same bytes in `metrics.jsonl` and
  the same parameters as a run that was never stopped; a finished run is left
  alone, unless `rounds` has grown.

  Args:
    config: the configuration.
    workdir: the run's folder, made if it is missing.

  Returns:
    The content of `summary.json`.

  With several processes each calls this with the same arguments and a folder
  that all of them see; the first one writes.

  Raises:
    ConfigError: a setting is wrong, or the folder holds another run.
    fedjax_ls.loop.Diverged: something is not finite.
  """
  config = validate(config)
  try:
    shared = Folder(workdir)
    stored = shared.read('config.json') or {}
    folder = shared if jax.process_index() == 0 else _shadow(shared)
  except ValueError as error:
    raise ConfigError(str(error)) from error
  _check_stored(config, stored, workdir)
  _print_method(config)
  cache = use_compilation_cache()
  done = newest(shared.checkpoints)
  if stored and done >= config.rounds:
    print(
      f'finished: {workdir} holds {done} of {config.rounds} rounds; '
      'a larger --config.rounds continues'
    )
    return _conclude(config, folder)
  print(f'compiling (cache: {cache}) ...', flush=True)
  experiment = build.prepare(config, stored.get('resolved'))
  experiment, programs = build.compiled(experiment)
  _describe(config, experiment, folder, stored)
  print(f'compiled in {programs.seconds:.1f} s', flush=True)
  folder.add_timing({'compile_seconds': programs.seconds})
  checkpoints = Checkpoints(shared.checkpoints, config.writers.keep)
  try:
    state = _begin(experiment, folder, checkpoints, done)
    _advance(config, experiment.job, programs, state, folder, checkpoints)
  finally:
    checkpoints.close()
  return _conclude(config, folder)


def _shadow(shared: Folder) -> Folder:
  """Where a process that is not the first writes what nobody reads."""
  folder = Folder(tempfile.mkdtemp(prefix='fedjax_ls_'))
  atexit.register(shutil.rmtree, folder.path, ignore_errors=True)
  results = shared.path / 'metrics.jsonl'
  if results.exists():
    shutil.copy(results, folder.path)
  return folder


def use_compilation_cache() -> str:
  """Keeps compiled programs between processes; returns the cache's folder.

  The environment variable `JAX_COMPILATION_CACHE_DIR` names another folder.
  """
  folder = jax.config.values['jax_compilation_cache_dir']
  if folder is None:
    home = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    folder = str(pathlib.Path(home) / 'fedjax_ls' / 'jax')
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
  return folder


def _check_stored(
  config: Config, stored: dict[str, Any], workdir: str | os.PathLike
) -> None:
  """Refuses a folder whose `config.json` is of another run."""
  if stored:
    before = config_lib.from_dict(stored['config'])
    for name, (ours, theirs) in config_lib.differences(config, before).items():
      raise ConfigError(
        f'{name} = {ours!r} but {workdir} holds a run with {theirs!r}; '
        'use that value or another --workdir'
      )


def _print_method(config: Config) -> None:
  name = config_lib.method_name(config)
  print(f'method {name}')
  for reference in algorithms.METHODS[name].references:
    print(f'  {reference}')


def _describe(
  config: Config,
  experiment: Experiment,
  folder: Folder,
  stored: dict[str, Any],
) -> None:
  """Prints and writes what the run consists of."""
  partition, resolved = experiment.partition, experiment.resolved
  sizes = [len(part) for part in partition.train]
  clients: dict[str, Any] = {
    'num_clients': len(sizes),
    'rows_min': int(min(sizes)),
    'rows_median': float(np.median(sizes)),
    'rows_max': int(max(sizes)),
    'hash': partition.hash,
  }
  before = stored.get('partition', clients)
  if before['hash'] != clients['hash']:
    raise ConfigError(
      f'the partition has hash {clients["hash"][:12]} but {folder.path} holds '
      f'a run with {before["hash"][:12]}; the data changed: restore it or use '
      'another --workdir'
    )
  print(
    f'partition {config.partition.kind}: {len(sizes)} clients, rows '
    f'{clients["rows_min"]}/{clients["rows_median"]:g}/{clients["rows_max"]} '
    f'(min/median/max), hash {partition.hash[:12]}'
  )
  for tier, spent in enumerate(experiment.costs):
    print(
      f'tier {tier}: {spent.macs} MACs an example, {spent.parameters} '
      f'parameters, {spent.bytes} bytes'
    )
  print('resolved ' + ', '.join(f'{k} = {v}' for k, v in resolved.items()))
  folder.write(
    'config.json',
    {
      'config': config_lib.to_dict(config),
      'seeds': config_lib.seeds(config),
      'resolved': resolved,
      'partition': clients,
      'costs': [spent._asdict() for spent in experiment.costs],
      'versions': versions(),
    },
  )
  partition.save(str(folder.path / 'partition.npz'))
  counts = np.asarray(experiment.job.federation.labels)
  if config.writers.plots and counts.size:
    partition_heatmap(counts, str(folder.path / 'plots' / 'partition.png'))


def _begin(
  experiment: Experiment, folder: Folder, checkpoints: Checkpoints, done: int
) -> State:
  """The state to go on from; `metrics.jsonl` is cut to what belongs to it."""
  if done == 0:
    folder.cut_metrics(0)
    return experiment.state
  try:
    state, record = checkpoints.restore(done, experiment.state)
    folder.cut_metrics(record['metrics_bytes'])
  except ValueError as error:
    raise ConfigError(str(error)) from error
  print(f'resumed at round {done}')
  return loop.place_state(state, experiment.job)


def _advance(
  config: Config,
  job: loop.Job,
  programs: loop.Programs,
  state: State,
  folder: Folder,
  checkpoints: Checkpoints,
) -> None:
  """Runs to the last round; results are on disk before their checkpoint."""
  every = config.writers.checkpoint_every or config.eval_every
  num_bytes = (folder.path / 'metrics.jsonl').stat().st_size
  stops = loop.run(
    job,
    programs,
    state,
    config.rounds,
    config.eval_every,
    every,
  )
  done = int(state.round)
  with progress(config.writers.progress, config.rounds, done) as shown:
    for stop in stops:
      if stop.metrics:
        size = folder.add_metrics({'round': stop.round, **stop.metrics})
        # A longer run is not evaluated here: it will cut this line off.
        num_bytes = size if stop.on_schedule else num_bytes
      if stop.round % every == 0 or stop.round == config.rounds:
        checkpoints.save(stop.state, {'metrics_bytes': num_bytes})
      folder.add_timing({'round': stop.round, 'seconds': stop.seconds})
      shown.show(stop.round, stop.metrics)


def _conclude(config: Config, folder: Folder) -> dict[str, Any]:
  """Writes the summary and the learning curve."""
  lines = folder.metrics()
  result = summary(lines)
  if folder.read('summary.json') != result:
    if config.writers.plots:
      plots = folder.path / 'plots'
      learning_curve(lines, plots / 'learning_curve.png')
      if 'simulated_seconds' in lines[-1]:
        over = 'simulated_seconds'
        learning_curve(lines, plots / f'{over}.png', over)
    folder.write('summary.json', result)
  for name, line in result.items():
    print(f'{name}: round {line["round"]}  {told(line)}')
  print(f'written to {folder.path}', flush=True)
  return result
