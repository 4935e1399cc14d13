# %% [markdown]
# # Label shift and dimensional collapse
#
# What goes wrong when each client holds few classes, in the pictures of two
# papers, on digits:
#
# - Zhang et al. Understanding the role of layer normalization in label-skewed
#   federated learning. TMLR 2024: without a norm, local training forgets the
#   classes that a client does not have; feature normalization (FN) and layer
#   normalization (LN) counteract it.
# - Shi et al. Towards understanding and mitigating dimensional collapse in
#   heterogeneous federated learning. ICLR 2023: features end up in few
#   dimensions; a decorrelation term (FedDecorr) counteracts it.

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
WORKDIR = 'runs/quick_label_shift' if QUICK else 'runs/label_shift'
COLORS = report.pictures.COLORS
NORMS = {'no norm': 'none', 'FN': 'fn', 'LN': 'ln'}
WEIGHTS = (0.1, 1.0)
if QUICK:
  NORMS, WEIGHTS = {'LN': 'ln'}, (1.0,)

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
one_class = fl.federate(data.x_train, data.y_train, parts.train)


def diagnose(federation, norm='none', method='fedavg'):
  result = fl.fit(
    fl.flax_model(fl.MLP(10, norm=norm), data.x_train[:1]),
    federation,
    test=(data.x_test, data.y_test),
    method=method,
    client=fl.Client(learning_rate=0.1, batch_size=32, amount=10),
    rounds=ROUNDS,
    eval_every=ROUNDS,
  )
  return result.diagnose()


shown = {label: NORMS[label] for label in NORMS if label != 'FN'}
found = {label: diagnose(one_class, norm) for label, norm in shown.items()}

# %% [markdown]
# Rows are clients, columns classes. Client $k$ holds the class where its row is
# surely bright on the right. Without a norm much of the rest is forgotten in
# ten local steps, and the average has to repair it in every round.

# %%
figure, panels = plt.subplots(
  len(found), 2, figsize=(7.5, 0.5 + 2.8 * len(found)), sharex=True,
  sharey=True, squeeze=False, layout='constrained',
)  # fmt: skip
names = {'before': 'client/accuracy_before', 'after': 'client/accuracy'}
for row, (label, arrays) in zip(panels, found.items(), strict=True):
  for axes, (when, name) in zip(row, names.items(), strict=True):
    image = axes.imshow(
      arrays[name], vmin=0, vmax=1, cmap='cividis', aspect='auto'
    )
    axes.set(title=f'{label}, {when} local training')
for axes in panels[-1]:
  axes.set(xlabel='class', xticks=range(10))
for axes in panels[:, 0]:
  axes.set(ylabel='client', yticks=range(10))
figure.colorbar(image, ax=panels, label='test accuracy of a class')
plt.show()

# %% [markdown]
# ## Dimensional collapse
#
# Singular values of the covariance of the features on the test set, largest
# first: where the curve falls early, few directions are in use. The effective
# rank says so in one number. Clients are now drawn by a Dirichlet
# distribution, as in the paper.
#
# FedDecorr lifts the first singular values. On a network this small a large
# weight does it at a price: a ReLU that is always 0 correlates with nothing,
# so that some features die, and the curve ends before 64.

# %%
parts = fl.data.dirichlet(data.y_train, 10, alpha=0.1, min_size=8, seed=0)
dirichlet = fl.federate(data.x_train, data.y_train, parts.train)
FedDecorr = fl.algorithms.find('feddecorr').settings
found = {} if QUICK else {'FedAvg': diagnose(dirichlet)}
for weight in WEIGHTS:
  label = f'FedDecorr, weight {weight:g}'
  found[label] = diagnose(dirichlet, method=FedDecorr(coefficient=weight))

# %%
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
  rank, dead = arrays['global/effective_rank'], arrays['global/dead']
  print(f'{label}: effective rank {rank:.1f}, {dead:.0%} of the features dead')
titles = ('global model', 'clients after local training')
for axes, title in zip(panels, titles, strict=True):
  axes.set(title=title, xlabel='number of the singular value', yscale='log')
  axes.grid(alpha=0.3)
panels[0].set(ylabel='singular value / largest')
panels[1].legend(frameon=False)
plt.show()
