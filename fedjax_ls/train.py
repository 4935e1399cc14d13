"""One whole run: from a configuration to a folder, and again after a stop."""

import atexit
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedjax_ls import (
  build,
  diagnostic_plots,
  loop,
  mirrors,
  padding,
  samples,
  unread,
)
from fedjax_ls import config as config_lib
from fedjax_ls.build import Experiment, Plan
from fedjax_ls.checkpoint import Checkpoints, Unreadable, newest
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.consistency import require
from fedjax_ls.data import partition_heatmap
from fedjax_ls.progress import progress, told
from fedjax_ls.references import references
from fedjax_ls.types import State
from fedjax_ls.validate import validate
from fedjax_ls.writers import (
  Folder,
  Line,
  client_histogram,
  learning_curve,
  summary,
  versions,
)


def train(config: Config, workdir: str | os.PathLike) -> dict[str, Any]:
  """Runs a configuration in a folder, or goes on with what is there.

  Writes `config.json`, `partition.npz`, `metrics.jsonl`, `timing.jsonl`,
  `summary.json`, `checkpoints/`, `plots/` and, if asked, `diagnostics/`.
  Called again, it continues from the newest checkpoint and leaves the same
  bytes in `metrics.jsonl` and the same parameters as a run that was never
  stopped; a finished run is left alone, unless `rounds` has grown.

  With several processes each calls this with the same arguments and a folder
  that all of them see; the first one writes.

  Args:
    config: the configuration.
    workdir: the run's folder, made if it is missing.

  Returns:
    The content of `summary.json`.

  Raises:
    ConfigError: a setting is wrong, or the folder holds another run, is
      damaged or in use.
    fedjax_ls.loop.Diverged: something is not finite.
    fedjax_ls.loop.OutOfMemory: the run does not fit a device.
  """
  config = validate(config)
  try:
    shared = Folder(workdir)
    if jax.process_index() != 0:
      return _train(config, shared, _shadow(shared))
    with shared.locked():
      return _train(config, shared, shared)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(str(error)) from error


def _train(config: Config, shared: Folder, folder: Folder) -> dict[str, Any]:
  """Trains in a folder of one's own; raises ValueErrors about the files."""
  stored, done = shared.read('config.json'), newest(shared.checkpoints)
  check_stored(config, stored, done, shared)
  _print_method(config)
  checkpoints = Checkpoints(shared.checkpoints, config.writers.keep)
  try:
    if finished(config, folder, checkpoints, done):
      print(
        f'finished: {folder.path} holds {done} of {config.rounds} rounds; '
        'more rounds continue it'
      )
    else:
      _continue(config, folder, checkpoints, stored or {})
  finally:
    checkpoints.close()
  result = conclude(config, folder)
  for name, line in result.items():
    print(f'{name}: round {line["round"]}  {told(line)}')
  print(f'written to {folder.path}', flush=True)
  return result


def finished(
  config: Config, folder: Folder, checkpoints: Checkpoints, done: int
) -> bool:
  """Whether there is nothing to do; `metrics.jsonl` is then complete.

  Args:
    config: of the run.
    folder: the run's.
    checkpoints: in it.
    done: round of the newest.

  Returns:
    False also where that checkpoint is damaged.

  Raises:
    ValueError: `metrics.jsonl` has lost lines that belong to it.
  """
  if done < config.rounds:
    return False
  try:
    record = checkpoints.record(done)
  except Unreadable:
    return False
  folder.cut_metrics(record['metrics_bytes'], record['metrics_tail'])
  return True


def _continue(
  config: Config,
  folder: Folder,
  checkpoints: Checkpoints,
  stored: dict[str, Any],
) -> None:
  """Compiles, and runs from the newest checkpoint to the last round."""
  cache = use_compilation_cache()
  experiment = build.prepare(config, stored.get('resolved'))
  print(f'compiling (cache: {cache}) ...', flush=True)
  experiment, programs = build.compiled(experiment)
  _describe(config, experiment, folder, stored)
  print(f'compiled in {programs.seconds:.1f} s', flush=True)
  folder.add_timing({'compile_seconds': programs.seconds})
  state = _begin(experiment, folder, checkpoints)
  _advance(config, experiment.job, programs, state, folder, checkpoints)


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


def check_stored(
  config: Config, stored: Any, done: int, folder: Folder
) -> None:
  """Refuses a folder whose `config.json` is of another run, or no such file.

  Args:
    config: of this run.
    stored: content of the file, None if there is none.
    done: round of the newest checkpoint.
    folder: where they are.
  """
  file = folder.path / 'config.json'
  fix = 'restore it or use another workdir'
  if stored is None:
    require(
      done == 0, f'{folder.path} holds checkpoints but no config.json; {fix}'
    )
    return
  for name in ('config', 'resolved', 'data', 'partition'):
    found = stored.get(name) if isinstance(stored, dict) else None
    require(isinstance(found, dict), f'{file} has no group {name!r}; {fix}')
  before = config_lib.from_dict(stored['config'])
  for name, (ours, theirs) in config_lib.differences(config, before).items():
    raise ConfigError(
      f'{name} = {ours!r} but {folder.path} holds a run with {theirs!r}; '
      'use that value or another workdir'
    )


def _print_method(config: Config) -> None:
  print(f'method {config_lib.method_name(config)}')
  for reference in references(config):
    print(f'  {reference}')


def _describe(
  config: Config,
  experiment: Experiment,
  folder: Folder,
  stored: dict[str, Any],
) -> None:
  """Prints and writes what the run consists of."""
  content = write_description(config, experiment, folder, stored)
  clients, resolved = content['partition'], experiment.resolved
  print(
    f'partition {config.partition.kind}: {clients["num_clients"]} clients, '
    f'rows {clients["rows_min"]}/{clients["rows_median"]:g}/'
    f'{clients["rows_max"]} (min/median/max), hash {clients["hash"][:12]}'
  )
  for note in unread.notes(config):
    print(note)
  for tier, spent in enumerate(experiment.costs):
    print(
      f'tier {tier}: {spent.macs} MACs an example, {spent.parameters} '
      f'parameters, {spent.bytes} bytes'
    )
  job = experiment.job
  padded = padding.note(
    config.client,
    np.array([len(part) for part in experiment.partition.train]),
    resolved['execution.devices'],
    resolved['execution.chunk'],
    indexed=job.host is None,
  )
  if padded:
    print(padded)
  print('resolved ' + ', '.join(f'{k} = {v}' for k, v in resolved.items()))
  counts = np.asarray(job.federation.labels)
  if config.writers.plots and counts.size:
    partition_heatmap(counts, str(folder.path / 'plots' / 'partition.png'))


def write_description(
  config: Config,
  experiment: Experiment | Plan,
  folder: Folder,
  stored: dict[str, Any],
) -> dict[str, Any]:
  """Writes `config.json` and `partition.npz`.

  Args:
    config: of the run.
    experiment: what it stands for.
    folder: the run's.
    stored: content of an earlier `config.json`, {} for none.

  Returns:
    The content of `config.json`.

  Raises:
    ConfigError: the data or the partition are not those of before.
  """
  partition = experiment.partition
  sizes = [len(part) for part in partition.train]
  hashes = {'data': experiment.fingerprint, 'partition': partition.hash}
  for name, now in hashes.items():
    before = stored.get(name, {}).get('hash', now)
    require(
      before == now,
      f'the {name} has hash {now[:12]} but {folder.path} holds a run with '
      f'{before[:12]}; the data changed: restore them or use another workdir',
    )
  content = {
    'config': config_lib.to_dict(config),
    'seeds': config_lib.seeds(config),
    'resolved': experiment.resolved,
    'data': {
      'hash': experiment.fingerprint,
      **samples.kind(experiment.samples.dataset),
    },
    'partition': {
      'num_clients': len(sizes),
      'rows_min': int(np.min(sizes)),
      'rows_median': float(np.median(sizes)),
      'rows_max': int(np.max(sizes)),
      'hash': partition.hash,
    },
    'costs': [spent._asdict() for spent in experiment.costs],
    'versions': versions(),
  }
  folder.write('config.json', content)
  partition.save(str(folder.path / 'partition.npz'))
  return content


def _begin(
  experiment: Experiment, folder: Folder, checkpoints: Checkpoints
) -> State:
  """The state to go on from, on the device."""
  state = restore(experiment.state, folder, checkpoints)
  if int(state.round):
    print(f'resumed at round {int(state.round)}')
  return loop.place_state(state, experiment.job)


def restore(start: State, folder: Folder, checkpoints: Checkpoints) -> State:
  """The state to go on from; `metrics.jsonl` is cut to what belongs to it.

  Args:
    start: the state before the first round.
    folder: the run's.
    checkpoints: in it.

  Returns:
    The newest that can be read, of NumPy arrays, or `start`.

  Raises:
    Unreadable: there are checkpoints but all are damaged.
  """
  found = checkpoints.newest_readable(
    lambda step: checkpoints.restore(step, start),
    lambda step, _: print(
      f'the checkpoint of round {step} is damaged and left out'
    ),
  )
  step, (state, record) = found or (0, (start, {'metrics_bytes': 0}))
  folder.cut_metrics(record['metrics_bytes'])
  checkpoints.forget_after(step)
  return state


class Recorder:
  """Writes results, and checkpoints that know which results they belong to."""

  def __init__(
    self,
    folder: Folder,
    checkpoints: Checkpoints,
    mirror: Callable[[Line], None],
  ):
    """Goes on from what `restore` left; `mirror` is given what is added."""
    self._mirror = mirror
    self._folder = folder
    self._checkpoints = checkpoints
    self._num_bytes = (folder.path / 'metrics.jsonl').stat().st_size

  def results(
    self, now: int, metrics: dict[str, float], on_schedule: bool
  ) -> None:
    """Appends the results of round `now`, if there are any."""
    if metrics:
      line = {'round': now, **metrics}
      size = self._folder.add_metrics(line)
      self._mirror(line)
      # A longer run is not evaluated here and goes on without this line.
      self._num_bytes = size if on_schedule else self._num_bytes

  def checkpoint(self, state: State) -> None:
    """Saves a state; the results up to it are on disk."""
    tail = self._folder.metrics_after(self._num_bytes)
    record = {'metrics_bytes': self._num_bytes, 'metrics_tail': tail}
    self._checkpoints.save(state, record)


def _advance(
  config: Config,
  job: loop.Job,
  programs: loop.Programs,
  state: State,
  folder: Folder,
  checkpoints: Checkpoints,
) -> None:
  """Runs to the last round."""
  every = config.writers.checkpoint_every or config.eval_every
  looking = config.diagnostics.every
  if looking:
    diagnosed = loop.diagnosis(job, state, config.diagnostics.clients)
  stops = loop.run(
    job,
    programs,
    state,
    config.rounds,
    config.eval_every,
    every,
  )
  done = int(state.round)
  extra = config.writers.extra if jax.process_index() == 0 else ()
  with (
    mirrors.mirrored(extra, folder, config_lib.to_dict(config)) as mirror,
    progress(config.writers.progress, config.rounds, done) as shown,
  ):
    recorder = Recorder(folder, checkpoints, mirror)
    for stop in stops:
      recorder.results(stop.round, stop.metrics, stop.on_schedule)
      if looking and stop.round % looking == 0:
        folder.write_diagnostics(stop.round, diagnosed(stop.state))
      if stop.round % every == 0 or stop.round == config.rounds:
        recorder.checkpoint(stop.state)
      folder.add_timing({'round': stop.round, 'seconds': stop.seconds})
      shown.show(stop.round, stop.metrics)
  if config.writers.plots:
    _plot_clients(job, stop.state, folder)


def _plot_clients(job: loop.Job, state: State, folder: Folder) -> None:
  """Draws how the last model's test metric spreads over the clients."""
  test = job.tests['test']
  present = np.asarray(test.size) > 0
  if not present.any():
    return
  found = loop.client_values(job, state)
  measure = 'accuracy' if 'accuracy' in found else 'loss'
  file = folder.path / 'plots' / 'clients.png'
  client_histogram(found[measure][present], file, measure)


def conclude(
  config: Config, folder: Folder, note: dict[str, Any] | None = None
) -> dict[str, Any]:
  """Writes the summary and the learning curve.

  Args:
    config: of the run.
    folder: the run's.
    note: what else the summary says.

  Returns:
    The content of `summary.json`.
  """
  lines = folder.metrics()
  result = {**(summary(lines) if lines else {}), **(note or {})}
  if folder.read('summary.json') != result:
    if config.writers.plots:
      plots = folder.path / 'plots'
      learning_curve(lines, plots / 'learning_curve.png')
      for over in ('simulated_seconds', 'macs', 'bytes_up'):
        if over in lines[-1]:
          learning_curve(lines, plots / f'{over}.png', over)
      diagnostic_plots.draw(folder.diagnostics(), plots)
    folder.write('summary.json', result)
  return result
