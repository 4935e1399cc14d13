"""A study of 32 points: one program, single runs in turn, and PyTorch.

Command: python -m experiments.benchmarks.sweep
Time: four minutes on 2 CPU cores.

Eight learning rates times four seeds, which also deal the clients, of logistic
regression (`mnist_lr`) and of a small CNN.  A round of the study is a round of
all 32 points.  Single runs share one program here, for their seconds a round;
`compiles` counts the programs of 32 runs from the command line.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.benchmarks import harness, problems
from fedjax_ls import algorithms, build, loop, types
from fedjax_ls.config import Config
from fedjax_ls.data import Federation
from fedjax_ls.models import flax_model, resolve_conv
from fedjax_ls.sweep import groups, launch, layouts, points, product, programs
from fedjax_ls.sweep.algebra import axis
from fedjax_ls.sweep.batches import arguments_of, start_state
from fedjax_ls.sweep.point import Point

_SECONDS = flags.DEFINE_float('seconds', 30.0, 'To spend on each problem.')
_PROBLEMS = flags.DEFINE_list(
  'problems', ['mnist_lr', 'small_cnn'], 'Which to measure.'
)
_AT_ONCE = flags.DEFINE_list(
  'at_once', ['0'], 'Points at a time on each device, 0 as a study chooses.'
)
_DEVICES = flags.DEFINE_list('devices', ['1', '2'], 'Numbers of devices.')

RATES = tuple(0.001 * 2**i for i in range(8))
SEEDS = (0, 1, 2, 3)
COHORT = 10
ROUNDS = 50
RIVAL = 'PyTorch loop'
SINGLE = 'single runs in turn'

Started = tuple[Callable[[int, int], int], float]


class Study(NamedTuple):
  """The points, and the clients of each seed."""

  problem: problems.Problem
  points: list[Point]
  federations: list[Federation]
  cohorts: np.ndarray


def study(name: str) -> Study:
  """32 points of a problem."""
  problem = problems.PROBLEMS[name]
  grid = product(axis('client.learning_rate', RATES), axis('seed', SEEDS))
  made = points(Config(client=problem.client), grid)
  federations = [problems.federation(problem, seed=seed) for seed in SEEDS]
  table = problems.cohorts(problem.num_clients, COHORT, ROUNDS)
  return Study(problem, made, federations, table)


def together(name: str, at_once: int, devices: int) -> Started:
  """Starts the study as one program; see `harness.Side`."""
  jax.config.update('jax_num_cpu_devices', devices)
  of = study(name)
  jax.block_until_ready(jnp.zeros(()))  # start the backend
  begin = time.perf_counter()
  group = _group(of)
  ready = launch.fitting(group, launch.Options(at_once, devices))
  group, layout, compiled, common = ready
  placed = []
  for batch in layouts.deal(group, layout):
    states = {p.id: start_state(group, p, common) for p in batch.points}
    arguments = arguments_of(group, batch, layout, common, states)
    placed.append(programs.place(arguments, group, layout))

  def rounds(first: int, count: int) -> int:
    now = programs.put_number(first, group, layout)
    number = programs.put_number(count, group, layout)
    examples = 0
    for i, arguments in enumerate(placed):
      before = _examples(arguments.own.tally)
      own = compiled.advance(*arguments._replace(now=now), number)
      placed[i] = arguments._replace(own=own)
      examples += _examples(own.tally) - before
    return examples

  return rounds, begin


def in_turn(name: str) -> Started:
  """Starts single runs, one after the other, of one program."""
  of = study(name)
  jax.block_until_ready(jnp.zeros(()))
  begin = time.perf_counter()
  job = _group(of).job
  block = jax.jit(loop.block(job), donate_argnums=2)
  data = [jax.device_put(federation) for federation in of.federations]
  runs = []
  for point in of.points:
    seed = point.config.seed
    own = job._replace(hyper=build.numbers(point.config), federation=data[seed])
    runs.append((own, loop.initial_state(own, seed, seed)))

  def rounds(first: int, count: int) -> int:
    examples = 0
    for i, (own, state) in enumerate(runs):
      before = _examples(state.tally)
      state = state._replace(round=jnp.int32(first))
      state = block(own.hyper, own.federation, state, np.int32(count))
      runs[i] = own, state
      examples += _examples(state.tally) - before
    return examples

  return rounds, begin


def torch_loops(name: str) -> Started:
  """Starts PyTorch loops, one after the other."""
  from experiments.benchmarks import torch_loop

  of = study(name)
  loops = []
  for federation in of.federations:
    rows = zip(federation.index, federation.size, strict=True)
    loops.append(
      torch_loop.Loop(
        torch_loop.NETS[name](),
        federation.x,
        federation.y,
        [index[:size] for index, size in rows],
        batch_size=of.problem.client.batch_size,
        epochs=of.problem.client.amount,
        learning_rate=0.0,
      )
    )
  middle = int(np.argsort(of.federations[0].size)[of.problem.num_clients // 2])
  for run in loops:
    run.tune(middle)
  begin = time.perf_counter()

  def rounds(first: int, count: int) -> int:
    before = sum(run.examples for run in loops)
    for point in of.points:
      run = loops[point.config.seed]
      run.learning_rate = point.config.client.learning_rate
      for i in range(first, first + count):
        run.round(of.cohorts[i % len(of.cohorts)])
    return sum(run.examples for run in loops) - before

  return rounds, begin


def _group(of: Study) -> groups.Group:
  """The points as a group, FedAvg on cohorts from a table."""
  table = jnp.asarray(of.cohorts)

  def sample(hyper, state, draw):
    del hyper
    return table[draw.round % len(table)], state

  lowering = resolve_conv('auto', jax.default_backend())
  first = of.federations[0]
  model = flax_model(problems.network(of.problem, lowering), first.x[:1])
  method = algorithms.find('fedavg')
  who = types.Sampler(lambda federation: (), sample)
  algorithm = method.build(method.settings(), algorithms.Parts(model, who))
  numbers = build.numbers(of.points[0].config)
  jobs = [
    loop.Job(algorithm, model, numbers, federation, {}, types.Execution())
    for federation in of.federations
  ]
  plans = [build.Plan(job, {}, False, Any, '') for job in jobs]  # type: ignore
  members = [[p for p in of.points if p.config.seed == seed] for seed in SEEDS]
  return groups.group(plans, members)


def _examples(tally: Any) -> int:
  return int(np.sum(np.asarray(tally['train/loss'][1], np.float64)))


def _measure(name: str) -> list[dict[str, Any]]:
  made = {SINGLE: harness.Side(in_turn, name)}
  if harness.installed('torch'):
    made[RIVAL] = harness.Side(torch_loops, name)
  for devices in map(int, _DEVICES.value):
    for at_once in map(int, _AT_ONCE.value):
      side = harness.Side(together, name, at_once, devices)
      told = at_once or 'chosen'
      made[f'study, {told} at once, devices {devices}'] = side
  number = len(RATES) * len(SEEDS)
  timed = harness.compare(made, number * COHORT, _SECONDS.value)
  for side in made.values():
    side.close()
  ours, rival = timed[SINGLE], timed.get(RIVAL)
  return [
    {
      'side': side,
      **time._asdict(),
      'compiles': {RIVAL: 0, SINGLE: number}.get(side, 1),
      'faster_than_single': ours.seconds / time.seconds,
      'faster_than_torch': rival.seconds / time.seconds if rival else None,
    }
    for side, time in timed.items()
  ]


def _shown(row: dict[str, Any]) -> dict[str, str]:
  rival = row['faster_than_torch']
  return {
    'side': row['side'],
    's/round': f'{row["seconds"]:.4f}',
    'cpu s/round': f'{row["cpu"]:.4f}',
    'x PyTorch': '' if rival is None else f'{rival:.2f}',
    'x single': f'{row["faster_than_single"]:.2f}',
    'first s': f'{row["first_round"]:.1f}',
    'compiles': str(row['compiles']),
    'peak MB': f'{row["peak_bytes"] / 1e6:.0f}',
  }


def main(argv) -> None:
  del argv
  results = {}
  for name in _PROBLEMS.value:
    rows = results[name] = _measure(name)
    print(f'\n{name}: 32 points, cohorts of {COHORT}')
    print(harness.table([_shown(row) for row in rows]), flush=True)
  content = {'machine': harness.machine(), 'results': results}
  harness.write(pathlib.Path(harness.FOLDER.value) / 'sweep.json', content)


if __name__ == '__main__':
  app.run(main)
