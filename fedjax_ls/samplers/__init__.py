"""Who takes part in a round."""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_ls import hyper
from fedjax_ls.models.base import Model
from fedjax_ls.samplers import availability
from fedjax_ls.samplers.availability import (
  dropping_out,
  of_tiers,
  when_available,
)
from fedjax_ls.samplers.facility import divfl
from fedjax_ls.samplers.guided import oort
from fedjax_ls.samplers.plain import everyone, proportional, uniform
from fedjax_ls.samplers.power import cpow_d, pow_d, rpow_d
from fedjax_ls.types import Sampler

__all__ = [
  'SAMPLERS',
  'Kind',
  'cpow_d',
  'divfl',
  'dropping_out',
  'everyone',
  'make',
  'of_tiers',
  'oort',
  'pow_d',
  'proportional',
  'rpow_d',
  'uniform',
  'when_available',
]


class Kind(NamedTuple):
  """A sampler that a configuration can name.

  Attributes:
    build: `(settings, model) -> Sampler`; reads structure only, never a
      number: those come with `hyper.sampler`.
    reads: the fields of the settings that it or its sampler reads, beside
      `tiers`, `dropout` and `availability`, which are for all.
    reference: the paper, empty for none.
  """

  build: Callable[[hyper.Sampler, Model], Sampler]
  reads: tuple[str, ...] = ()
  reference: str = ''


_CHO = (
  'Cho, Wang, Joshi. Towards understanding biased client selection in '
  'federated learning. AISTATS 2022.'
)
_POWER = ('cohort_size', 'candidates', 'size_exponent')

SAMPLERS = {
  'everyone': Kind(lambda s, model: everyone()),
  'uniform': Kind(lambda s, model: uniform(s.cohort_size), ('cohort_size',)),
  'proportional': Kind(
    lambda s, model: proportional(s.cohort_size), ('cohort_size',)
  ),
  'pow_d': Kind(
    lambda s, model: pow_d(s.cohort_size, s.candidates, model), _POWER, _CHO
  ),
  'cpow_d': Kind(
    lambda s, model: cpow_d(s.cohort_size, s.candidates, model), _POWER, _CHO
  ),
  'rpow_d': Kind(
    lambda s, model: rpow_d(s.cohort_size, s.candidates), _POWER, _CHO
  ),
  'divfl': Kind(
    lambda s, model: divfl(
      s.cohort_size,
      model,
      gradients=s.gradients,
      sketch_size=s.sketch_size,
      refresh=s.refresh,
      subset=s.subset,
    ),
    ('cohort_size', 'gradients', 'sketch_size', 'refresh', 'subset'),
    'Balakrishnan, Li, Zhou, Himayat, Smith, Bilmes. Diverse client selection '
    'for federated learning via submodular maximization. ICLR 2022.',
  ),
  'oort': Kind(
    lambda s, model: oort(s.cohort_size, model, pacer_window=s.pacer_window),
    (
      'cohort_size',
      'exploration',
      'exploration_decay',
      'exploration_floor',
      'cutoff',
      'straggler_penalty',
      'pacer_start',
      'pacer_step',
      'pacer_window',
    ),
    'Lai, Zhu, Madhyastha, Chowdhury. Oort: efficient federated learning via '
    'guided participant selection. OSDI 2021.',
  ),
}


def make(settings: hyper.Sampler, model: Model) -> Sampler:
  """The sampler that `settings` name.

  Args:
    settings: structure is read here, numbers come with `hyper.sampler`.
    model: the network, for samplers that ask for losses or gradients.

  Raises:
    ValueError: the file `availability` is not as it should be.
  """
  who = SAMPLERS[settings.name].build(settings, model)
  if settings.tiers:
    who = of_tiers(who, settings.tiers)
  trace, dropout = None, None
  if settings.availability:
    trace, dropout = availability.read(settings.availability)
  if trace is not None:
    who = when_available(who, trace)
  return dropping_out(who, dropout)
