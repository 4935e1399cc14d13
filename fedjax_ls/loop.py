"""The loop over blocks of rounds: run on the device, stop, evaluate."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls import diagnostics, hosted
from fedjax_ls import evaluate as evaluate_lib
from fedjax_ls import round as round_lib
from fedjax_ls.data import checks
from fedjax_ls.data.federation import Federation, federate
from fedjax_ls.models.base import Model
from fedjax_ls.placement import place
from fedjax_ls.types import Algorithm, Execution, State

Tree = Any


class Diverged(RuntimeError):
  """The training loss or the model is not finite; names the round."""


class OutOfMemory(RuntimeError):
  """The run does not fit a device; one sentence names what to change."""


class Job(NamedTuple):
  """A run, ready to start.

  Attributes:
    algorithm: the method.
    model: its network, for evaluation.
    hyper: all numbers.
    federation: the training data.
    tests: sets to evaluate on, by the name their metrics begin with.
    execution: how rounds are mapped over clients.
    precision: of float32 matrix products.
    host: the data if they stay on the host; `federation` is their outline.
  """

  algorithm: Algorithm
  model: Model
  hyper: Any
  federation: Federation
  tests: dict[str, Federation]
  execution: Execution = Execution()
  precision: str = 'float32'
  host: hosted.HostFederation | None = None


class Programs(NamedTuple):
  """The compiled parts of a run.

  Attributes:
    advance: `(hyper, federation, state, num_rounds) -> state`; uses up the
      state it is given.
    judge: `(hyper, federation, state, tests) -> (metrics, healthy)`.
    seconds: what compiling took.
    memory: bytes that a block of rounds needs besides its arguments, 0 if the
      backend does not say.
  """

  advance: Callable[..., State]
  judge: Callable[..., tuple[dict[str, jax.Array], jax.Array]]
  seconds: float
  memory: int


class Stop(NamedTuple):
  """The run between two blocks of rounds.

  Attributes:
    round: rounds done.
    state: the whole run; only until the next stop, which uses it up.
    metrics: `{name: value}` if evaluated here, else empty.
    on_schedule: whether a longer run would be evaluated here, too.
    seconds: wall-clock time of the block and its evaluation.
  """

  round: int
  state: State
  metrics: dict[str, float]
  on_schedule: bool
  seconds: float


def initial_state(job: Job, model_seed: int, train_seed: int) -> State:
  """State before the first round, on the job's devices."""
  if job.host is not None:
    key = jax.random.key(model_seed)
    args = (job.algorithm, job.hyper, job.federation, key, train_seed)
    return place_state(hosted.init(*args), job)
  state = jax.jit(round_lib.init, static_argnums=0)(
    job.algorithm,
    job.hyper,
    job.federation,
    jax.random.key(model_seed),
    np.uint32(train_seed),
  )
  return place_state(state, job)


def place_state(state: State, job: Job) -> State:
  """The state on the job's devices; the clients' own may stay on the host."""
  if job.host is None:
    return place(state, job.execution)
  # Read-only arrays come from a checkpoint; others stay untouched in memory.
  writable = functools.partial(np.require, requirements='W')
  clients = jax.tree.map(writable, state.clients)
  rest = place(state._replace(clients=()), job.execution)
  return rest._replace(clients=clients)


def evaluation_set(
  x: np.ndarray,
  y: np.ndarray,
  federation: Federation,
  parts: Sequence[np.ndarray] | None = None,
) -> Federation:
  """Data to evaluate on, whole and client by client.

  Args:
    x: `[M, ...]` inputs.
    y: `[M, ...]` class numbers or float targets.
    federation: the training data, for its clients.
    parts: rows of each client, which may be none; None to evaluate on the
      whole only.

  Raises:
    ValueError: `x`, `y` or `parts` are wrong, as in `federate`, or differ in
      kind from the training data.
  """
  x, y = np.asarray(x), np.asarray(y)
  checks.same_kind('x of the test set', x, 'x of the clients', federation.x)
  checks.require(
    (y.dtype.kind == 'f') == (federation.y.dtype.kind == 'f'),
    f'y of the test set has dtype {y.dtype} but y of the clients '
    f'{federation.y.dtype}; store both alike',
  )
  num_clients, num_classes = federation.labels.shape
  none = [np.zeros(0, int)] * num_clients
  rows = none if parts is None else parts
  made = federate(
    x,
    y,
    rows,
    num_classes=num_classes or None,
    tier=np.asarray(federation.tier),
    allow_empty=True,
  )
  # Without rows of clients there is nothing to say about them.
  return made if parts is not None else made._replace(index=made.index[:, :0])


def numbers(hyper: Any) -> Any:
  """`hyper` with its numbers as arrays, so that they are traced alike."""
  # float32 in 64-bit runs, too: as wide as parameters, or narrower.
  return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), hyper)


def compile_job(job: Job, state: State) -> Programs:
  """Compiles a block of rounds and the evaluation.

  Args:
    job: the run; `place`d.
    state: a state of it; only shapes and types are read.

  Returns:
    The programs.

  Raises:
    OutOfMemory: they do not fit a device.
  """
  begin = time.perf_counter()
  with memory_named(job):
    judged = jax.jit(judgement(job)).lower(
      job.hyper, job.federation, _on_device(state, job), job.tests
    )
    if job.execution.debug:
      return Programs(block(job), judged.compile(), _since(begin), 0)
    if job.host is not None:
      advance = hosted.advance(job.algorithm, job.host, job.execution)
      advance = _in_precision(job.precision)(advance)
      return Programs(advance, judged.compile(), _since(begin), 0)
    count = place(np.int32(0), job.execution)
    blocked = jax.jit(block(job), donate_argnums=2).lower(
      job.hyper, job.federation, state, count
    )
    advance = blocked.compile()
    return Programs(
      advance, judged.compile(), _since(begin), _temporary_bytes(advance)
    )


def block(job: Job) -> Callable[..., State]:
  """`(hyper, federation, state, num_rounds) -> state`, uncompiled."""

  @_in_precision(job.precision)
  def block(hyper, federation, state, num_rounds):
    return round_lib.run_rounds(
      job.algorithm, hyper, federation, state, num_rounds, job.execution
    )

  return block


def judgement(
  job: Job,
) -> Callable[..., tuple[dict[str, jax.Array], jax.Array]]:
  """`(hyper, federation, state, tests) -> (metrics, healthy)`, uncompiled."""

  @_in_precision(job.precision)
  def judge(hyper, federation, state, tests):
    metrics = {k: num / den for k, (num, den) in state.tally.items()}
    metrics |= job.algorithm.sampler.metrics(state.sampler)
    for name, test in tests.items():
      values = evaluate_lib.evaluate(
        job.algorithm, job.model, hyper, state, federation, test
      )
      for key, value in values.items():
        if test.index.shape[1] or 'client' not in key:
          metrics[f'{name}/{key}'] = value
    return metrics, _healthy(state)

  return judge


@contextlib.contextmanager
def memory_named(job: Job | None) -> Iterator[None]:
  """Says what to change where the memory of a device is too small.

  Args:
    job: what runs, None where its data are put on the device.

  Raises:
    OutOfMemory: in place of the error that JAX raises.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise OutOfMemory(_memory_sentence(job)) from error


def _memory_sentence(job: Job | None) -> str:
  if job is None:
    return (
      'the data do not fit the memory of the device; use a configuration with '
      'execution.data = host'
    )
  chunk = job.execution.chunk
  if chunk > 1:
    fix = f'execution.chunk = {chunk // 2}'
  elif job.host is None:
    fix = 'execution.data = host or a smaller client.batch_size'
  else:
    fix = 'a smaller client.batch_size'
  return f'execution.chunk = {chunk} does not fit the memory; use {fix}'


def run(
  job: Job,
  programs: Programs,
  state: State,
  rounds: int,
  eval_every: int,
  checkpoint_every: int = 0,
) -> Iterator[Stop]:
  """Runs from `state` to round `rounds`, stopping where there is news.

  It stops every `eval_every` rounds, every `checkpoint_every` rounds, and at
  the end.  After a stop on schedule the tally starts anew; the last round of
  a run is evaluated even off schedule, but then the tally is kept, so that a
  longer run that continues from there reports what it would have anyhow.

  Args:
    job: the run.
    programs: of `compile_job`.
    state: where to begin; used up.
    rounds: rounds in all.
    eval_every: rounds between evaluations.
    checkpoint_every: rounds between further stops, 0 for none.

  Yields:
    A `Stop` after each block.

  Raises:
    Diverged: something is not finite at a stop.
    OutOfMemory: the run does not fit a device.
  """
  now = int(state.round)
  while now < rounds:
    begin = time.perf_counter()
    end = next_stop(now, rounds, eval_every, checkpoint_every)
    count = place(np.int32(end - now), job.execution)
    with memory_named(job), _guard(job.execution):
      state = programs.advance(job.hyper, job.federation, state, count)
      judged = programs.judge(
        job.hyper, job.federation, _on_device(state, job), job.tests
      )
      metrics, healthy = jax.device_get(judged)
    now = end
    values = {k: shortest(v) for k, v in metrics.items()}
    if fault := divergence(now, values, bool(healthy)):
      raise Diverged(fault)
    on_schedule = now % eval_every == 0
    if on_schedule:
      state = state._replace(tally=_zeros(state.tally, job.execution))
    told = values if on_schedule or now == rounds else {}
    yield Stop(now, state, told, on_schedule, _since(begin))


def diagnosis(
  job: Job, state: State, num_clients: int
) -> Callable[[State], dict[str, np.ndarray]]:
  """Compiles `diagnostics.diagnose` for clients evenly spaced among all.

  Args:
    job: the run; `place`d.
    state: a state of it; only shapes and types are read.
    num_clients: how many clients, at most all.

  Returns:
    `(state) -> {name: array}`, on the first of the job's `tests`; the state
    stays usable.

  Raises:
    ValueError: the method trains no model like the global one.
    OutOfMemory: it does not fit a device.
  """
  population = len(job.federation.size)
  count = min(num_clients, population)
  ids = place(
    np.arange(count, dtype=np.int32) * population // count, job.execution
  )
  test = next(iter(job.tests.values()))

  @_in_precision(job.precision)
  def look(hyper, federation, state, test, ids):
    return diagnostics.diagnose(
      job.algorithm, job.model, hyper, federation, state, test, ids,
      job.execution,
    )  # fmt: skip

  with memory_named(job):
    program = (
      jax.jit(look).lower(job.hyper, job.federation, state, test, ids).compile()
    )

  def looked(state: State) -> dict[str, np.ndarray]:
    with memory_named(job):
      found = program(job.hyper, job.federation, state, test, ids)
      return jax.device_get(found)

  return looked


def client_values(job: Job, state: State) -> dict[str, np.ndarray]:
  """Test loss and metrics of each client, `{name: [C]}`."""

  @jax.jit
  @_in_precision(job.precision)
  def values(hyper, federation, state, test):
    return evaluate_lib.client_values(
      job.algorithm, job.model, hyper, state, federation, test
    )

  args = job.hyper, job.federation, _on_device(state, job), job.tests['test']
  return jax.device_get(values(*args))


def _in_precision(precision: str) -> Callable[[Callable], Callable]:
  """Makes a function run, or be traced, in a precision of matrix products."""

  def decorate(function):
    @functools.wraps(function)
    def wrapped(*args):
      with jax.default_matmul_precision(precision):
        return function(*args)

    return wrapped

  return decorate


def _on_device(state: State, job: Job) -> State:
  return state if job.host is None else state._replace(clients=())


def next_stop(
  now: int, rounds: int, eval_every: int, checkpoint_every: int = 0
) -> int:
  """The round after `now` at which a run stops next.

  >>> next_stop(10, 25, 10), next_stop(20, 25, 10), next_stop(10, 25, 10, 4)
  (20, 25, 12)
  """
  ends = [(now // n + 1) * n for n in (eval_every, checkpoint_every) if n]
  return min(*ends, rounds)


def _since(begin: float) -> float:
  return time.perf_counter() - begin


def _guard(execution: Execution):
  """Nothing may move between host and device inside a block by accident."""
  if execution.debug:
    return contextlib.nullcontext()
  return jax.transfer_guard('disallow')


def _zeros(tally: Tree, execution: Execution) -> Tree:
  return place(
    jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), tally), execution
  )


def _healthy(state: State) -> jax.Array:
  """Whether all that server and clients keep is finite."""
  kept = jax.tree.leaves((state.server, state.clients))
  finite = [
    jnp.all(jnp.isfinite(leaf))
    for leaf in kept
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  ]
  return jnp.all(jnp.stack(finite)) if finite else jnp.array(True)


def divergence(now: int, values: dict[str, float], healthy: bool) -> str:
  """One sentence if a run has diverged by round `now`, else ''.

  Args:
    now: rounds done.
    values: metrics.
    healthy: whether all that server and clients keep is finite.
  """
  bad = [k for k in values if k.startswith('train/') and not _finite(values[k])]
  if healthy and not bad:
    return ''
  what = f'{bad[0]} is {values[bad[0]]}' if bad else 'the model is not finite'
  return (
    f'the run diverged by round {now}: {what}; lower client.learning_rate or '
    'set client.clip = true'
  )


def _finite(value: float) -> bool:
  return bool(np.isfinite(value))


def shortest(value: Any) -> float:
  """The number with the fewest digits that is this one in its own type."""
  return value.item() if value.dtype.kind in 'iub' else float(str(value[()]))


def _temporary_bytes(compiled: Any) -> int:
  analysis = compiled.memory_analysis()
  return 0 if analysis is None else analysis.temp_size_in_bytes
