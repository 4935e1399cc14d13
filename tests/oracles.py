"""Each method as a plain loop in NumPy, one client and one step at a time.

The network is the toy problem's: logits = relu(x W1) W2, its gradient worked
out by hand.  Only the batches come from the package, which draws them.
"""

import jax
import numpy as np

from fedjax_ls import local

ROUNDS = 3


def weights_of(params) -> list[np.ndarray]:
  """[W1 (4, 6), W2 (6, 3)] of the toy net's parameters."""
  by_shape = {np.shape(leaf)[-2:]: leaf for leaf in jax.tree.leaves(params)}
  return [np.array(by_shape[4, 6]), np.array(by_shape[6, 3])]


def forward(w, x):
  hidden = np.maximum(x @ w[0], 0)
  logits = hidden @ w[1]
  shifted = logits - logits.max(1, keepdims=True)
  return hidden, shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def loss(w, x, y):
  return -forward(w, x)[1][np.arange(len(y)), y].mean()


def gradient(w, x, y):
  hidden, log_p = forward(w, x)
  error = (np.exp(log_p) - np.eye(3)[y]) / len(y)
  back = (error @ w[1].T) * (hidden > 0)
  return [x.T @ back, hidden.T @ error]


class Data:
  """The problem's examples, clients and batches as NumPy."""

  def __init__(self, p):
    self.x, self.y = np.asarray(p.federation.x), np.asarray(p.federation.y)
    self.index = np.asarray(p.federation.index)
    self.size = np.asarray(p.federation.size)
    self.tier = np.asarray(p.federation.tier)
    self.client, self.seed = p.hyper.client, int(p.state.seed)
    c = p.hyper.client
    self.momentum, self.decay = float(c.momentum), float(c.weight_decay)
    factor = float(c.decay) if c.schedule == 'exponential' else 1.0
    self.lr = [float(c.learning_rate) * factor**t for t in range(ROUNDS)]
    self.uniform = p.hyper.server.weights == 'uniform'
    self.cohorts = np.asarray(p.state.sampler)

  def cohort(self, t):
    return [int(i) for i in self.cohorts[t] if i < len(self.size)]

  def own(self, i):
    rows = self.index[i, : self.size[i]]
    return self.x[rows], self.y[rows]

  def weight(self, i):
    return 1.0 if self.uniform else float(self.size[i])

  def batches(self, t, i):
    key = jax.random.fold_in(jax.random.key(self.seed), t)
    key = jax.random.fold_in(jax.random.split(key)[1], i)
    key = jax.random.fold_in(jax.random.fold_in(key, 0), 0)
    per_epoch = -(-int(self.size[i]) // self.client.batch_size)
    steps = self.client.amount
    if self.client.unit == 'epochs':
      steps *= per_epoch
    for s in range(steps):
      rows, mask = local.batch(self.client, self.index[i], self.size[i], key, s)
      rows = np.asarray(rows)[np.asarray(mask)]
      yield self.x[rows], self.y[rows]

  def train(self, w, t, i, *, correction=(0.0, 0.0)):
    """Momentum SGD with weight decay; returns the weights and the steps."""
    velocity, steps = [0.0, 0.0], 0
    for x, y in self.batches(t, i):
      g = gradient(w, x, y)
      for n in range(2):
        step = g[n] + correction[n] + self.decay * w[n]
        velocity[n] = step + self.momentum * velocity[n]
      w = [w[n] - self.lr[t] * velocity[n] for n in range(2)]
      steps += 1
    return w, steps


def mean(values, weights):
  total = sum(weights)
  return [
    sum(k * v[n] for v, k in zip(values, weights, strict=True)) / total
    for n in range(len(values[0]))
  ]


def fedavg(p):
  d, w = Data(p), weights_of(p.state.server.params)
  for t in range(ROUNDS):
    ids = d.cohort(t)
    ends = [d.train(w, t, i)[0] for i in ids]
    w = mean(ends, [d.weight(i) for i in ids])
  return w


def scaffold(p):
  d, w = Data(p), weights_of(p.state.server.params)
  c = [np.zeros_like(v) for v in w]
  own = {i: [np.zeros_like(v) for v in w] for i in range(len(d.size))}
  for t in range(ROUNDS):
    ids, ends, change = d.cohort(t), [], [0.0, 0.0]
    for i in ids:
      correction = [c[n] - own[i][n] for n in range(2)]
      end, steps = d.train(w, t, i, correction=correction)
      if p.hyper.method.option == 'gradient':
        new = gradient(w, *d.own(i))
      else:
        new = [
          own[i][n] - c[n] + (w[n] - end[n]) / (steps * d.lr[t])
          for n in range(2)
        ]
      change = [change[n] + new[n] - own[i][n] for n in range(2)]
      own[i] = new
      ends.append(end)
    w = mean(ends, [d.weight(i) for i in ids])
    c = [c[n] + change[n] / len(d.size) for n in range(2)]
  return w


def fedga(p):
  d, w = Data(p), weights_of(p.state.server.params)
  beta = float(p.hyper.method.beta)
  for t in range(ROUNDS):
    ids = d.cohort(t)
    weights = [d.weight(i) for i in ids]
    own = [gradient(w, *d.own(i)) for i in ids]
    g = mean(own, weights)
    ends = []
    for i, gi in zip(ids, own, strict=True):
      start = [w[n] - beta * (g[n] - gi[n]) for n in range(2)]
      ends.append(d.train(start, t, i)[0])
    w = mean(ends, weights)
  return w


def ifca(p):
  d, settings = Data(p), p.hyper.method
  stacked = weights_of(p.state.server.params)
  models = [[v[m] for v in stacked] for m in range(settings.clusters)]
  for t in range(ROUNDS):
    ids = d.cohort(t)
    members = [[] for _ in models]
    for i in ids:
      losses = [loss(w, *d.own(i)) for w in models]
      members[int(np.argmin(losses))].append(i)
    for j, mine in enumerate(members):
      if not mine:
        continue
      w = models[j]
      if settings.option == 'gradients':
        grads = [gradient(w, *d.own(i)) for i in mine]
        models[j] = [
          w[n] - d.lr[t] / len(ids) * sum(g[n] for g in grads) for n in range(2)
        ]
      else:
        ends = [d.train(w, t, i)[0] for i in mine]
        models[j] = mean(ends, [d.weight(i) for i in mine])
  return [np.stack([w[n] for w in models]) for n in range(2)]


def width(p):
  d, w = Data(p), weights_of(p.state.server.params)
  kept = {'1': 6, '1/2': 3, '1/4': 2}
  channels = [kept[rate] for rate in p.hyper.method.rates]
  for t in range(ROUNDS):
    top = [np.zeros_like(v) for v in w]
    bottom = [np.zeros_like(v) for v in w]
    for i in d.cohort(t):
      c, weight = channels[d.tier[i]], d.weight(i)
      end, _ = d.train([w[0][:, :c], w[1][:c]], t, i)
      top[0][:, :c] += weight * end[0]
      top[1][:c] += weight * end[1]
      bottom[0][:, :c] += weight
      bottom[1][:c] += weight
    w = [
      np.where(bottom[n] > 0, top[n] / np.maximum(bottom[n], 1), w[n])
      for n in range(2)
    ]
  return w


ORACLES = {
  'fedavg': fedavg,
  # The toy net has no BatchNorm.
  'fedbn': fedavg,
  'fedga': fedga,
  'ifca': ifca,
  'scaffold': scaffold,
  'width': width,
}
