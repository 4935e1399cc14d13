"""inclusivefl, one client and one step at a time.

`sent(i, change)` is what arrives of client i's change.
"""

import math
from fractions import Fraction

import jax
import numpy as np

from tests.oracles.base import ROUNDS, Data, mean


def gradient_of(w, x, y):
  """Of a net of layers `w[:-1]` and the classifier `w[-1]`."""
  hidden = [x]
  for layer in w[:-1]:
    hidden.append(np.maximum(hidden[-1] @ layer, 0))
  z = hidden[-1] @ w[-1]
  odds = np.exp(z - z.max(1, keepdims=True))
  back = (odds / odds.sum(1, keepdims=True) - np.eye(3)[y]) / len(y)
  gradients = [hidden[-1].T @ back]
  for n in reversed(range(len(w) - 1)):
    back = (back @ w[n + 1].T) * (hidden[n + 1] > 0)
    gradients.insert(0, hidden[n].T @ back)
  return gradients


def oracle(p, sent=lambda i, change: change):
  d, params = Data(p), p.state.server.params
  own = [{k: np.array(v['kernel']) for k, v in t.items()}
         for t in params['own']]  # fmt: skip
  shared = [np.array(params['shared'][f'dense{n}']['kernel'])
            for n in range(len(params['shared']))]  # fmt: skip
  stages = len(shared) + 1
  tiers = [math.ceil(stages * Fraction(r)) for r in p.hyper.method.rates]
  depths, beta = sorted(set(tiers)), float(p.hyper.method.beta)
  for t in range(ROUNDS):
    changes = [[] for _ in depths]
    weights = [[] for _ in depths]
    for i in d.cohort(t):
      depth = tiers[d.tier[i]]
      m = depths.index(depth)
      last = own[m][f'dense{depth - 1}']
      w = [*shared[: depth - 1], last, own[m]['classifier']]
      end, _ = d.train(w, t, i, gradient=gradient_of)
      change = [a - b for a, b in zip(end, w, strict=True)]
      changes[m].append(sent(i, change))
      weights[m].append(d.weight(i))
    for n in range(stages - 1):
      there = [m for m, depth in enumerate(depths) if n < depth - 1]
      every = [[c[n]] for m in there for c in changes[m]]
      counts = [k for m in there for k in weights[m]]
      if every:
        shared[n] = shared[n] + mean(every, counts)[0]
    means = [mean(c, k) if c else None
             for c, k in zip(changes, weights, strict=True)]  # fmt: skip
    for m, depth in enumerate(depths):
      if means[m] is None:
        continue
      move = means[m][depth - 1]
      if m + 1 < len(depths) and means[m + 1] is not None:
        there = means[m + 1][depth - 1 : depths[m + 1]]
        teacher = np.mean([s for s in there if s.shape == move.shape], 0)
        move = beta * teacher + (1 - beta) * move
      own[m][f'dense{depth - 1}'] = own[m][f'dense{depth - 1}'] + move
      own[m]['classifier'] = own[m]['classifier'] + means[m][depth]
  tree = {'own': own, 'shared': {f'dense{n}': v for n, v in enumerate(shared)}}
  return jax.tree.leaves(tree)
