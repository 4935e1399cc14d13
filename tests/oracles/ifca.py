"""ifca, one client and one step at a time."""

import numpy as np

from tests.oracles.base import ROUNDS, Data, gradient, loss, mean, weights_of


def oracle(p):
  """Weights 0 are the body, weights 1 the classifier."""
  d, settings = Data(p), p.hyper.method
  stacked = weights_of(p.state.server.params)
  models = [[v[m] for v in stacked] for m in range(settings.clusters)]
  for t in range(ROUNDS):
    ids = d.cohort(t)
    members = [[] for _ in models]
    steps = {}
    for i in ids:
      j = int(np.nanargmin([loss(w, *d.own(i)) for w in models]))
      members[j].append(i)
      if settings.option == 'gradients':
        share = d.lr[t] / len(ids)
        steps[i] = [-share * g for g in gradient(models[j], *d.own(i))]
      else:
        end = d.train(models[j], t, i)[0]
        steps[i] = [end[n] - models[j][n] for n in range(2)]
    new = []
    for j, w in enumerate(models):
      mine = [ids if settings.own and n == 0 else members[j] for n in range(2)]
      new.append([w[n] + moved(d, steps, mine[n], n, settings) for n in (0, 1)])
    models = new
  return [np.stack([w[n] for w in models]) for n in range(2)]


def moved(d, steps, members, n, settings):
  """How far some clients move weights n together."""
  if not members:
    return 0.0
  if settings.option == 'gradients':
    return sum(steps[i][n] for i in members)
  return mean([steps[i] for i in members], [d.weight(i) for i in members])[n]
