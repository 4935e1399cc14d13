"""What the tests of wrong methods share."""

import numpy as np

from tests import oracles, toy


def error(name):
  """Largest difference from the oracle after three rounds."""
  p = toy.problem(name)
  got = oracles.weights_of(toy.run(p).server.params)
  expected = oracles.ORACLES[name](p)
  pairs = zip(got, expected, strict=True)
  return max(np.abs(a - b).max() for a, b in pairs)


def patched_server_step(monkeypatch, module, change):
  """Applies `change(server_before, server_after)` to a method's server."""
  build = module.METHOD.build

  def wrong(settings, parts):
    made = build(settings, parts)
    last = made.phases[-1]

    def step(hyper, state, *rest):
      return change(state, last.server(hyper, state, *rest))

    phases = (*made.phases[:-1], last._replace(server=step))
    return made._replace(phases=phases)

  name = module.METHOD.name
  method = module.METHOD._replace(build=wrong)
  monkeypatch.setitem(toy.algorithms.METHODS, name, method)
