"""Networks, norms and their narrow versions."""

from fedjax_ls.models.base import Model, Outputs, Width
from fedjax_ls.models.conv import Conv, max_pool2, resolve_conv
from fedjax_ls.models.flax_model import flax_model
from fedjax_ls.models.nets import CNN, MLP, MODELS, make_net
from fedjax_ls.models.norms import Norm
from fedjax_ls.models.submodels import Submodels, width_submodels

__all__ = [
  'CNN',
  'MLP',
  'MODELS',
  'Conv',
  'Model',
  'Norm',
  'Outputs',
  'Submodels',
  'Width',
  'flax_model',
  'make_net',
  'max_pool2',
  'resolve_conv',
  'width_submodels',
]
