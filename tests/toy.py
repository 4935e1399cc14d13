"""A tiny federated problem with everything that makes one hard.

Six clients of 3 to 11 examples (no two alike), three classes, four features,
epochs with a short last batch, momentum and weight decay, a learning rate
that decays, three tiers, and
cohorts that are given as data, so that one program serves many tests.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls import algorithms, attacks, hyper, robust, types, uplinks
from fedjax_ls import round as round_lib
from fedjax_ls.data import Federation, federate
from fedjax_ls.models import (
  MLP,
  Model,
  depth_submodels,
  flax_model,
  width_submodels,
  with_exits,
)
from fedjax_ls.models.submodels import exact_rates

SIZES = (3, 11, 5, 8, 4, 9)
DEAD = len(SIZES)
COHORTS = np.array([[2, 0, 5, 1], [4, 3, 1, 5], [0, 5, 2, 3]])
EVERYONE = np.tile(np.arange(len(SIZES)), (3, 1))
CLIENT = hyper.Client(
  learning_rate=0.1,
  schedule='exponential',
  decay=0.8,
  optimizer='momentum',
  momentum=0.5,
  weight_decay=0.01,
  batch_size=4,
  unit='epochs',
  amount=2,
)
RATES = ('1', '1/2', '1/4')


@functools.cache
def federation(every_class: bool = False) -> Federation:
  """Gaussian blobs, one per class; client i has two of the three classes, or
  all of them."""
  random = np.random.RandomState(0)
  total = sum(SIZES)
  owner = np.repeat(np.arange(len(SIZES)), SIZES)
  y = ((owner + random.randint(0, 2, total)) % 3).astype(np.int32)
  y = np.arange(total) % 3 if every_class else y
  x = random.randn(total, 4) + 2 * np.eye(3, 4)[y]
  parts = [np.flatnonzero(owner == c) for c in range(len(SIZES))]
  tier = np.arange(len(SIZES)) % len(RATES)
  return federate(x, y, parts, num_classes=3, tier=tier)


def net(stages: int = 1) -> MLP:
  """Bias-free ReLU MLP 4-6-3 (42 weights), or one of more hidden layers."""
  return MLP(hidden=(6,) * stages, num_classes=3)


def net_of(method: algorithms.Method, rates) -> MLP:
  """The net for a method; for several depths with a stage for each."""
  if not method.shallow:
    return net()
  made = net(math.lcm(*(r.denominator for r in exact_rates(rates))))
  return with_exits(made) if method.needs_exits else made


def model(module: MLP | None = None) -> Model:
  """A net with parameters of the default float type (float64 in x64)."""
  made = flax_model(module or net(), federation().x[:1])

  def init(key, **options):
    return jax.tree.map(lambda a: a.astype(float), made.init(key, **options))

  return made._replace(init=init)


def given() -> types.Sampler:
  """A sampler that reads the cohort of each round from its state `[R, K]`,
  over and over."""
  return types.Sampler(
    init=lambda federation: jnp.asarray(COHORTS),
    sample=lambda hyper, state, draw: (state[draw.round % len(state)], state),
  )


class Problem(NamedTuple):
  """All that a run needs."""

  algorithm: types.Algorithm
  hyper: hyper.Hyper
  federation: Federation
  state: types.State

  def with_cohorts(self, cohorts) -> 'Problem':
    state = self.state._replace(sampler=jnp.asarray(cohorts))
    return self._replace(state=state)


def problem(
  name: str,
  settings=None,
  client=None,
  server=None,
  loss=None,
  uplink=None,
  attack=None,
  every_class: bool = False,
) -> Problem:
  """The toy problem for a method; fields of client, server, loss,
  uplink and attack by dict."""
  method = algorithms.find(name)
  settings = method.toy if settings is None else settings
  lied = dataclasses.replace(hyper.Attack(), **(attack or {}))
  sent = dataclasses.replace(hyper.Uplink(), **(uplink or {}))
  numbers = jax.tree.map(
    lambda a: jnp.asarray(a, float),
    hyper.Hyper(
      dataclasses.replace(CLIENT, **(client or {})),
      dataclasses.replace(hyper.Server(weights='size'), **(server or {})),
      settings,
      dataclasses.replace(hyper.Loss(), **(loss or {})),
      uplink=sent,
      attack=lied,
    ),
  )
  data = jax.tree.map(jnp.asarray, federation(every_class))
  example = data.x[:1]
  rates = method.slim_rates(settings) if method.needs_submodels else RATES
  module = net_of(method, rates)
  parts_of = depth_submodels if method.shallow else width_submodels
  parts = algorithms.Parts(
    model(module), given(), submodels=parts_of(module, example, rates)
  )
  algorithm = method.build(settings, parts)
  algorithm = attacks.under(algorithm, lied, len(SIZES))
  algorithm = uplinks.through(algorithm, sent)
  algorithm = robust.reduced(algorithm, numbers.server)
  key = jax.random.key(1)
  state = round_lib.init(algorithm, numbers, data, key, seed=0)
  return Problem(algorithm, numbers, data, state)


def program(p: Problem, **execution):
  """`(hyper, federation, state, rounds) -> state`, compiled.

  Narrow clients run masked unless `slim=True`.
  """
  how = types.Execution(**{'slim': False, **execution})

  def go(numbers, data, state, rounds=3):
    return round_lib.run_rounds(p.algorithm, numbers, data, state, rounds, how)

  return jax.jit(go)


def run(p: Problem, rounds: int = 3, **execution) -> types.State:
  """The state after some rounds."""
  return program(p, **execution)(p.hyper, p.federation, p.state, rounds)


def ctx(p: Problem, client: int) -> types.Ctx:
  """What a client sees in the first phase of round 0."""
  data, state = p.federation, p.state
  return types.Ctx(
    message=p.algorithm.phases[0].broadcast(p.hyper, state.server, 0),
    state=jax.tree.map(lambda a: a[client], state.clients),
    carry=(),
    x=data.x,
    y=data.y,
    rows=data.index[client],
    size=data.size[client],
    labels=data.labels[client],
    tier=data.tier[client],
    key=jax.random.key(client),
    round=state.round,
    id=jnp.asarray(client),
  )
