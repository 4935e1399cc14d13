"""moon, one client and one step at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.oracles.base import ROUNDS, Data, gradient, mean, weights_of


def contrast(w, x, y, received, previous, tau):
  """Mean of -log of the received model's share of the similarities."""
  hidden = [jnp.maximum(x @ v[0], 0) for v in (received, previous)]
  z = jnp.maximum(x @ w[0], 0)

  def similarity(a, b):
    lengths = [jnp.maximum((v**2).sum(1), 1e-16) ** 0.5 for v in (a, b)]
    return jnp.exp((a * b).sum(1) / (lengths[0] * lengths[1]) / tau)

  near, far = (similarity(z, h) for h in hidden)
  return -jnp.log(near / (near + far)).mean()


SLOPE = jax.jit(jax.grad(contrast))


def oracle(p, tau=None):
  d, w = Data(p), weights_of(p.state.server.params)
  mu, tau = float(p.hyper.method.mu), tau or float(p.hyper.method.tau)
  previous = {}
  for t in range(ROUNDS):
    ids, ends = d.cohort(t), []
    for i in ids:

      def contrasted(y, *batch, x=w, i=i):
        g = gradient(y, *batch)
        if i not in previous:
          return g
        more = SLOPE(y, *batch, x, previous[i], tau)
        return [g[n] + mu * np.asarray(more[n]) for n in range(2)]

      ends.append(d.train(w, t, i, gradient=contrasted)[0])
      previous[i] = ends[-1]
    w = mean(ends, [d.weight(i) for i in ids])
  return w
