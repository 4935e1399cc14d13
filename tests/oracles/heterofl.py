"""heterofl, one client and one step at a time."""

import math
from fractions import Fraction

import jax
import numpy as np

from tests.oracles.base import ROUNDS, Data, weights_of


def gradient(w, x, y, rate, present, absent):
  hidden = np.maximum(x @ w[0] / rate, 0)
  logits = hidden @ w[1]
  if absent != 'none':
    fill = 0.0 if absent == 'zero' else -np.inf
    logits = np.where(present, logits, fill)
  p = np.exp(logits - logits.max(1, keepdims=True))
  p = p / p.sum(1, keepdims=True)
  error = (p - np.eye(3)[y]) / len(y)
  error = error if absent == 'none' else np.where(present, error, 0)
  back = (error @ w[1].T) * (hidden > 0) / rate
  return [x.T @ back, hidden.T @ error]


def tier_of(p, d, t, i):
  if p.algorithm.tier is None:
    return int(d.tier[i])
  key = jax.random.fold_in(jax.random.key(d.seed), t)
  key = jax.random.fold_in(jax.random.split(key)[1], i)
  return int(p.algorithm.tier(jax.random.fold_in(key, 1 << 16)))


def oracle(p):
  d, w, s = Data(p), weights_of(p.state.server.params), p.hyper.method
  for t in range(ROUNDS):
    top = [np.zeros_like(v) for v in w]
    bottom = [np.zeros_like(v) for v in w]
    for i in d.cohort(t):
      rate = Fraction(s.rates[tier_of(p, d, t, i)])
      c = math.ceil(rate * 6)
      present = np.bincount(d.own(i)[1], minlength=3) > 0
      end, velocity = [w[0][:, :c], w[1][:c]], [0.0, 0.0]
      for x, y in d.batches(t, i):
        scale = float(rate) if s.scaler else 1.0
        g = gradient(end, x, y, scale, present[None], s.absent)
        for n in range(2):
          velocity[n] = g[n] + d.decay * end[n] + d.momentum * velocity[n]
        end = [end[n] - d.lr[t] * velocity[n] for n in range(2)]
      rows = present[None] if s.owners else np.ones((1, 3))
      for n, block in enumerate([np.s_[:, :c], np.s_[:c]]):
        held = d.weight(i) * (rows if n else 1)
        top[n][block] += held * end[n]
        bottom[n][block] += held
    w = [
      np.where(bottom[n] > 0, top[n] / np.maximum(bottom[n], 1e-9), w[n])
      for n in range(2)
    ]
  return w
