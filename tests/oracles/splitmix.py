"""splitmix, one client, one network and one step at a time."""

from fractions import Fraction

import jax
import numpy as np

from tests.oracles.base import ROUNDS, Data, mean, weights_of


def turns(p, d, count):
  """Who trains which of `count` networks, `[(client, networks)]` a round."""
  budgets = [int(count * Fraction(rate)) for rate in p.hyper.method.rates]
  queue, through = [], 0
  for t in range(ROUNDS):
    found = []
    for i in sorted(d.cohort(t)):
      if not queue:
        key = jax.random.key(int(p.state.server.extra.seed))
        key = jax.random.fold_in(key, through)
        queue = list(np.asarray(jax.random.permutation(key, count)))
        through += 1
      first = queue.pop(0)
      key = jax.random.fold_in(d.key(t, i), 3)
      order = np.argsort(np.asarray(jax.random.uniform(key, (count,))))
      others = [j for j in order if j != first]
      found.append((i, [first, *others][: budgets[d.tier[i]]]))
    yield found


def oracle(p):
  d, stacked = Data(p), weights_of(p.state.server.params)
  nets = [[v[j] for v in stacked] for j in range(len(stacked[0]))]
  for t, found in enumerate(turns(p, d, len(nets))):
    ends = [[] for _ in nets]
    for i, taken in found:
      for j in taken:
        ends[j].append((d.train(nets[j], t, i)[0], d.weight(i)))
    for j in range(len(nets)):
      nets[j] = mean(*zip(*ends[j], strict=True)) if ends[j] else nets[j]
  return [np.stack([net[n] for net in nets]) for n in range(2)]
