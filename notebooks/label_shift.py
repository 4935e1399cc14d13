# %% [markdown]
# # Label shift and dimensional collapse
#
# What goes wrong when each client holds few classes, in the pictures of two
# papers, on digits:
#
# - Zhang et al. Understanding the role of layer normalization in label-skewed
#   federated learning. TMLR 2024: without a norm, local training forgets the
#   classes that a client has not; feature normalization (FN) and layer
#   normalization (LN) hold against it.
# - Shi et al. Towards understanding and mitigating dimensional collapse in
#   heterogeneous federated learning. ICLR 2023: features end up in few
#   dimensions; a decorrelation term (FedDecorr) holds against it.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import fedjax_ls as fl
from fedjax_ls import config, report, study, sweep
from fedjax_ls.train import use_compilation_cache

use_compilation_cache()  # the next run compiles less
QUICK = os.environ.get('FEDJAX_LS_QUICK') == '1'
ROUNDS = 4 if QUICK else 100
RATES = (0.03, 0.3) if QUICK else (0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = (0,) if QUICK else (0, 1, 2)
WORKDIR = 'runs/notebook_label_shift'
DECORR = fl.algorithms.find('feddecorr').settings(0.1, 'code')
COLORS = report.pictures.COLORS
NORMS = {'no norm': 'none', 'LN': 'ln'}
if not QUICK:
  NORMS['FN'] = 'fn'

# %% [markdown]
# ## Accuracy against the learning rate
#
# Ten clients, one class each. Learning rates and seeds of one norm are one
# program; `sweeps` says more about that.

# %%
base = fl.Config(
  rounds=ROUNDS,
  eval_every=ROUNDS // 2,
  data=config.Data('digits', validation=0.1),
  partition=config.Partition('classes', num_clients=10, classes_per_client=1),
  client=fl.Client(batch_size=32, amount=10),
)
points = sweep.points(
  base,
  sweep.product(
    sweep.axis('model.norm', tuple(NORMS.values())),
    sweep.axis('client.learning_rate', RATES),
    sweep.axis('seed', SEEDS),
  ),
)
sweep.run(points, WORKDIR)

# %%
cells = report.cells(
  study.read(WORKDIR), rows={k: {'model.norm': v} for k, v in NORMS.items()}
)
curves = {c.row: report.sensitivity(c, 'client.learning_rate') for c in cells}
report.draw(curves, 'no norm', 'client learning rate', log=True)

# %% [markdown]
# ## What local training does
#
# After some rounds we look at what every client would make of the global
# model in the next one: `result.diagnose()` trains the clients and leaves the
# run as it is.

# %%
data = fl.data.load('digits')
parts = fl.data.classes(data.y_train, 10, 1, seed=0)
federation = fl.federate(data.x_train, data.y_train, parts.train)


def diagnose(norm='none', method='fedavg'):
  result = fl.fit(
    fl.flax_model(fl.MLP(10, norm=norm), data.x_train[:1]),
    federation,
    test=(data.x_test, data.y_test),
    method=method,
    client=fl.Client(learning_rate=0.1, batch_size=32, amount=10),
    rounds=ROUNDS,
    eval_every=ROUNDS,
  )
  print(result.history[-1])
  return result.diagnose()


found = {'FedAvg': diagnose(), 'LN': diagnose('ln')}

# %% [markdown]
# Rows are clients, columns classes. Client $k$ holds the class where its row is
# bright on the right: all else is forgotten in ten local steps.

# %%
figure, panels = plt.subplots(
  2, 2, figsize=(7.5, 6), sharex=True, sharey=True, layout='constrained'
)
for row, (label, arrays) in zip(panels, found.items(), strict=True):
  before, after = arrays['client/accuracy_before'], arrays['client/accuracy']
  for axes, when, values in zip(
    row, ('before', 'after'), (before, after), strict=True
  ):
    image = axes.imshow(values, vmin=0, vmax=1, cmap='cividis', aspect='auto')
    axes.set(title=f'{label}, {when} local training')
for axes in panels[1]:
  axes.set(xlabel='class', xticks=range(10))
for axes in panels[:, 0]:
  axes.set(ylabel='client', yticks=range(10))
figure.colorbar(image, ax=panels, label='test accuracy of a class')
plt.show()

# %% [markdown]
# ## Dimensional collapse
#
# Singular values of the covariance of the features on the test set, largest
# first: where the curve falls early, few directions are left in use. The
# effective rank says so in one number.

# %%
found['FedDecorr'] = diagnose(method=DECORR)
figure, panels = plt.subplots(
  1, 2, figsize=(9, 3.6), sharey=True, layout='constrained'
)
for color, (label, arrays) in zip(COLORS, found.items(), strict=False):
  clients = np.maximum(arrays['client/spectrum'], 1e-12)
  mean = np.exp(np.log(clients).mean(0))
  for axes, values in zip(
    panels, (arrays['global/spectrum'], mean), strict=True
  ):
    # What is lost in the rounding of float32 is left out.
    shown = np.where(values > 1e-7 * values[0], values / values[0], np.nan)
    axes.plot(1 + np.arange(len(values)), shown, color=color, label=label)
  ranks = arrays['global/effective_rank'], arrays['client/effective_rank']
  print(
    f'{label:>10}: effective rank {ranks[0]:.1f}, clients {ranks[1].mean():.1f}'
  )
titles = ('global model', 'clients after local training')
for axes, title in zip(panels, titles, strict=True):
  axes.set(title=title, xlabel='number of the singular value', yscale='log')
  axes.grid(alpha=0.3)
panels[0].set(ylabel='singular value / largest')
panels[1].legend(frameon=False)
plt.show()
