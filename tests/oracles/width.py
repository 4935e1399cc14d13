"""width, one client and one step at a time."""

import numpy as np

from tests.oracles.base import ROUNDS, Data, weights_of


def oracle(p):
  d, w = Data(p), weights_of(p.state.server.params)
  kept = {'1': 6, '1/2': 3, '1/4': 2}
  channels = [kept[rate] for rate in p.hyper.method.rates]
  for t in range(ROUNDS):
    top = [np.zeros_like(v) for v in w]
    bottom = [np.zeros_like(v) for v in w]
    for i in d.cohort(t):
      c, weight = channels[d.tier[i]], d.weight(i)
      end, _ = d.train([w[0][:, :c], w[1][:c]], t, i)
      top[0][:, :c] += weight * end[0]
      top[1][:c] += weight * end[1]
      bottom[0][:, :c] += weight
      bottom[1][:c] += weight
    w = [
      np.where(bottom[n] > 0, top[n] / np.maximum(bottom[n], 1), w[n])
      for n in range(2)
    ]
  return w
