"""feddyn in the paper's words, one client and one step at a time.

`sent(i, change)` is what arrives of client i's change.
"""

import numpy as np

from tests.oracles.base import ROUNDS, Data, gradient, mean, weights_of


def oracle(p, sent=lambda i, change: change):
  d, w = Data(p), weights_of(p.state.server.params)
  alpha, code = float(p.hyper.method.alpha), p.hyper.method.form == 'code'
  count = len(d.size)
  linear = {i: [np.zeros_like(v) for v in w] for i in range(count)}
  history = [np.zeros_like(v) for v in w]
  for t in range(ROUNDS):
    ids, ends = d.cohort(t), []
    for i in ids:
      own = alpha * d.size.mean() / d.size[i] if code else alpha

      def regularized(y, *batch, x=w, i=i, own=own):
        g = gradient(y, *batch)
        return [g[n] - linear[i][n] + own * (y[n] - x[n]) for n in range(2)]

      end, _ = d.train(w, t, i, gradient=regularized)
      change = [end[n] - w[n] for n in range(2)]
      arrived = sent(i, change)
      for n in range(2):
        linear[i][n] = linear[i][n] - own * change[n]
        history[n] = history[n] + arrived[n] / count
      ends.append([w[n] + arrived[n] for n in range(2)])
    average = mean(ends, [d.weight(i) for i in ids])
    w = [average[n] + history[n] for n in range(2)]
  return w
