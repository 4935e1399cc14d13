"""A run with one's own arrays, network and loss, in one call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_ls import (
  algorithms,
  attacks,
  build,
  consistency,
  evaluate,
  loop,
  rules,
)
from fedjax_ls import hyper as hyper_lib
from fedjax_ls.config import (
  Config,
  Partition,
  briefly,
  check_group,
  method_name,
)
from fedjax_ls.consistency import require
from fedjax_ls.data.dataset import NO_CLIENTS, Dataset
from fedjax_ls.data.federation import Federation, federate
from fedjax_ls.models.base import Model
from fedjax_ls.models.submodels import Submodels
from fedjax_ls.placement import place
from fedjax_ls.progress import progress as shown_progress
from fedjax_ls.types import Execution, Sampler, State
from fedjax_ls.validate import check_range, validate

Tree = Any


class Result(NamedTuple):
  """What a run gives.

  Attributes:
    params: parameters of the global model.
    stats: its statistics, `{}` for none.
    history: one `{name: value}` an evaluation, `round` included.
    state: the whole run after its last round.
    job: what was run.
  """

  params: Tree
  stats: Tree
  history: list[dict[str, float]]
  state: State
  job: loop.Job

  def diagnose(self, num_clients: int = 10) -> dict[str, np.ndarray]:
    """Looks at the global model and at what clients would make of it.

    Args:
      num_clients: how many of them, evenly spaced among all.

    Returns:
      What `fedjax_ls.diagnostics.diagnose` does, on the test set.

    Raises:
      ValueError: the method trains no model like the global one.
    """
    return loop.diagnosis(self.job, self.state, num_clients)(self.state)


def fit(
  model: Model,
  federation: Federation,
  *,
  test: tuple[np.ndarray, np.ndarray]
  | tuple[np.ndarray, np.ndarray, Sequence[np.ndarray]],
  method: Any = 'fedavg',
  client: hyper_lib.Client | None = None,
  server: hyper_lib.Server | None = None,
  loss: hyper_lib.Loss | None = None,
  uplink: hyper_lib.Uplink | None = None,
  attack: hyper_lib.Attack | None = None,
  adversarial: hyper_lib.Adversarial | None = None,
  sampler: Sampler | hyper_lib.Sampler | None = None,
  fine_tune: int = 0,
  submodels: Submodels | None = None,
  rounds: int = 100,
  eval_every: int = 10,
  seed: int = 0,
  execution: Execution = Execution(),  # noqa: B008
  progress: str = 'off',
) -> Result:
  """Trains a model on the clients of a federation.

  Args:
    model: such as `flax_model(module, x[:1])`.
    federation: such as `federate(x, y, parts)`.
    test: `(x, y)`, or `(x, y, rows of each client)` to see how the metrics
      spread over clients.
    method: name of a method, or its settings.
    client: what a client does.
    server: what the server does.
    loss: what a client's loss has beside the model's own.
    uplink: what an update goes through on its way to the server.
    attack: which clients lie, and how.
    adversarial: whether clients train on attacked examples, too; the model is
      then `models.dual_norm(...)`.
    sampler: who takes part, by settings or as `SamplerFunctions` of one's own;
      everyone by default.
    fine_tune: local steps that each client takes before it is judged, 0 for
      none; `test` then has the rows of each client.
    submodels: slim versions of the model, for methods that need them.
    rounds: rounds in all.
    eval_every: rounds between evaluations.
    seed: of the initial parameters and of the training.
    execution: how rounds are mapped over clients.
    progress: `auto`, `bar`, `lines` or `off`.

  Returns:
    The trained model and its history.

  Raises:
    ValueError: an argument does not fit the others.
    fedjax_ls.loop.Diverged: something is not finite.
    fedjax_ls.loop.OutOfMemory: it does not fit the device.

  >>> from fedjax_ls import Client, data, flax_model, MLP
  >>> d = data.load('digits')
  >>> parts = data.classes(d.y_train, 10, 1, seed=0).train
  >>> result = fit(
  ...   flax_model(MLP(10, norm='fn'), d.x_train[:1]),
  ...   data.federate(d.x_train, d.y_train, parts),
  ...   test=(d.x_test, d.y_test),
  ...   client=Client(learning_rate=0.03),
  ...   rounds=20,
  ... )
  >>> result.history[-1]['test/accuracy'] > 0.8
  True
  """
  check_group('execution', Execution, execution)
  require(
    sampler is None or isinstance(sampler, Sampler | hyper_lib.Sampler),
    f'sampler is given {briefly(sampler)}; give settings, '
    'fedjax_ls.Sampler(name), or functions, '
    'fedjax_ls.SamplerFunctions(init, sample)',
  )
  if isinstance(method, str):
    method = algorithms.find(method).settings()
  own = sampler if isinstance(sampler, Sampler) else None
  groups: dict[str, Any] = {
    'client': client,
    'server': server,
    'loss': loss,
    'uplink': uplink,
    'attack': attack,
    'adversarial': adversarial,
    'sampler': None if own else sampler,
  }
  config = validate(
    Config(
      partition=Partition(kind='natural'),
      seed=seed,
      rounds=rounds,
      eval_every=eval_every,
      fine_tune=fine_tune,
      algorithm=method,
      **{k: group for k, group in groups.items() if group is not None},
    )
  )
  check_range('execution.chunk', execution.chunk, rules.COUNT)
  consistency.check_batches(config.client, federation.size)
  consistency.check_model(model, federation)
  consistency.check_attacks(config.adversarial, model, federation)
  consistency.check_tiers(submodels, federation.tier)
  kind = algorithms.METHODS[method_name(config)]
  if kind.needs_submodels and submodels is None:
    raise ValueError(
      f'method {kind.name!r} needs submodels but there are none; give '
      f'submodels={"depth" if kind.shallow else "width"}_submodels(module, '
      'x[:1], rates)'
    )
  population = len(federation.size)
  algorithm = build.assemble(config, model, submodels, population, own)
  tests = {'test': loop.evaluation_set(test[0], test[1], federation, *test[2:])}
  consistency.check_own_models(kind, algorithm.personal, tests, fine_tune)
  federation = _with_wrong_labels(federation, config.attack)
  numbers = build.numbers(config)
  with loop.memory_named(None):
    numbers, federation, tests = place((numbers, federation, tests), execution)
  job = loop.Job(algorithm, model, numbers, federation, tests, execution)
  state = loop.initial_state(job, seed, seed)
  programs = loop.compile_job(job, state)
  history = []
  with shown_progress(progress, rounds) as shown:
    for stop in loop.run(job, programs, state, rounds, eval_every):
      history.append({'round': stop.round, **stop.metrics})
      shown.show(stop.round, stop.metrics)
      state = stop.state
  params, stats = evaluate.global_model(algorithm, numbers, state, federation)
  return Result(params, stats, history, state, job)


def _with_wrong_labels(
  federation: Federation, attack: hyper_lib.Attack
) -> Federation:
  """The federation that clients have who flip their labels."""
  if attack.kind != 'label_flip':
    return federation
  x, y, index, size, counts, tier = map(np.asarray, federation)
  parts = [rows[:n] for rows, n in zip(index, size, strict=True)]
  dataset = Dataset(x, y, x, y, NO_CLIENTS, NO_CLIENTS, counts.shape[1])
  y = attacks.labels(attack, dataset, parts)
  return federate(x, y, parts, num_classes=counts.shape[1], tier=tier)
