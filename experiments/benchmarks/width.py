"""What a cohort of five widths costs, masked and as small networks.

Command: python -m experiments.benchmarks.width
Time: two minutes on 2 CPU cores.

A round of width-masked FedAvg with five clients of levels a to e (rates 1, 1/2,
1/4, 1/8, 1/16), each taking the same number of local steps, in three ways: the
whole network under masks, small networks chosen by a switch, and, for what
would be ideal, five rounds of one client each in which the network is the small
one and nothing else.  Prints seconds a round (the fastest of the repetitions,
which take turns) and the ratio to the ideal's sum, which has the server's step
and the start of a round five times.

Measured on 2 cores of an AMD EPYC, jax 0.10.2, November 2026, other jobs
running: masked 3.7, small networks by a switch 0.8 times the sum.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from fedjax_ls import algorithms, data, hyper, models, samplers
from fedjax_ls import round as round_lib
from fedjax_ls.types import Execution, State

_BATCH = flags.DEFINE_integer('batch', 32, 'Images per step.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 8, 'Steps per client.', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed rounds.', lower_bound=1)

RATES = ('1', '1/2', '1/4', '1/8', '1/16')


class Run(NamedTuple):
  """A compiled round and what it starts from."""

  go: Callable[[State], State]
  state: State


def network() -> models.CNN:
  """The layer-normalization paper's CNN with the lowering for loops."""
  return models.CNN(10, norm='ln', lowering='matmul')


def run(
  net: Any,
  method: str,
  tiers: list[int],
  client: hyper.Client,
  slim: bool = True,
) -> Run:
  """One round of the clients of some tiers under a method."""
  batch = client.batch_size
  size = 2 * batch
  random = np.random.RandomState(0)
  total = size * len(tiers)
  x = random.randint(0, 256, (total, 32, 32, 3)).astype(np.uint8)
  y = random.randint(0, 10, total)
  parts = np.split(np.arange(total), len(tiers))
  federation = data.federate(x, y, parts, num_classes=10, tier=np.array(tiers))
  federation = jax.tree.map(jnp.asarray, federation)
  kind = algorithms.find(method)
  settings = kind.settings(**({'rates': RATES} if kind.needs_submodels else {}))
  made = algorithms.Parts(
    models.flax_model(net, x[:1]),
    samplers.everyone(),
    submodels=models.width_submodels(net, x[:1], RATES),
  )
  algorithm = kind.build(settings, made)
  numbers = hyper.Hyper(client, hyper.Server(), settings)
  execution = Execution(slim=slim)
  state = round_lib.init(
    algorithm, numbers, federation, jax.random.key(0), seed=0
  )

  @jax.jit
  def go(federation, state: State) -> State:
    return round_lib.round_step(
      algorithm, numbers, federation, state, execution
    )

  return Run(
    partial(go, federation), jax.block_until_ready(go(federation, state))
  )


def seconds(runs: list[Run], repeats: int) -> list[float]:
  """Of the fastest round of each, the runs taking turns."""
  fastest = [float('inf')] * len(runs)
  for _ in range(repeats):
    for i, (go, state) in enumerate(runs):
      begin = time.perf_counter()
      jax.block_until_ready(go(state))
      fastest[i] = min(fastest[i], time.perf_counter() - begin)
  return fastest


def measured(batch: int, steps: int, repeats: int) -> dict[str, float]:
  """Seconds a round: `masked`, `small`, and `a` to `e` by themselves."""
  net = network()
  tiers = list(range(len(RATES)))
  submodels = models.width_submodels(net, jnp.zeros((1, 32, 32, 3)), RATES)
  client = hyper.Client(learning_rate=0.01, batch_size=batch, amount=steps)
  runs = {
    'masked': run(net, 'width', tiers, client, slim=False),
    'small': run(net, 'width', tiers, client),
  }
  for level, tier in zip('abcde', tiers, strict=True):
    runs[level] = run(submodels.module(tier), 'fedavg', [0], client)
  return dict(zip(runs, seconds(list(runs.values()), repeats), strict=True))


def main(argv) -> None:
  del argv
  found = measured(_BATCH.value, _STEPS.value, _REPEATS.value)
  ideal = sum(found[level] for level in 'abcde')
  print(f'{jax.default_backend()}, batch {_BATCH.value}, {_STEPS.value} steps')
  print(f'{"round of a-b-c-d-e":<22}{"seconds":>9}{"ratio":>8}')
  rows = {
    'masked': found['masked'],
    'small by switch': found['small'],
    'sum of small ones': ideal,
  }
  for name, value in rows.items():
    print(f'{name:<22}{value:>9.3f}{value / ideal:>8.2f}')
  for level in 'abcde':
    print(f'{"  " + level:<22}{found[level]:>9.3f}')


if __name__ == '__main__':
  app.run(main)
