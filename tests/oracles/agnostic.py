"""agnostic, one client and one step at a time."""

import numpy as np

from tests.oracles.base import ROUNDS, Data, loss, mean, weights_of


def projected(v, mass):
  """The nearest point with entries >= 0 of sum `mass`, by bisection."""
  low, high = v.min() - mass, v.max()
  for _ in range(200):
    middle = (low + high) / 2
    if np.maximum(v - middle, 0).sum() > mass:
      low = middle
    else:
      high = middle
  return np.maximum(v - high, 0)


def oracle(p):
  d, w = Data(p), weights_of(p.state.server.params)
  ascent = float(p.hyper.method.ascent)
  weight = np.full(len(d.size), 1 / len(d.size))
  for t in range(ROUNDS):
    ids = d.cohort(t)
    losses = np.array([loss(w, *d.own(i)) for i in ids])
    ends = [d.train(w, t, i)[0] for i in ids]
    mass = weight[ids].sum()
    w = mean(ends, weight[ids]) if mass > 0 else w
    weight[ids] = projected(weight[ids] + ascent * losses, mass)
  return w
