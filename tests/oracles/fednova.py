"""fednova, one client and one step at a time.

a_k is the sum of the weights of the gradients, by the paper's recursion.
"""

from tests.oracles.base import ROUNDS, Data, gradient, weights_of


def gathered(steps, momentum, shrink):
  """Sum of what every gradient adds to the change, in learning rates."""
  total = 0.0
  for first in range(steps):
    v, moved = 1.0, 1.0
    for _ in range(first + 1, steps):
      v = momentum * v - shrink * moved
      moved += v
    total += moved
  return total


def oracle(p):
  d, w = Data(p), weights_of(p.state.server.params)
  mu = float(p.hyper.method.mu)
  momentum = d.momentum if p.hyper.client.optimizer == 'momentum' else 0.0
  d.momentum = momentum
  for t in range(ROUNDS):

    def regularized(y, *batch, x=w):
      g = gradient(y, *batch)
      return [g[n] + mu * (y[n] - x[n]) for n in range(2)]

    ids = d.cohort(t)
    whole = sum(d.weight(i) for i in ids)
    direction, effective = [0.0, 0.0], 0.0
    for i in ids:
      share = d.weight(i) / whole
      end, steps = d.train(w, t, i, gradient=regularized)
      own = gathered(steps, momentum, d.lr[t] * mu)
      for n in range(2):
        direction[n] = direction[n] + share * (w[n] - end[n]) / own
      effective += share * (steps if mu > 0 else own)
    w = [w[n] - effective * direction[n] for n in range(2)]
  return w
