"""The model of a run's folder, as arrays in memory and in one file."""

import dataclasses
import os
import pathlib
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_ls import algorithms, build, models, samplers, samples
from fedjax_ls import config as config_lib
from fedjax_ls.checkpoint import Checkpoints
from fedjax_ls.config import Config, ConfigError
from fedjax_ls.data import Dataset, Federation
from fedjax_ls.models.base import Model
from fedjax_ls.models.submodels import with_module
from fedjax_ls.networks import Networks, networks
from fedjax_ls.types import Algorithm
from fedjax_ls.writers import Folder

Tree = Any
FILES = ('.npz', '.safetensors')


class Loaded(NamedTuple):
  """A model as a run left it.

  Attributes:
    model: the network, its loss and metrics.
    variables: `{'params': tree, 'stats': tree}` of NumPy arrays;
      `model.apply(**variables, x=x)` gives `(Outputs, stats)` for a batch `x`
      as the data have it (images in uint8).
    config: of the run.
  """

  model: Model
  variables: dict[str, Tree]
  config: Config


class _Parts(NamedTuple):
  """What a folder says without its checkpoints."""

  config: Config
  dataset: Dataset
  nets: Networks
  method: algorithms.Method
  settings: Any
  algorithm: Algorithm


def load(workdir: str | os.PathLike, tier: int | None = None) -> Loaded:
  """The global model of a run, or of a study's point, as it is judged.

  It is that of the newest checkpoint that can be read, and comes without the
  data of the run, unless its statistics are those of all training examples
  (HeteroFL with BatchNorm).  Of a method whose clients use models of their own
  it is the server's: for FedBN the parameters that are shared, for IFCA the
  first cluster's model.

  Args:
    workdir: folder of the run; also while the run goes on.
    tier: whose small network is cut out, as `models.cut_out` does and the
      metrics named `@rate` judge; None for the whole network.

  Returns:
    `(model, variables, config)`.

  Raises:
    ConfigError: the folder holds no run, no checkpoint or damaged ones, its
      data are needed and missing, or there is no such tier.
  """
  path = pathlib.Path(workdir)
  parts, stored = _parts(path, tier)
  numbers = build.numbers(parts.config)
  clients = _clients(parts.dataset, stored['partition']['num_clients'])
  key = jax.random.key(0)
  like, _ = jax.eval_shape(parts.algorithm.init, numbers, key, clients)
  server = config_lib.as_config_error(server_of, path / 'checkpoints', like)
  if tier is None:
    model = parts.algorithm.network or parts.nets.model
    weights = _whole(parts, numbers, server, stored)
  else:
    model, weights = _narrow(parts, numbers, server, stored, tier)
  params, stats = jax.tree.map(np.asarray, weights)
  return Loaded(model, {'params': params, 'stats': stats}, parts.config)


def server_of(folder: pathlib.Path, like: Tree) -> Tree:
  """The server's state of the newest checkpoint that can be read.

  Args:
    folder: of the checkpoints.
    like: a server's state of the same run, or its shapes and types.

  Returns:
    The state, of NumPy arrays; a warning names each damaged checkpoint.

  Raises:
    ValueError: there is no checkpoint, none can be read, or it is not like
      that.
  """
  if not folder.is_dir():
    raise ValueError(f'{folder.parent} has no checkpoints; run it first')
  checkpoints = Checkpoints(folder, read_only=True)
  try:
    found = checkpoints.newest_readable(
      lambda step: checkpoints.restore_server(step, like),
      lambda _, error: warnings.warn(f'{error}; it is left out', stacklevel=4),
    )
  finally:
    checkpoints.close()
  if found is None:
    raise ValueError(f'{folder} holds no complete checkpoint; run it first')
  return found[1]


def write(variables: dict[str, Tree], out: str | os.PathLike) -> pathlib.Path:
  """Writes arrays to one file, named such as `params/dense0/kernel`.

  Args:
    variables: of `load`.
    out: the file, whose ending says the format: `.npz` or `.safetensors`.

  Returns:
    The file.

  Raises:
    ConfigError: the ending is another, the file cannot be written, or the
      package safetensors is missing.
  """
  path = pathlib.Path(out)
  if path.suffix not in FILES:
    raise ConfigError(
      f'out = {out} has no known ending; write a file that ends in '
      f'{" or ".join(FILES)}'
    )
  save = _save_safetensors if path.suffix == '.safetensors' else _save_npz
  new = path.with_name(f'.{path.name}.new')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    save(new, named(variables))
    new.replace(path)
  except OSError as error:
    raise ConfigError(
      f'out = {out} cannot be written ({error.strerror}); give a file that '
      'you may write to'
    ) from error
  return path


def named(tree: Tree) -> dict[str, np.ndarray]:
  """The arrays of a tree by their path.

  >>> named({'params': {'dense0': {'bias': np.zeros(2)}}, 'stats': {}})
  {'params/dense0/bias': array([0., 0.])}
  """
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _save_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
  with open(path, 'wb') as file:
    np.savez(file, **arrays)  # type: ignore[arg-type]


def _save_safetensors(
  path: pathlib.Path, arrays: dict[str, np.ndarray]
) -> None:
  try:
    from safetensors.numpy import save
  except ImportError as error:
    raise ConfigError(
      'out ends in .safetensors, which needs the package safetensors; '
      "install it with pip install 'fedjax_ls[safetensors]', or write .npz"
    ) from error
  # It writes the memory as it lies.
  path.write_bytes(
    save({k: np.ascontiguousarray(a) for k, a in arrays.items()})
  )


def _parts(
  path: pathlib.Path, tier: int | None
) -> tuple[_Parts, dict[str, Any]]:
  """What a folder consists of, and its `config.json`."""
  stored = _stored(path)
  config = config_lib.from_dict(stored['config'])
  # Runs of earlier versions do not tell what their data are like.
  told = 'x' in stored['data']
  dataset = (
    samples.of_kind(stored['data']) if told else samples.read(config).dataset
  )
  lowering = models.resolve_conv(config.execution.conv, jax.default_backend())
  nets = config_lib.as_config_error(networks, config, dataset, lowering)
  if tier is not None:
    _check_tier(config, nets, tier)
  settings = config.algorithm
  if tier is not None and hasattr(settings, 'every_width'):
    settings = dataclasses.replace(settings, every_width=True)
  method = algorithms.METHODS[config_lib.method_name(config)]
  algorithm = method.build(settings, _made(nets, nets.model))
  parts = _Parts(config, dataset, nets, method, settings, algorithm)
  return parts, stored


def _made(nets: Networks, model: Model) -> algorithms.Parts:
  """What a method is built from; who takes part is no part of a model."""
  return algorithms.Parts(model, samplers.everyone(), 1, nets.submodels)


def _stored(path: pathlib.Path) -> dict[str, Any]:
  """Content of `config.json`."""
  if (path / 'points').is_dir():
    raise ConfigError(
      f'{path} is the folder of a study; give one of its points, such as '
      f'{next(iter(sorted((path / "points").iterdir())), path / "points")}'
    )
  if not (path / 'config.json').is_file():
    raise ConfigError(f'{path} has no config.json; give the folder of a run')
  return config_lib.as_config_error(Folder(path).read, 'config.json')


def _check_tier(config: Config, nets: Networks, tier: int) -> None:
  if nets.submodels is None:
    raise ConfigError(
      f'tier = {tier} but method {config_lib.method_name(config)} trains one '
      'width only; leave the tier out'
    )
  rates = nets.submodels.rates
  if not 0 <= tier < len(rates):
    raise ConfigError(
      f'tier = {tier} is none of the {len(rates)} of this run; choose 0 to '
      f'{len(rates) - 1}, for the rates {", ".join(map(str, rates))}'
    )


def _clients(dataset: Dataset, num_clients: int) -> Federation:
  """The shapes of a federation, as far as a server's state depends on them."""
  count = (num_clients,)
  return Federation(
    x=jax.ShapeDtypeStruct(dataset.x_train.shape, dataset.x_train.dtype),
    y=jax.ShapeDtypeStruct(dataset.y_train.shape, dataset.y_train.dtype),
    index=jax.ShapeDtypeStruct((num_clients, 1), jnp.int32),
    size=jax.ShapeDtypeStruct(count, jnp.int32),
    labels=jax.ShapeDtypeStruct((num_clients, dataset.num_classes), jnp.int32),
    tier=jax.ShapeDtypeStruct(count, jnp.int32),
  )


def _whole(
  parts: _Parts, numbers: Any, server: Tree, stored: dict[str, Any]
) -> tuple[Tree, Tree]:
  """The global model as it is judged, `(params, stats)`."""
  algorithm = parts.algorithm
  if algorithm.ready is None:
    return algorithm.model(server)
  federation = _federation(parts.config, stored)
  with jax.default_matmul_precision(parts.config.execution.precision):
    return jax.jit(algorithm.ready)(numbers, server, federation)


def _narrow(
  parts: _Parts,
  numbers: Any,
  server: Tree,
  stored: dict[str, Any],
  tier: int,
) -> tuple[Model, tuple[Tree, Tree]]:
  """The small network of a tier and its `(params, stats)`."""
  submodels, algorithm = parts.nets.submodels, parts.algorithm
  assert submodels is not None
  params, stats = algorithm.model(server)
  shapes = [jax.tree.map(np.shape, t) for t in (params, submodels.shapes[0])]
  if shapes[0] != shapes[1]:
    raise ConfigError(
      f'tier = {tier} but the model of this run is an ensemble, which holds no '
      'network of a tier; leave the tier out'
    )
  if submodels.rates[tier] == 1:
    model = algorithm.network or parts.nets.model
    return model, _whole(parts, numbers, server, stored)
  small = with_module(parts.nets.model, submodels.module(tier))
  # An ensemble of exits is one of those that the small network has.
  rebuilt = parts.method.build(parts.settings, _made(parts.nets, small))
  model = rebuilt.network or small
  rate = parts.method.slim_rates(parts.settings)[tier]
  judged = {v.name: v.weights for v in algorithm.variants}.get(rate)
  if judged is None or not submodels.shapes[1]:
    return model, (
      submodels.slim(params, tier),
      submodels.slim_stats(stats, tier),
    )
  needs_data = algorithm.ready is not None
  federation = _federation(parts.config, stored) if needs_data else None
  with jax.default_matmul_precision(parts.config.execution.precision):
    return model, jax.jit(judged)(numbers, server, federation)


def _federation(config: Config, stored: dict[str, Any]) -> Federation:
  """The training data, which the statistics are computed from."""
  try:
    made = build.plan(config, stored['resolved'])
  except ConfigError as error:
    raise ConfigError(
      'the statistics of this model are those of all training examples, which '
      f'cannot be read: {error}'
    ) from error
  if made.samples.partition.hash != stored['partition']['hash']:
    raise ConfigError(
      'the statistics of this model are those of all training examples, which '
      'changed since the run; restore them'
    )
  return made.job.federation
