"""feddecorr, one client and one step at a time, its gradient by hand."""

import numpy as np

from tests.oracles.base import Data, forward, gradient, weights_of


def penalty_gradient(z, scale):
  """Gradient of the penalty in the features z[N, D]."""
  n, d = z.shape
  if n == 1:
    return np.zeros_like(z)
  centered = z - z.mean(0)
  root = np.sqrt(centered.var(0, ddof=1) + 1e-8)
  unit = centered / root
  m = unit.T @ unit
  if scale == 'paper':
    g = 4 * unit @ m / (n * d) ** 2
  else:
    g = 4 * unit @ (m - np.diag(np.diag(m))) / (n * d * (d - 1))
  g = (g - unit * (g * unit).sum(0) / (n - 1)) / root
  return g - g.mean(0)


def penalized(coefficient, scale):
  """`gradient(w, x, y)` of the cross-entropy and the penalty."""

  def of(w, x, y):
    hidden, _ = forward(w, x)
    back = coefficient * penalty_gradient(hidden, scale) * (hidden > 0)
    g = gradient(w, x, y)
    return [g[0] + x.T @ back, g[1]]

  return of


def oracle(p):
  settings = p.hyper.method
  of = penalized(float(settings.coefficient), settings.scale)
  w = weights_of(p.state.server.params)
  return Data(p).averaged(w, lambda x, i: of)
