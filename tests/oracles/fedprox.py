"""fedprox, one client and one step at a time."""

from tests.oracles.base import Data, gradient, weights_of


def oracle(p):
  mu = float(p.hyper.method.mu)

  def pulled_to(x, i):
    def pulled(w, *batch):
      g = gradient(w, *batch)
      return [g[n] + mu * (w[n] - x[n]) for n in range(2)]

    return pulled

  return Data(p).averaged(weights_of(p.state.server.params), pulled_to)
