"""ifca, one client and one step at a time."""

import numpy as np

from tests.oracles.base import ROUNDS, Data, gradient, loss, mean, weights_of


def oracle(p):
  d, settings = Data(p), p.hyper.method
  stacked = weights_of(p.state.server.params)
  models = [[v[m] for v in stacked] for m in range(settings.clusters)]
  for t in range(ROUNDS):
    ids = d.cohort(t)
    members = [[] for _ in models]
    for i in ids:
      losses = [loss(w, *d.own(i)) for w in models]
      members[int(np.argmin(losses))].append(i)
    for j, mine in enumerate(members):
      if not mine:
        continue
      w = models[j]
      if settings.option == 'gradients':
        grads = [gradient(w, *d.own(i)) for i in mine]
        models[j] = [
          w[n] - d.lr[t] / len(ids) * sum(g[n] for g in grads) for n in range(2)
        ]
      else:
        ends = [d.train(w, t, i)[0] for i in mine]
        models[j] = mean(ends, [d.weight(i) for i in mine])
  return [np.stack([w[n] for w in models]) for n in range(2)]
