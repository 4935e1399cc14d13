"""cfl, one client at a time; sides by looking at all of them."""

import itertools

import numpy as np

from tests.oracles.base import ROUNDS, Data, mean, weights_of


def least_across(cosine, members):
  """The split in two with the least largest cosine across, and that cosine.

  The side that is returned does not hold the first member.
  """
  best = None
  rest = members[1:]
  for size in range(1, len(members)):
    for side in itertools.combinations(rest, size):
      others = [i for i in members if i not in side]
      across = max(cosine(i, j) for i in side for j in others)
      if best is None or across < best[1]:
        best = list(side), across
  return best


def oracle(p, told=None):
  """The clusters' weights; `told` gets who is in which cluster at the end."""
  d, s = Data(p), p.hyper.method
  first = weights_of(p.state.server.params)
  models = [[v[m] for v in first] for m in range(s.clusters)]
  of = [0] * len(d.size)
  count = 1
  for t in range(ROUNDS):
    ids = sorted(d.cohort(t))
    flat, change = {}, {}
    for i in ids:
      w = models[of[i]]
      end = d.train(w, t, i)[0]
      change[i] = [end[n] - w[n] for n in range(2)]
      flat[i] = np.concatenate([v.ravel() for v in change[i]])

    def cosine(i, j, flat=flat):
      norms = np.linalg.norm(flat[i]) * np.linalg.norm(flat[j])
      return flat[i] @ flat[j] / norms

    for c in range(count):
      everybody = [i for i in range(len(of)) if of[i] == c]
      if count == s.clusters or not set(everybody) <= set(ids):
        continue
      if len(everybody) < s.min_size or t < s.first_split:
        continue
      weights = [d.weight(i) for i in everybody]
      together = mean([[flat[i]] for i in everybody], weights)[0]
      longest = max(np.linalg.norm(flat[i]) for i in everybody)
      if np.linalg.norm(together) >= s.eps1 or longest <= s.eps2:
        continue
      side, across = least_across(cosine, everybody)
      if np.sqrt((1 - across) / 2) > s.gamma:
        models[count] = models[c]
        for i in side:
          of[i] = count
        count += 1
    for c in range(count):
      mine = [i for i in ids if of[i] == c]
      if mine:
        step = mean([change[i] for i in mine], [d.weight(i) for i in mine])
        models[c] = [models[c][n] + step[n] for n in range(2)]
  if told is not None:
    told.extend(of)
  return [np.stack([w[n] for w in models]) for n in range(2)]
