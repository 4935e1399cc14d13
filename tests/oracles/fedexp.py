"""fedexp, one client and one step at a time."""

from tests.oracles.base import ROUNDS, Data, mean, weights_of


def iterates(p):
  """The server's model after each round, and the server's step sizes."""
  d, w = Data(p), weights_of(p.state.server.params)
  models, sizes = [], []
  for t in range(ROUNDS):
    ids = d.cohort(t)
    weights = [d.weight(i) for i in ids]
    ends = [d.train(w, t, i)[0] for i in ids]
    changes = [[end[n] - w[n] for n in range(2)] for end in ends]
    whole = mean(changes, weights)
    squares = [sum((v**2).sum() for v in change) for change in changes]
    square = sum(k * s for k, s in zip(weights, squares, strict=True))
    e = float(p.hyper.method.eps)
    if p.hyper.method.form == 'code':
      e *= len(ids) * (d.lr[t] / d.lr[0]) ** 2
    below = 2 * (sum((v**2).sum() for v in whole) + e)
    sizes.append(max(1.0, square / sum(weights) / below))
    w = [w[n] + sizes[-1] * whole[n] for n in range(2)]
    models.append(w)
  return models, sizes


def oracle(p):
  return iterates(p)[0][-1]
