"""fjord, one client and one step at a time; the package draws the widths."""

import math
from fractions import Fraction

import jax
import numpy as np

from fedjax_ls import local
from fedjax_ls.algorithms import fjord
from tests.oracles.base import ROUNDS, Data, weights_of


def softmax(z):
  p = np.exp(z - z.max(1, keepdims=True))
  return p / p.sum(1, keepdims=True)


def forward(w, x, c):
  hidden = np.maximum(x @ w[0][:, :c], 0)
  return hidden, hidden @ w[1][:c]


def backward(w, x, c, hidden, error):
  back = (error @ w[1][:c].T) * (hidden > 0)
  g = [np.zeros_like(v) for v in w]
  g[0][:, :c], g[1][:c] = x.T @ back, hidden.T @ error
  return g


def gradient(w, x, y, c, widest, s):
  truth = np.eye(3)[y]
  hidden, z = forward(w, x, c)
  error = softmax(z) - truth
  if not s.distillation:
    return backward(w, x, c, hidden, error / len(y))
  top_hidden, top = forward(w, x, widest)
  alpha, heat = float(s.alpha), float(s.temperature)
  taught = (softmax(z / heat) - softmax(top / heat)) / heat
  error = (1 - alpha) * error + alpha * taught
  own = backward(w, x, c, hidden, error / len(y))
  teacher = backward(w, x, widest, top_hidden, (softmax(top) - truth) / len(y))
  return [a + b for a, b in zip(own, teacher, strict=True)]


def widths(p, d, t, i):
  """Number of the width of each local step."""
  rates = [Fraction(r) for r in p.hyper.method.rates]
  key = jax.random.fold_in(jax.random.key(d.seed), t)
  key = jax.random.fold_in(jax.random.split(key)[1], i)
  key = jax.random.fold_in(jax.random.fold_in(key, 0), local._NOISE)
  step = 0
  while True:
    noise = jax.random.fold_in(key, step)
    yield int(fjord.drawn_width(rates, noise, d.tier[i]))
    step += 1


def oracle(p):
  d, w, s = Data(p), weights_of(p.state.server.params), p.hyper.method
  channels = [math.ceil(Fraction(r) * 6) for r in s.rates]
  for t in range(ROUNDS):
    top = [np.zeros_like(v) for v in w]
    bottom = [np.zeros_like(v) for v in w]
    for i in d.cohort(t):
      most = channels[d.tier[i]]
      mask = [np.arange(6)[None] < most, np.arange(6)[:, None] < most]
      end, velocity = [w[n] * mask[n] for n in range(2)], [0.0, 0.0]
      steps = zip(d.batches(t, i), widths(p, d, t, i), strict=False)
      for (x, y), j in steps:
        assert channels[j] <= most
        g = gradient(end, x, y, channels[j], most, s)
        for n in range(2):
          velocity[n] = g[n] + d.decay * end[n] + d.momentum * velocity[n]
        end = [end[n] - d.lr[t] * velocity[n] for n in range(2)]
      for n in range(2):
        top[n] += d.weight(i) * mask[n] * end[n]
        bottom[n] += d.weight(i) * mask[n]
    w = [
      np.where(bottom[n] > 0, top[n] / np.maximum(bottom[n], 1), w[n])
      for n in range(2)
    ]
  return w
