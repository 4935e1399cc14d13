"""The papers of what a run is made of."""

from fedjax_ls import algorithms, samplers
from fedjax_ls.config import Config, method_name

_REDDI = 'Reddi et al. Adaptive federated optimization. ICLR 2021.'
_HSU = (
  'Hsu et al. Measuring the effects of non-identical data distribution for '
  'federated visual classification. 2019.'
)
_ZHANG = (
  'Zhang et al. Understanding the role of layer normalization in label-skewed '
  'federated learning. TMLR 2024.'
)
SERVER_OPTIMIZERS = {
  'momentum': _HSU,
  'damped_momentum': _HSU,
  'adagrad': _REDDI,
  'adam': _REDDI,
  'yogi': _REDDI,
}
NORMS = {'fn': _ZHANG, 'ln': _ZHANG}
_EF = (
  'Karimireddy, Rebjock, Stich, Jaggi. Error feedback fixes SignSGD and other '
  'gradient compression schemes. ICML 2019.'
)
LINKS = {
  'noise': (
    'McMahan, Ramage, Talwar, Zhang. Learning differentially private '
    'recurrent language models. ICLR 2018.'
  ),
  'top_k': (
    'Stich, Cordonnier, Jaggi. Sparsified SGD with memory. NeurIPS 2018.'
  ),
  'qsgd': (
    'Reisizadeh et al. FedPAQ: a communication-efficient federated learning '
    'method with periodic averaging and quantization. AISTATS 2020.'
  ),
  'sign': _EF,
}
_YIN = (
  'Yin, Chen, Ramchandran, Bartlett. Byzantine-robust distributed learning: '
  'towards optimal statistical rates. ICML 2018.'
)
_BLANCHARD = (
  'Blanchard, El Mhamdi, Guerraoui, Stainer. Machine learning with '
  'adversaries: Byzantine tolerant gradient descent. NeurIPS 2017.'
)
REDUCTIONS = {
  'median': _YIN,
  'trimmed_mean': _YIN,
  'krum': _BLANCHARD,
  'multi_krum': _BLANCHARD,
  'geometric_median': (
    'Pillutla, Kakade, Harchaoui. Robust aggregation for federated learning. '
    'IEEE TSP 2022.'
  ),
}
ADVERSARIAL = [
  'Madry, Makelov, Schmidt, Tsipras, Vladu. Towards deep learning models '
  'resistant to adversarial attacks. ICLR 2018.',
  'Xie, Tan, Gong, Wang, Yuille, Le. Adversarial examples improve image '
  'recognition. CVPR 2020.',
]
# Methods whose papers brought what any method can have.
METHODS_OF = {
  'proximal': 'fedprox',
  'decorrelation': 'feddecorr',
  'fedlc': 'fedlc',
  'fedrs': 'fedrs',
  'fedrs_graded': 'fedrs',
  'sam': 'fedsam',
}


def references(config: Config) -> list[str]:
  """What to cite for a run: its method and the parts in use, each once.

  >>> config = Config()
  >>> config.server.optimizer = 'yogi'
  >>> references(config)[1:]
  ['Reddi et al. Adaptive federated optimization. ICLR 2021.']
  """
  found = list(algorithms.METHODS[method_name(config)].references)
  sampler = samplers.SAMPLERS[config.sampler.name].reference
  found += [sampler] if sampler else []
  for table, name in (
    (SERVER_OPTIMIZERS, config.server.optimizer),
    (NORMS, config.model.norm),
    (REDUCTIONS, config.server.reduction),
  ):
    found += [table[name]] if name in table else []
  found += [LINKS[name] for name in config.uplink.links if name in LINKS]
  found += [_EF] if config.uplink.error_feedback else []
  found += ADVERSARIAL if config.adversarial.steps else []
  parts = [*config.loss.terms, config.loss.calibration]
  parts += ['sam'] if config.client.sam else []
  for part in parts:
    if part in METHODS_OF:
      found += algorithms.METHODS[METHODS_OF[part]].references
  return list(dict.fromkeys(found))
