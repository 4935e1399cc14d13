"""qffl, one client and one step at a time, in the paper's own form."""

import jax
import numpy as np

from fedjax_ls import local
from tests.oracles.base import ROUNDS, Data, gradient, loss, weights_of


def one_batch(d, t, i):
  """The batch that the package draws for a client in the first phase."""
  key = jax.random.fold_in(jax.random.key(d.seed), t)
  key = jax.random.fold_in(jax.random.split(key)[1], i)
  key = jax.random.fold_in(key, 1)
  chosen = local.reshuffled(d.client, key, d.size[i], 0)
  rows, mask = local.batch(d.client, d.index[i], d.size[i], chosen, 0)
  rows = np.asarray(rows)[np.asarray(mask)]
  return d.x[rows], d.y[rows]


def oracle(p):
  d, w = Data(p), weights_of(p.state.server.params)
  settings = p.hyper.method
  q = float(settings.q)
  for t in range(ROUNDS):
    bound = float(settings.lipschitz) or 1 / d.lr[t]
    change, total = [0.0, 0.0], 0.0
    for i in d.cohort(t):
      x, y = one_batch(d, t, i) if settings.option == 'batch' else d.own(i)
      f = loss(w, x, y)
      if settings.option == 'local_steps':
        end = d.train(w, t, i)[0]
        step = [(w[n] - end[n]) / d.lr[t] for n in range(2)]
      else:
        step = gradient(w, x, y)
      square = sum((v**2).sum() for v in step)
      change = [change[n] + d.weight(i) * f**q * step[n] for n in range(2)]
      h = q * f ** (q - 1) * square + bound * f**q
      total += d.weight(i) * h
    w = [w[n] - change[n] / total for n in range(2)]
  return w
