"""Networks, norms and their narrow versions."""

from fedjax_ls.models.base import Model, Outputs, Width
from fedjax_ls.models.batch_stats import (
  batch_norm_params,
  query_stats,
  recompute_stats,
)
from fedjax_ls.models.conv import Conv, max_pool2, resolve_conv
from fedjax_ls.models.convnets import PflCNN, PooledCNN
from fedjax_ls.models.dual_norm import dual_norm, mixed_norms
from fedjax_ls.models.exits import ExitCNN, ExitMLP, ExitResNet, with_exits
from fedjax_ls.models.flax_model import flax_model
from fedjax_ls.models.mobilenet import MobileNetV2
from fedjax_ls.models.nets import CNN, MLP
from fedjax_ls.models.norms import Norm
from fedjax_ls.models.registry import (
  MODELS,
  import_module,
  make_net,
  options_of,
)
from fedjax_ls.models.resnet import PreResNet, ResNet
from fedjax_ls.models.submodels import (
  Submodels,
  cut_out,
  depth_submodels,
  width_submodels,
)
from fedjax_ls.models.text import LSTM, Transformer

__all__ = [
  'CNN',
  'LSTM',
  'MLP',
  'MODELS',
  'Conv',
  'ExitCNN',
  'ExitMLP',
  'ExitResNet',
  'MobileNetV2',
  'Model',
  'Norm',
  'Outputs',
  'PflCNN',
  'PooledCNN',
  'PreResNet',
  'ResNet',
  'Submodels',
  'Transformer',
  'Width',
  'batch_norm_params',
  'cut_out',
  'depth_submodels',
  'dual_norm',
  'flax_model',
  'import_module',
  'make_net',
  'max_pool2',
  'mixed_norms',
  'options_of',
  'query_stats',
  'recompute_stats',
  'resolve_conv',
  'width_submodels',
  'with_exits',
]
