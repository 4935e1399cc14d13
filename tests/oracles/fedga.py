"""fedga, one client and one step at a time."""

from tests.oracles.base import ROUNDS, Data, gradient, mean, weights_of


def oracle(p, gradient_of=lambda w, i: gradient):
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
      start = [w[n] - beta * (g[n] - gi[n]) for n in range(2)]
      end, _ = d.train(start, t, i, gradient=gradient_of(w, i))
      ends.append(end)
    w = mean(ends, weights)
  return w
