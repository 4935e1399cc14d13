"""A large population in bounded memory: data and client states on the host.

  python -m experiments.benchmarks.population
  python -m experiments.benchmarks.population --method=scaffold

Examples lie in a file that is mapped into memory; a round reads those of its
cohort.  Prints rounds per second, the process's own memory before and after
the rounds (without the mapped file), and what a cohort takes on the device.
"""

import pathlib
import tempfile
import time

import jax
import numpy as np
from absl import app, flags, logging

import fedjax_ls as fl
from fedjax_ls import hosted, loop
from fedjax_ls.placement import place

_CLIENTS = flags.DEFINE_integer('clients', 1_000_000, 'Population.')
_COHORT = flags.DEFINE_integer('cohort', 100, 'Clients a round.')
_ROWS = flags.DEFINE_integer('rows', 5, 'Mean number of examples of a client.')
_ROUNDS = flags.DEFINE_integer('rounds', 100, 'Rounds to time.')
_METHOD = flags.DEFINE_string('method', 'fedavg', 'fedavg or scaffold.')
_FEATURES, _CLASSES = 64, 10


def own_megabytes() -> float:
  """Memory of this process that is no mapped file, in MB."""
  status = pathlib.Path('/proc/self/status').read_text()
  fields = dict(line.split(':', 1) for line in status.splitlines())
  return int(fields['RssAnon'].split()[0]) / 1024


def population(folder: pathlib.Path) -> hosted.HostFederation:
  """Clients of 1 to 2 n - 1 examples, their pixels in a file."""
  random = np.random.RandomState(0)
  size = random.randint(1, 2 * _ROWS.value, _CLIENTS.value)
  total = int(size.sum())
  x = np.memmap(folder / 'x', np.uint8, 'w+', shape=(total, _FEATURES))
  for part in np.array_split(np.arange(total), 100):
    x[part] = random.randint(0, 256, (len(part), _FEATURES))
  x.flush()
  return hosted.HostFederation(
    x=np.memmap(folder / 'x', np.uint8, 'r', shape=(total, _FEATURES)),
    y=random.randint(0, _CLASSES, total).astype(np.int32),
    rows=np.arange(total, dtype=np.int32),
    offset=np.concatenate([[0], np.cumsum(size)]),
    labels=np.zeros((_CLIENTS.value, 1), np.int32),
    tier=np.zeros(_CLIENTS.value, np.int32),
  )


def prepared(host: hosted.HostFederation) -> tuple[loop.Job, fl.State]:
  """A run of logistic regression, its data on the host."""
  method = fl.algorithms.find(_METHOD.value)
  model = fl.flax_model(fl.MLP(_CLASSES, hidden=()), host.x[:1])
  sampler = fl.samplers.uniform(_COHORT.value)
  settings = method.settings()
  numbers = fl.Hyper(
    fl.Client(0.1, batch_size=10, unit='epochs', amount=1),
    fl.Server(),
    settings,
  )
  execution = fl.Execution(fed=True)
  job = loop.Job(
    method.build(settings, fl.algorithms.Parts(model, sampler)),
    model,
    place(loop.numbers(numbers), execution),
    place(hosted.outline(host), execution),
    tests={},
    execution=execution,
    host=host,
  )
  return job, loop.initial_state(job, 0, 0)


def main(argv) -> None:
  """Times the rounds and prints one line a figure."""
  del argv
  logging.set_verbosity(logging.WARNING)
  with tempfile.TemporaryDirectory() as folder:
    host = population(pathlib.Path(folder))
    job, state = prepared(host)
    rounds = hosted.advance(job.algorithm, host, job.execution)
    state = rounds(job.hyper, job.federation, state, 10)
    jax.block_until_ready(state.server)
    before, begin = own_megabytes(), time.perf_counter()
    state = rounds(job.hyper, job.federation, state, _ROUNDS.value)
    jax.block_until_ready(state.server)
    seconds = time.perf_counter() - begin
    ids = np.arange(_COHORT.value)
    slots = hosted.lay_out(host, ids, job.execution)
    cohort = sum(np.asarray(a).nbytes for a in jax.tree.leaves(slots))
    states = sum(a.nbytes for a in jax.tree.leaves(state.clients))
  figures = {
    'clients': _CLIENTS.value,
    'examples': len(host.y),
    'file MB': host.x.nbytes / 2**20,
    'client states MB (virtual)': states / 2**20,
    'own memory MB before': before,
    'own memory MB after': own_megabytes(),
    'cohort on the device MB': cohort / 2**20,
    'rounds/s': _ROUNDS.value / seconds,
  }
  for name, value in figures.items():
    print(f'{name:>28} {value:12,.2f}')


if __name__ == '__main__':
  app.run(main)
