"""fedavg, one client and one step at a time."""

from tests.oracles.base import ROUNDS, Data, mean, weights_of


def oracle(p):
  d, w = Data(p), weights_of(p.state.server.params)
  for t in range(ROUNDS):
    ids = d.cohort(t)
    ends = [d.train(w, t, i)[0] for i in ids]
    w = mean(ends, [d.weight(i) for i in ids])
  return w
