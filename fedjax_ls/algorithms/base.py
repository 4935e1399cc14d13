"""What a method's file offers, and the parts it is built from."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fedjax_ls.cost import Cost, Traffic, one_model
from fedjax_ls.data.checks import require
from fedjax_ls.models.base import Model
from fedjax_ls.models.submodels import Submodels
from fedjax_ls.rules import Rule
from fedjax_ls.types import Algorithm, Sampler


class Parts(NamedTuple):
  """What every method is built from.

  Attributes:
    model: the network and its loss.
    sampler: who takes part.
    unroll: local steps unrolled into one loop body.
    submodels: the slim versions of `model`, one a tier; None when every
      client trains all of it.
  """

  model: Model
  sampler: Sampler
  unroll: int = 1
  submodels: Submodels | None = None


class Identity(NamedTuple):
  """A special case in which one method is exactly another.

  It holds with everybody taking part, for any model and, unless
  `every_class`, any data.

  Attributes:
    settings: the method's settings in that case.
    other: name of the method it then equals.
    other_settings: that method's settings.
    client: fields of `hyper.client` that the case needs.
    server: fields of `hyper.server` that the case needs.
    other_server: fields of `hyper.server` that the other method needs, too.
    rounds: for how many rounds it holds.
    every_class: whether every client must have examples of every class.
  """

  settings: Any
  other: str
  other_settings: Any
  client: dict[str, Any] = {}  # noqa: RUF012
  server: dict[str, Any] = {}  # noqa: RUF012
  other_server: dict[str, Any] = {}  # noqa: RUF012
  rounds: int = 3
  every_class: bool = False


class Method(NamedTuple):
  """A method of federated learning; each file defines one as `METHOD`.

  Attributes:
    name: what the command line calls it; the file's name.
    settings: dataclass of its numbers, decorated with `hyper.traced`.
    build: `(settings, Parts) -> Algorithm`; reads structure only, never a
      number: those come with `hyper.method`.
    references: the papers, one a line.
    toy: settings for the contract test.
    identity: a special case that is another method; None for FedAvg, which
      the others come down to.
    needs_submodels: whether `Parts.submodels` must be given.
    slim_rates: `(settings) -> rates` of those, one a tier.
    shallow: whether those are of several depths, not widths.
    needs_exits: whether the network must have a classifier a stage.
    adversarial: whether clients may train on attacked examples, too: all that
      they do to the model is `local_sgd`, and it is one for all.
    ranges: of the settings' numbers, `{field: rule}`; see `fedjax_ls.rules`.
    check: `(Config) -> None`, raises `ValueError` with one sentence where the
      rest of a configuration makes no sense with the method.
    costs: `(settings, costs) -> costs`, what a client of each tier spends on
      an example and a model, from the costs of the tiers' networks.
    traffic: `(settings, tier, params, stats) -> Traffic`, what a client of a
      tier receives and sends in a round, from the shapes of its network.
  """

  name: str
  settings: type
  build: Callable[[Any, Parts], Algorithm]
  references: tuple[str, ...]
  toy: Any
  identity: Identity | None
  needs_submodels: bool = False
  slim_rates: Callable[[Any], tuple[str, ...]] = lambda settings: settings.rates
  shallow: bool = False
  needs_exits: bool = False
  adversarial: bool = False
  ranges: dict[str, Rule] = {}  # noqa: RUF012
  check: Callable[[Any], None] = lambda config: None
  costs: Callable[[Any, tuple[Cost, ...]], tuple[Cost, ...]] = (
    lambda settings, costs: costs
  )
  traffic: Callable[[Any, int, Any, Any], Traffic] = one_model


def has_term(name: str) -> Callable[[Any], None]:
  """`Method.check` of a method that has the term `name` itself."""

  def check(config) -> None:
    require(
      name not in config.loss.terms,
      f'loss.terms = {config.loss.terms!r} repeats the term {name!r} of '
      f'method {_method(config)}; leave it out',
    )

  return check


def steps_unless(*options: str) -> Callable[[Any], None]:
  """`Method.check` of a method without local steps under some options."""

  def check(config) -> None:
    option = config.algorithm.option
    require(
      option not in options or not config.client.partial_work,
      f'client.partial_work = True does not fit algorithm.option = {option!r}, '
      'under which clients take no local steps to leave out; set it to false',
    )

  return check


def has_calibration(config) -> None:
  """`Method.check` of a method that calibrates logits itself."""
  require(
    config.loss.calibration == 'none',
    f'loss.calibration = {config.loss.calibration!r} does not go with method '
    f'{_method(config)}, which calibrates logits itself; use none',
  )
  require(
    config.model.loss == 'cross_entropy',
    f'model.loss = {config.model.loss!r} has no classes, by which method '
    f'{_method(config)} calibrates logits; use cross_entropy or another method',
  )


def _method(config) -> str:
  """Its name: that of the class of its settings, in small letters."""
  return type(config.algorithm).__name__.lower()
