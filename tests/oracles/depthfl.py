"""depthfl in the paper's words, one client and one step at a time."""

import math
from fractions import Fraction

import numpy as np

from tests.oracles.base import ROUNDS, Data, weights_of


def softmax(z):
  odds = np.exp(z - z.max(1, keepdims=True))
  return odds / odds.sum(1, keepdims=True)


def gradient_of(w, x, y, weight):
  """Of a net of d layers `w[:d]` with classifiers `w[d:]`; `weight` is that of
  the distillation."""
  d = len(w) // 2
  hidden = [x]
  for layer in w[:d]:
    hidden.append(np.maximum(hidden[-1] @ layer, 0))
  p = [softmax(hidden[i + 1] @ w[d + i]) for i in range(d)]
  # The gradient of KL(p_j || softmax(z_i)) by z_i is p_i - p_j.
  error = [
    p[i] - np.eye(3)[y] + weight / max(d - 1, 1) * sum(p[i] - q for q in p)
    for i in range(d)
  ]
  layers, heads, back = [], [], 0.0
  for i in reversed(range(d)):
    heads.insert(0, hidden[i + 1].T @ error[i] / len(y))
    back = (back + error[i] @ w[d + i].T / len(y)) * (hidden[i + 1] > 0)
    layers.insert(0, hidden[i].T @ back)
    back = back @ w[i].T
  return layers + heads


def run(p, sent=lambda i, change: change):
  """Weights after all rounds, and the clients' linear terms g_k.

  `sent(i, change)` is what arrives of client i's change.
  """
  d, w = Data(p), weights_of(p.state.server.params)
  method, stages = p.hyper.method, len(w) // 2
  depth = [math.ceil(stages * Fraction(rate)) for rate in method.rates]
  alpha = float(method.alpha) if method.feddyn else 0.0
  count = len(d.size)
  linear = [[np.zeros_like(v) for v in w] for _ in range(count)]
  h = [np.zeros_like(v) for v in w]
  for t in range(ROUNDS):
    top, bottom = [0.0] * len(w), [0.0] * len(w)
    changes = [[] for _ in w]
    share = min(t, float(method.ramp)) / float(method.ramp)
    weight = np.exp(-5 * (1 - share) ** 2) * method.distillation
    for i in d.cohort(t):
      c = depth[d.tier[i]]
      mine = [*range(c), *range(stages, stages + c)]
      start = [w[n] for n in mine]

      def objective(y, *batch, i=i, mine=mine, start=start, weight=weight):
        g = gradient_of(y, *batch, weight)
        return [
          g[m] - linear[i][n] + alpha * (y[m] - start[m])
          for m, n in enumerate(mine)
        ]

      end, _ = d.train(start, t, i, gradient=objective)
      change = [end[m] - start[m] for m in range(len(mine))]
      arrived = sent(i, change)
      for m, n in enumerate(mine):
        top[n] = top[n] + d.weight(i) * (start[m] + arrived[m])
        bottom[n] += d.weight(i)
        linear[i][n] = linear[i][n] - alpha * change[m]
        changes[n].append(arrived[m])
    for n in range(len(w)):
      if not changes[n]:
        continue
      if alpha:
        share = len(changes[n]) / count
        h[n] = h[n] - alpha * share * np.mean(changes[n], 0)
      w[n] = top[n] / bottom[n] - (h[n] / alpha if alpha else 0)
  return w, linear


def oracle(p, **options):
  return run(p, **options)[0]
