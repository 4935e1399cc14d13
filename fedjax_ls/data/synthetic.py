"""Synthetic(alpha, beta): logistic clients that differ in model and inputs."""

from typing import Any

import numpy as np

from fedjax_ls.data import checks

FEATURES, CLASSES = 60, 10
VARIANTS = ('', 'iid')


def draw(
  path: str = '',
  *,
  variant: str = '',
  alpha: float = 1.0,
  beta: float = 1.0,
  num_clients: int = 30,
  seed: int = 0,
) -> dict[str, Any]:
  """Draws the clients of `data.name = 'synthetic'` or `'synthetic:iid'`.

  Client k has `n_k = floor(L) + 50` samples with `log L ~ N(4, 2^2)`, labels
  `y = argmax(x W_k + b_k)` and inputs `x ~ N(v_k, S)`, `S_jj = j^-1.2`, where

    u_k ~ N(0, alpha^2),  W_k, b_k ~ N(u_k, 1)  each of their elements,
    B_k ~ N(0, beta^2),   v_k ~ N(B_k, 1)       likewise.

  In the iid variant W and b are one draw from N(0, 1) for all clients and
  `v_k = 0`.  The first nine tenths of a client's samples are for training.

  Args:
    path: not used.
    variant: empty or `iid`.
    alpha: how much the clients' models differ, >= 0.
    beta: how much the clients' inputs differ, >= 0.
    num_clients: number of clients, 30 in FedProx and 100 in q-FFL.
    seed: of the draw.

  Returns:
    Arrays with x `[N, 60]` float32, ten classes, and the clients.

  Raises:
    ValueError: a setting out of range.

  References:
    Li, Sahu, et al. 2018 (FedProx), https://arxiv.org/abs/1812.06127
    Li, Sanjabi, et al. 2019 (q-FFL), https://arxiv.org/abs/1905.10497

  Differs from the authors' code in: streams of our own, so other numbers; the
  papers write N(0, alpha), and alpha is the standard deviation in the code
  and here.
  """
  del path
  if variant not in VARIANTS:
    raise checks.unknown('data.name', f'synthetic:{variant}', ['synthetic:iid'])
  for name, value in (('alpha', alpha), ('beta', beta)):
    checks.require(
      0 <= value < np.inf,
      f'data.{name} = {value} is no standard deviation; choose 0 or more',
    )
  checks.require(
    num_clients >= 1,
    f'partition.num_clients = {num_clients} is impossible; choose 1 or more',
  )
  rng = np.random.RandomState(seed)
  size = np.floor(np.exp(rng.normal(4, 2, num_clients))).astype(int) + 50
  scale = np.arange(1, FEATURES + 1) ** -0.6
  if variant == 'iid':
    shared = rng.normal(0, 1, (FEATURES + 1, CLASSES))
    models = [shared] * num_clients
    means = np.zeros((num_clients, FEATURES))
  else:
    center = rng.normal(0, alpha, num_clients)
    shift = rng.normal(0, beta, num_clients)
    models = list(
      rng.normal(center[:, None, None], 1, (num_clients, FEATURES + 1, CLASSES))
    )
    means = rng.normal(shift[:, None], 1, (num_clients, FEATURES))
  splits: dict[str, list[np.ndarray]] = {
    f'{a}_{s}': [] for a in 'xy' for s in ('train', 'test')
  }
  for model, mean, n in zip(models, means, size, strict=True):
    x = mean + scale * rng.standard_normal((n, FEATURES))
    y = np.argmax(x @ model[:-1] + model[-1], 1)
    cut = 9 * n // 10
    for split, rows in (('train', slice(cut)), ('test', slice(cut, None))):
      splits[f'x_{split}'].append(x[rows].astype(np.float32))
      splits[f'y_{split}'].append(y[rows])
  owners = {
    f'client_{s}': np.repeat(
      np.arange(num_clients), [len(y) for y in splits[f'y_{s}']]
    )
    for s in ('train', 'test')
  }
  joined = {name: np.concatenate(parts) for name, parts in splits.items()}
  return {**joined, **owners, 'num_classes': CLASSES}
