"""Training images per second of the two lowerings of a convolution.

Command: python -m experiments.benchmarks.conv
Time: half a minute on 2 CPU cores.

Trains the layer-normalization paper's CNN (32 x 32 x 3 images, batch 32, no
norm, plain SGD) in a `lax.scan` over steps, as a run does.  Prints a table of
lowering, images per second of the fastest repetition, and the ratio to the
native convolution in the scan.  The row `native, unrolled` has no loop around
the steps at all, which a run cannot do: it shows what the loop costs.

Measured on 2 cores of an AMD EPYC, jax 0.10.2, November 2026: native 107,
native unrolled 1694, matmul 2245 images per second.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from absl import app, flags

from fedjax_ls.models import CNN, flax_model

_BATCH = flags.DEFINE_integer('batch', 32, 'Images per step.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 8, 'Steps per scan.', lower_bound=1)
_NORM = flags.DEFINE_string('norm', 'none', 'Norm of the network.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed scans.', lower_bound=1)

ROWS = (
  # name, lowering, steps in one loop body
  ('native, scan', 'native', 1),
  ('native, unrolled', 'native', None),
  ('matmul, scan', 'matmul', 1),
)


def training(lowering: str, norm: str, unroll: int | bool) -> Callable:
  """A compiled `(params, x[S, B, ...], y[S, B]) -> params`."""
  net = CNN(10, norm=norm, lowering=lowering)
  model = flax_model(net, jnp.zeros((1, 32, 32, 3), jnp.uint8))

  def loss(params, x, y):
    outputs, _ = model.apply(params, {}, x, train=True)
    return model.loss(outputs, y).mean()

  def step(params, batch):
    grads = jax.grad(loss)(params, *batch)
    return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), None

  def run(params, x, y):
    return jax.lax.scan(step, params, (x, y), unroll=unroll)[0]

  return jax.jit(functools.partial(run, model.init(jax.random.key(0))[0]))


def images_per_second(run: Callable, x, y, repeats: int) -> float:
  """Of the fastest of `repeats` calls, after one that compiles."""
  jax.block_until_ready(run(x, y))
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(run(x, y))
    seconds.append(time.perf_counter() - start)
  return y.size / min(seconds)


def main(argv) -> None:
  del argv
  steps, batch = _STEPS.value, _BATCH.value
  key = jax.random.key(0)
  x = jax.random.randint(key, (steps, batch, 32, 32, 3), 0, 256, jnp.uint8)
  y = jax.random.randint(key, (steps, batch), 0, 10)
  print(f'{jax.default_backend()}, norm {_NORM.value}, batch {batch}')
  print(f'{"lowering":<18}{"images/s":>10}{"ratio":>8}')
  base = None
  for name, lowering, unroll in ROWS:
    run = training(lowering, _NORM.value, unroll or steps)
    rate = images_per_second(run, x, y, _REPEATS.value)
    base = base or rate
    print(f'{name:<18}{rate:>10.0f}{rate / base:>8.1f}', flush=True)


if __name__ == '__main__':
  app.run(main)
