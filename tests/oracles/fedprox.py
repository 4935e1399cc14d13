"""fedprox, one client and one step at a time."""

from tests.oracles.base import Data, gradient, weights_of


def pulled_by(mu):
  """Gradients of clients that are held near x."""

  def pulled_to(x, i):
    def pulled(w, *batch):
      g = gradient(w, *batch)
      return [g[n] + mu * (w[n] - x[n]) for n in range(2)]

    return pulled

  return pulled_to


def oracle(p):
  pulled_to = pulled_by(float(p.hyper.method.mu))
  return Data(p).averaged(weights_of(p.state.server.params), pulled_to)
