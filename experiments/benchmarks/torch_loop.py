"""The rival: federated averaging as a plain PyTorch loop, written with care.

One model is reused for all clients, the average is a running sum, examples
are tensors in memory, a client's epoch is gathered once, and gradients are
applied by `torch._foreach` operations.  The number of threads and the memory
format are those that run fastest here.
"""

import itertools
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Order = Callable[[int, int], np.ndarray]


def cifar10_cnn(dropout=(0.25, 0.5)) -> nn.Module:
  """The twin of `fedjax_ls.models.PflCNN`."""
  return nn.Sequential(
    nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
    nn.MaxPool2d(2), nn.Dropout(dropout[0]), nn.Flatten(),
    nn.Linear(12544, 128), nn.ReLU(), nn.Dropout(dropout[1]),
    nn.Linear(128, 10),
  )  # fmt: skip


def femnist_ragged() -> nn.Module:
  """The twin of `fedjax_ls.models.convnets.femnist_cnn`."""
  return nn.Sequential(
    nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 62),
  )  # fmt: skip


def mnist_lr() -> nn.Module:
  """Multinomial logistic regression."""
  return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def small_cnn() -> nn.Module:
  """The twin of a small `fedjax_ls.models.PflCNN`, without dropout."""
  return nn.Sequential(
    nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(),
    nn.Linear(2304, 32), nn.ReLU(), nn.Linear(32, 10),
  )  # fmt: skip


NETS: dict[str, Callable[..., nn.Module]] = {
  'cifar10_cnn': cifar10_cnn,
  'femnist_ragged': femnist_ragged,
  'mnist_lr': mnist_lr,
  'small_cnn': small_cnn,
}


class Loop:
  """Federated averaging, one client after the other.

  Args:
    net: the network.
    x: `[N, H, W, C]` uint8 images.
    y: `[N]` labels.
    parts: rows of every client.
    batch_size: examples a step; the last batch of an epoch may be short.
    epochs: passes over a client's rows a round.
    learning_rate: of plain SGD.
    order: `(client, epoch) -> permutation` of a client's rows; random when
      None.
  """

  def __init__(
    self,
    net: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    parts: Sequence[np.ndarray],
    *,
    batch_size: int,
    epochs: int,
    learning_rate: float,
    order: Order | None = None,
  ):
    self.x = torch.from_numpy(x).permute(0, 3, 1, 2).float().div_(255)
    self.y = torch.from_numpy(np.asarray(y, np.int64))
    self.parts = [torch.from_numpy(np.asarray(p, np.int64)) for p in parts]
    self.batch_size, self.epochs = batch_size, epochs
    self.learning_rate, self.order = learning_rate, order
    self.net = net.train()
    self.params: list[torch.Tensor] = list(net.parameters())
    self.steps = self.examples = 0

  def use(self, threads: int, channels_last: bool) -> None:
    """Sets the number of threads and the memory format."""
    torch.set_num_threads(threads)
    layouts = torch.contiguous_format, torch.channels_last
    layout = layouts[channels_last]
    self.x = self.x.contiguous(memory_format=layout)
    self.net = self.net.to(memory_format=layout)  # type: ignore[call-overload]

  def tune(self, client: int) -> None:
    """Keeps the setting in which `client` trains fastest, of three tries."""
    start = [p.detach().clone() for p in self.params]
    images = any(isinstance(m, nn.Conv2d) for m in self.net.modules())
    seconds = {}
    for setting in itertools.product({1, os.cpu_count() or 1}, {False, images}):
      self.use(*setting)
      self._train(client)
      seconds[setting] = min(_timed(self._train, client) for _ in range(3))
    self.use(*min(seconds, key=seconds.__getitem__))
    self.load(start)

  def round(self, cohort: Sequence[int]) -> None:
    """One round; the model becomes the average weighted by sizes."""
    start = [p.detach().clone() for p in self.params]
    total = [torch.zeros_like(p) for p in start]
    rows = 0
    for client in cohort:
      self.load(start)
      self._train(client)
      size = len(self.parts[client])
      with torch.no_grad():
        torch._foreach_add_(total, self.params, alpha=size)
      rows += size
    torch._foreach_div_(total, rows)
    self.load(total)

  def load(self, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
      torch._foreach_copy_(self.params, values)

  def _train(self, client: int) -> None:
    rows = self.parts[client]
    for epoch in range(self.epochs):
      if self.order is None:
        order = torch.randperm(len(rows))
      else:
        order = torch.from_numpy(self.order(client, epoch))
      own = rows[order]
      xs = self.x[own].split(self.batch_size)
      ys = self.y[own].split(self.batch_size)
      for x, y in zip(xs, ys, strict=True):
        self._step(x, y)

  def _step(self, x: torch.Tensor, y: torch.Tensor) -> None:
    loss = functional.cross_entropy(self.net(x), y)
    grads = torch.autograd.grad(loss, self.params)
    with torch.no_grad():
      torch._foreach_add_(self.params, grads, alpha=-self.learning_rate)
    self.steps += 1
    self.examples += len(y)


def _timed(function: Callable, *args) -> float:
  start = time.perf_counter()
  function(*args)
  return time.perf_counter() - start
