"""The two sides of a benchmark, as they start in their processes."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import problems
from fedjax_ls import algorithms, hyper, loop, types
from fedjax_ls import round as round_lib
from fedjax_ls.data import Federation
from fedjax_ls.models import flax_model, resolve_conv

Started = tuple[Callable[[int, int], int], float]


def given(table: np.ndarray) -> types.Sampler:
  """Cohorts by a table `[R, K]`, over and over; its state is the table."""

  def sample(hyper, state, draw):
    del hyper
    return state[draw.round % len(state)], state

  return types.Sampler(lambda federation: jnp.asarray(table), sample)


def job(
  problem: problems.Problem,
  federation: Federation,
  cohorts: np.ndarray,
  chunk: int,
  devices: int = 1,
) -> loop.Job:
  """FedAvg on the problem, placed on the device."""
  lowering = resolve_conv('auto', jax.default_backend())
  model = flax_model(problems.network(problem, lowering), federation.x[:1])
  method = algorithms.find('fedavg')
  parts = algorithms.Parts(model, given(cohorts))
  algorithm = method.build(method.settings(), parts)
  settings = hyper.Hyper(problem.client, hyper.Server(), method.settings())
  mesh = round_lib.clients_mesh(devices) if devices > 1 else None
  execution = types.Execution(chunk, mesh)
  numbers, federation = loop.place(
    (loop.numbers(settings), federation), execution
  )
  return loop.Job(
    algorithm, model, numbers, federation, {}, execution, 'float32'
  )


def ours(
  name: str, path: str, cohorts: np.ndarray, chunk: int, devices: int
) -> Started:
  """Starts fedjax_ls; see `harness.Side`."""
  jax.config.update('jax_num_cpu_devices', devices)
  problem = problems.PROBLEMS[name]
  federation = problems.federation(problem, path)
  return rounds_of(problem, federation, cohorts, chunk, devices)


def rounds_of(
  problem: problems.Problem,
  federation: Federation,
  cohorts: np.ndarray,
  chunk: int,
  devices: int = 1,
) -> Started:
  """`ours` for data at hand, on some of the devices."""
  jax.block_until_ready(jnp.zeros(()))  # start the backend
  begin = time.perf_counter()
  made = job(problem, federation, cohorts, chunk, devices)
  state = loop.initial_state(made, 0, 0)

  def block(numbers, federation, state, count):
    before = state.tally['train/loss'][1]
    state = round_lib.run_rounds(
      made.algorithm, numbers, federation, state, count, made.execution
    )
    return state, state.tally['train/loss'][1] - before

  program = jax.jit(block, donate_argnums=2)

  def rounds(first: int, count: int) -> int:
    nonlocal state
    start, count = loop.place(
      (np.int32(first), np.int32(count)), made.execution
    )
    state = state._replace(round=start)
    state, examples = program(made.hyper, made.federation, state, count)
    jax.block_until_ready(state)
    return int(examples)

  return rounds, begin


def torch_loop(name: str, path: str, cohorts: np.ndarray) -> Started:
  """Starts the PyTorch loop; see `harness.Side`."""
  from experiments.benchmarks import torch_loop

  problem = problems.PROBLEMS[name]
  federation = problems.federation(problem, path)
  index = zip(federation.index, federation.size, strict=True)
  run = torch_loop.Loop(
    torch_loop.NETS[name](),
    federation.x,
    federation.y,
    [rows[:size] for rows, size in index],
    batch_size=problem.client.batch_size,
    epochs=problem.client.amount,
    learning_rate=problem.client.learning_rate,
  )
  middle = len(federation.size) // 2
  run.tune(int(np.argsort(federation.size)[middle]))
  begin = time.perf_counter()

  def rounds(first: int, count: int) -> int:
    before = run.examples
    for i in range(first, first + count):
      run.round(cohorts[i % len(cohorts)])
    return run.examples - before

  return rounds, begin
