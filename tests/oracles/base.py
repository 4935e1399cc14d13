"""What the oracles share: the toy problem in NumPy, its network by hand.

The network is the toy problem's: logits = relu(x W1) W2, its gradient worked
out by hand.  Only the batches come from the package, which draws them.
"""

import jax
import numpy as np

from fedjax_ls import local

ROUNDS = 3


def weights_of(params) -> list[np.ndarray]:
  """[W1 (4, 6), W2 (6, 3)] of the toy net's parameters; with more layers or
  classifiers, of the layers, then of the classifiers, shallow to deep; with
  several nets, of each, then of what they share."""
  if 'dense0' in params:
    count = sum(name.startswith('dense') for name in params)
    names = [f'dense{i}' for i in range(count)]
    names += [f'exit{i}' for i in range(count - 1) if 'exit0' in params]
    return [np.array(params[n]['kernel']) for n in (*names, 'classifier')]
  if len(params.get('own', ())) > 1:
    return list(map(np.array, jax.tree.leaves(params)))
  by_shape = {np.shape(leaf)[-2:]: leaf for leaf in jax.tree.leaves(params)}
  return [np.array(by_shape[4, 6]), np.array(by_shape[6, 3])]


def forward(w, x, scale=1.0, shift=0.0):
  """Features and log-probabilities; `scale` and `shift` act on the logits."""
  hidden = np.maximum(x @ w[0], 0)
  logits = scale * (hidden @ w[1]) + shift
  shifted = logits - logits.max(1, keepdims=True)
  return hidden, shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def loss(w, x, y):
  return -forward(w, x)[1][np.arange(len(y)), y].mean()


def gradient(w, x, y, scale=1.0, shift=0.0):
  hidden, log_p = forward(w, x, scale, shift)
  error = scale * (np.exp(log_p) - np.eye(3)[y]) / len(y)
  back = (error @ w[1].T) * (hidden > 0)
  return [x.T @ back, hidden.T @ error]


class Data:
  """The problem's examples, clients and batches as NumPy."""

  def __init__(self, p):
    self.x, self.y = np.asarray(p.federation.x), np.asarray(p.federation.y)
    self.index = np.asarray(p.federation.index)
    self.size = np.asarray(p.federation.size)
    self.labels = np.asarray(p.federation.labels)
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

  def key(self, t, i):
    key = jax.random.fold_in(jax.random.key(self.seed), t)
    key = jax.random.fold_in(jax.random.split(key)[1], i)
    return jax.random.fold_in(key, 0)

  def amount(self, t, i):
    """Steps or epochs of client i in round t, fewer for a straggler."""
    most = self.client.amount
    if not self.client.partial_work:
      return most
    late, part = jax.random.split(jax.random.fold_in(self.key(t, i), 4))
    if jax.random.uniform(late) >= self.client.stragglers:
      return most
    return int(jax.random.randint(part, (), 1, most + 1))

  def batches(self, t, i):
    key = self.key(t, i)
    per_epoch = -(-int(self.size[i]) // self.client.batch_size)
    steps = self.amount(t, i)
    if self.client.unit == 'epochs':
      steps *= per_epoch
    for s in range(steps):
      chosen = local.reshuffled(self.client, key, self.size[i], s)
      rows, mask = local.batch(
        self.client, self.index[i], self.size[i], chosen, s
      )
      rows = np.asarray(rows)[np.asarray(mask)]
      yield self.x[rows], self.y[rows]

  def train(self, w, t, i, *, correction=None, gradient=gradient):
    """Momentum SGD with weight decay; returns the weights and the steps.

    `gradient(w, x, y)` is of the client's objective on a batch.
    """
    velocity, steps = [0.0] * len(w), 0
    correction = correction or [0.0] * len(w)
    for x, y in self.batches(t, i):
      g = gradient(w, x, y)
      for n in range(len(w)):
        step = g[n] + correction[n] + self.decay * w[n]
        velocity[n] = step + self.momentum * velocity[n]
      w = [v - self.lr[t] * velocity[n] for n, v in enumerate(w)]
      steps += 1
    return w, steps

  def averaged(self, w, gradient_of):
    """All rounds of FedAvg, whose clients follow `gradient_of(w, i)`."""
    for t in range(ROUNDS):
      ids = self.cohort(t)
      ends = [self.train(w, t, i, gradient=gradient_of(w, i))[0] for i in ids]
      w = mean(ends, [self.weight(i) for i in ids])
    return w


def mean(values, weights):
  total = sum(weights)
  return [
    sum(k * v[n] for v, k in zip(values, weights, strict=True)) / total
    for n in range(len(values[0]))
  ]
