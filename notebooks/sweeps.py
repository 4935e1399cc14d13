# %% [markdown]
# # Sweeps on TPU and GPU
#
# A study is many settings and seeds. Those that differ in numbers, seeds or
# clients are one compiled program, vectorized over points and spread over all
# devices; each point still gets the files of a single run. The same from the
# command line is `python -m experiments.sweep`.

# %%
import os

import jax
import matplotlib.pyplot  # noqa: F401  Jupyter then shows figures

import fedjax_ls as fl
from fedjax_ls import config, report, study, sweep
from fedjax_ls.train import use_compilation_cache

use_compilation_cache()  # the next run compiles less
QUICK = os.environ.get('FEDJAX_LS_QUICK') == '1'
ROUNDS = 4 if QUICK else 100
SEEDS = (0, 1) if QUICK else (0, 1, 2)
RATES = (0.03, 0.3) if QUICK else (0.01, 0.03, 0.1, 0.3, 1.0)
WORKDIR = 'runs/quick_sweep' if QUICK else 'runs/sweep'
print(jax.devices())

# %% [markdown]
# ## The study
#
# A base configuration, and what varies. A tenth of the training data is kept
# apart: learning rates and rounds are chosen on it, and the test set only
# reports.

# %%
base = fl.Config(
  rounds=ROUNDS,
  eval_every=max(ROUNDS // 10, 1),
  data=config.Data('digits', validation=0.1),
  partition=config.Partition(
    'dirichlet', num_clients=10, alpha=0.1, min_size=8
  ),
  client=fl.Client(batch_size=32, amount=10),
)
points = sweep.points(
  base,
  sweep.product(
    sweep.axis('model.norm', ('none', 'ln')),
    sweep.axis('client.learning_rate', RATES),
    sweep.axis('seed', SEEDS),
  ),
)
print(len(points), 'points, such as', points[0].name)

# %% [markdown]
# What would happen: which axes share a program and why, what is padded, memory
# and time. `devices=0` takes all devices of this machine.

# %%
options = sweep.Options(devices=0)
for line in sweep.dry_run(points, WORKDIR, options):
  print(line)

# %% [markdown]
# ## Run it
#
# The same call continues an interrupted study, does nothing for a finished
# one, and runs only what is new of a larger one. A point that diverges is
# marked and stops nobody else.

# %%
done = sweep.run(points, WORKDIR, options)
print({name: len(members) for name, members in done.items()})

# %% [markdown]
# On several machines each runs `sweep.share(points, index, of)`, and the
# folders are copied together.
#
# ## What came out

# %%
records = study.read(WORKDIR)
cells = report.cells(
  records, rows={'no norm': {'model.norm': 'none'}, 'LN': {'model.norm': 'ln'}}
)
print(report.tables.markdown(report.results(cells)))
print()
print(report.tables.markdown(report.differences(cells, 'no norm')))

# %%
curves = {c.row: report.sensitivity(c, 'client.learning_rate') for c in cells}
report.draw(curves, 'no norm', 'client learning rate', log=True)

# %%
curves = {cell.row: report.learning_curve(cell) for cell in cells}
report.draw(curves, 'no norm', 'round')

# %% [markdown]
# One page with all of it, which opens from disk:

# %%
for path in report.write('Norms', report.sections(cells), f'{WORKDIR}/report'):
  print(path)
