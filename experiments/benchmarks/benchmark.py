"""Runs one problem on both sides and prints the table."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from experiments.benchmarks import harness, problems, sides
from fedjax_ls.models import flax_model

_DATA = flags.DEFINE_string(
  'data', '', 'An npz file with x_train and y_train; random pixels when empty.'
)
_SECONDS = flags.DEFINE_float(
  'seconds', 12.0, 'To spend on each cohort size, about, after compiling.'
)
_COHORTS = flags.DEFINE_list(
  'cohorts', None, "Cohort sizes to measure; the problem's by default."
)
_CHUNK = flags.DEFINE_integer('chunk', 1, 'Clients vectorized at a time.')
_DEVICES = flags.DEFINE_list(
  'devices', ['1', '2'], 'Numbers of (virtual CPU) devices of our side.'
)

ROUNDS = 50  # cohorts drawn; longer runs meet them again
RIVAL = 'PyTorch loop'


def main(name: str) -> None:
  """The command of a benchmark."""
  app.run(lambda argv: _run(problems.PROBLEMS[name]))


def _run(problem: problems.Problem) -> None:
  operations = operations_per_example(problem)
  rate = harness.matmul_rate()
  print(f'{problem.name}: {operations / 1e6:.2f} MFLOP an example')
  print(f'matrix products of this machine: {rate / 1e9:.0f} GFLOP/s')
  if not harness.installed('torch'):
    print("no PyTorch here, so no rival; pip install '.[bench]'")
  sizes = problems.federation(problem, _DATA.value).size
  results = []
  for cohort_size in map(int, _COHORTS.value or problem.cohorts):
    table = problems.cohorts(len(sizes), cohort_size, ROUNDS)
    timed = _compare(problem, table)
    rows = [
      _row(side, time, problem, sizes[table], operations, rate, timed)
      for side, time in timed.items()
    ]
    print(f'\ncohort of {cohort_size}')
    print(harness.table([_shown(row) for row in rows]), flush=True)
    results += [{'cohort': cohort_size, **row} for row in rows]
  content = {
    'problem': problem.name,
    'data': _DATA.value or 'random pixels',
    'machine': harness.machine(),
    'operations_per_example': operations,
    'matmul_rate': rate,
    'results': results,
  }
  harness.write(
    pathlib.Path(harness.FOLDER.value) / f'{problem.name}.json', content
  )


def operations_per_example(problem: problems.Problem) -> float:
  """Floating-point operations of a gradient, as XLA counts them.

  Without dropout, whose random bits are no work that matrix products do.
  """
  batch_size = problem.client.batch_size
  x = jax.ShapeDtypeStruct((batch_size, *problem.shape), jnp.uint8)
  y = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
  model = flax_model(problems.network(problem, 'native'), x)
  params, stats = jax.eval_shape(model.init, jax.random.key(0))

  def loss(params, x, y):
    outputs, _ = model.apply(params, stats, x)
    return jnp.mean(model.loss(outputs, y))

  lowered = jax.jit(jax.grad(loss)).lower(params, x, y)
  return (lowered.cost_analysis() or {})['flops'] / batch_size


def _compare(problem, table) -> dict[str, harness.Timed]:
  name, path = problem.name, _DATA.value
  made = {}
  if harness.installed('torch'):
    made[RIVAL] = harness.Side(sides.torch_loop, name, path, table)
  for devices in map(int, _DEVICES.value or ()):
    side = harness.Side(sides.ours, name, path, table, _CHUNK.value, devices)
    made[f'fedjax_ls, chunk {_CHUNK.value}, devices {devices}'] = side
  timed = harness.compare(made, table.shape[1], _SECONDS.value)
  for side in made.values():
    side.close()
  return timed


def _row(side, time, problem, sizes, operations, rate, timed) -> dict[str, Any]:
  padded = 0.0
  if side != RIVAL:
    devices = int(side.split()[-1])
    padded = problems.padded_share(
      sizes, problem.client.batch_size, _CHUNK.value, devices
    )
  useful = sizes.sum(1).mean() * operations / time.seconds
  rival = timed.get(RIVAL)
  return {
    'side': side,
    **time._asdict(),
    'speedup': rival.seconds / time.seconds if rival else None,
    'cpu_speedup': rival.cpu / time.cpu if rival else None,
    'padded': padded,
    'matmul_share': useful / rate,
  }


def _shown(row: dict[str, Any]) -> dict[str, str]:
  def times(value):
    return '' if value is None else f'{value:.2f}'

  return {
    'side': row['side'],
    's/round': f'{row["seconds"]:.4f}',
    'x': times(row['speedup']),
    'cpu s/round': f'{row["cpu"]:.4f}',
    'x cpu': times(row['cpu_speedup']),
    'first s': f'{row["first_round"]:.1f}',
    'clients/s': f'{row["updates"]:.0f}',
    'peak MB': f'{row["peak_bytes"] / 1e6:.0f}',
    'padded': f'{row["padded"]:.1%}',
    'of matmul': f'{row["matmul_share"]:.1%}',
  }
