# Installs fedjax_ls where it is missing.  A jax that fits is kept, because it
# matches the accelerator of this machine.
import importlib.metadata
import importlib.util
import re
import subprocess
import sys

# What pip installs, such as git+https://... or file:///...
SOURCE = ''

if importlib.util.find_spec('fedjax_ls') is None:
  try:
    jax_version = importlib.metadata.version('jax')
  except importlib.metadata.PackageNotFoundError:
    jax_version = '0.10'
    keep = []
  else:
    keep = [f'jax=={jax_version}']
  release = tuple(map(int, re.findall(r'\d+', jax_version)[:2]))
  if not (0, 10) <= release < (0, 12):
    raise RuntimeError(
      f'jax is {jax_version} here but fedjax_ls needs jax>=0.10,<0.12; run '
      "%pip install -U 'jax[cuda12]>=0.10,<0.12' (jax[tpu] on a TPU, jax on a "
      'CPU), restart the runtime and run this cell again'
    )
  if not SOURCE:
    raise RuntimeError(
      'fedjax_ls is not installed and SOURCE is empty; set SOURCE to '
      'file:// and the folder of a checkout'
    )
  wanted = [f'fedjax_ls[run] @ {SOURCE}', *keep]
  subprocess.check_call([sys.executable, '-m', 'pip', 'install', *wanted])
  importlib.invalidate_caches()
  print('installed fedjax_ls,', *keep or ['jax'], 'kept' if keep else 'new')
