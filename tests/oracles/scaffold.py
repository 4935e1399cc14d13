"""scaffold, one client and one step at a time."""

import numpy as np

from tests.oracles.base import ROUNDS, Data, gradient, mean, weights_of


def oracle(p, gradient_of=lambda w, i: gradient):
  """`gradient_of(w, i)` is of client i's objective, w the server's model."""
  d, w = Data(p), weights_of(p.state.server.params)
  c = [np.zeros_like(v) for v in w]
  own = {i: [np.zeros_like(v) for v in w] for i in range(len(d.size))}
  for t in range(ROUNDS):
    ids, ends, change = d.cohort(t), [], [0.0, 0.0]
    for i in ids:
      correction = [c[n] - own[i][n] for n in range(2)]
      end, steps = d.train(
        w, t, i, correction=correction, gradient=gradient_of(w, i)
      )
      if p.hyper.method.option == 'gradient':
        new = gradient_of(w, i)(w, *d.own(i))
      else:
        new = [
          own[i][n] - c[n] + (w[n] - end[n]) / (steps * d.lr[t])
          for n in range(2)
        ]
      change = [change[n] + new[n] - own[i][n] for n in range(2)]
      own[i] = new
      ends.append(end)
    w = mean(ends, [d.weight(i) for i in ids])
    c = [c[n] + change[n] / len(d.size) for n in range(2)]
  return w
