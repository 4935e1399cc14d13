"""fedrs, one client and one step at a time."""

import numpy as np

from tests.oracles.base import Data, gradient, weights_of


def oracle(p):
  d, settings = Data(p), p.hyper.method
  alpha = float(settings.alpha)

  def restricted(x, i):
    p_c = d.labels[i] / d.size[i]
    scale = np.where(p_c > 0, 1.0, alpha)
    if settings.graded:
      scale = (1 - alpha) * p_c / p_c.max() + alpha
    return lambda w, *batch: gradient(w, *batch, scale=scale)

  return d.averaged(weights_of(p.state.server.params), restricted)
