"""fedga, one client and one step at a time."""

from tests.oracles import base
from tests.oracles.base import ROUNDS, Data, mean, weights_of


def moved(w, v):
  return [a + b for a, b in zip(w, v, strict=True)]


def shifted(gradient, v):
  """The gradient, taken v away."""
  return lambda w, x, y: gradient(moved(w, v), x, y)


def oracle(p, gradient_of=lambda w, i: base.gradient):
  """`gradient_of(w, i)` is of client i's objective, w the server's model."""
  d, w = Data(p), weights_of(p.state.server.params)
  beta = float(p.hyper.method.beta)
  for t in range(ROUNDS):
    ids = d.cohort(t)
    weights = [d.weight(i) for i in ids]
    own = [gradient_of(w, i)(w, *d.own(i)) for i in ids]
    g = mean(own, weights)
    ends = []
    for i, gi in zip(ids, own, strict=True):
      v = [beta * (gi[n] - g[n]) for n in range(2)]
      gradient = gradient_of(w, i)
      if p.hyper.method.displace == 'model':
        ends.append(d.train(moved(w, v), t, i, gradient=gradient)[0])
      else:
        there = shifted(gradient, v)
        ends.append(d.train(w, t, i, gradient=there)[0])
    w = mean(ends, weights)
  return w
