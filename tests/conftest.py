"""Strict settings for the whole suite."""

import os
import pathlib
from importlib import metadata

# Before JAX starts: several devices on one CPU, so that meshes are tested, and
# programs that compile in two fifths of the time, since most run for
# milliseconds.  XLA ends at flags that it does not know.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=4',
    '--xla_backend_optimization_level=0',
    '--xla_cpu_use_fusion_emitters=false'
    if metadata.version('jaxlib').startswith('0.10.')
    else '',
  ]
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax
import pytest

_CACHE = pathlib.Path(__file__).parent.parent / '.cache' / 'jax-tests'
jax.config.update('jax_compilation_cache_dir', str(_CACHE))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def x64():
  """Runs the test in 64-bit precision."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope='module', autouse=True)
def forgotten_programs():
  """Frees a file's compiled programs, which together take many gigabytes."""
  yield
  jax.clear_caches()
