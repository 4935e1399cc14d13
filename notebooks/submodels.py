# %% [markdown]
# # Submodels on a budget
#
# A third of the clients can afford the whole network, a third a quarter of its
# channels, and a third a sixteenth. HeteroFL gives each the leading channels it
# can afford; FjORD has every client train all widths up to its own. Both give
# one model that can be cut to any of the widths.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import fedjax_ls as fl
from fedjax_ls.cost import costs
from fedjax_ls.train import use_compilation_cache

use_compilation_cache()  # the next run compiles less
QUICK = os.environ.get('FEDJAX_LS_QUICK') == '1'
ROUNDS = 4 if QUICK else 150
RATES = ('1', '1/16') if QUICK else ('1', '1/4', '1/16')
WEAKEST = len(RATES) - 1

# %% [markdown]
# ## Clients, tiers, widths
#
# Rates are written as text, since they are exact: a layer of $n$ channels keeps
# $\lceil r n \rceil$. The cost is counted from the small networks themselves.

# %%
data = fl.data.load('digits')
partition = fl.data.dirichlet(data.y_train, 12, alpha=0.3, min_size=8, seed=0)
federation = fl.federate(data.x_train, data.y_train, partition.train)
tier = fl.data.assign_tiers(
  'random', federation.size, federation.labels, [1] * len(RATES), seed=0
)
federation = federation._replace(tier=tier)

net = fl.MLP(10, hidden=(128, 64), norm='ln')
submodels = fl.width_submodels(net, data.x_train[:1], RATES)
budget = costs(net, data.x_train[:1], submodels)
for rate, cost in zip(RATES, budget, strict=True):
  print(f'{rate:>4}: {cost.macs:6d} multiply-accumulates an example')
print('tiers of the clients:', tier)

# %% [markdown]
# ## Three ways to spend the budget
#
# - everybody trains the network that the weakest can afford;
# - HeteroFL;
# - FjORD.


# %%
def train(method, module=net, submodels=submodels):
  return fl.fit(
    fl.flax_model(module, data.x_train[:1]),
    federation,
    test=(data.x_test, data.y_test),
    method=method,
    client=fl.Client(learning_rate=0.1, batch_size=32, amount=10),
    submodels=submodels,
    rounds=ROUNDS,
    eval_every=ROUNDS // 2,
  )


def settings(name, **fields):
  return fl.algorithms.find(name).settings(**fields)


results = {
  'HeteroFL': train(settings('heterofl', rates=RATES, every_width=True)),
  'FjORD': train(settings('fjord', rates=RATES)),
}
small = train('fedavg', submodels.module(WEAKEST), None)

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout='constrained')
macs = [cost.macs for cost in budget]
for marker, (label, result) in zip('os', results.items(), strict=True):
  last = result.history[-1]
  names = ['test/accuracy' + ('' if r == '1' else f'@{r}') for r in RATES]
  accuracy = [100 * last[name] for name in names]
  axes.plot(macs, accuracy, marker=marker, label=label)
  print(label, {r: round(a, 1) for r, a in zip(RATES, accuracy, strict=True)})
accuracy = 100 * small.history[-1]['test/accuracy']
axes.plot(macs[-1:], [accuracy], 'k^', label=f'FedAvg, all at {RATES[-1]}')
print(f'FedAvg, all at {RATES[-1]}: {accuracy:.1f}')
axes.set(
  xlabel='multiply-accumulates an example', ylabel='test accuracy (%)',
  xscale='log',
)  # fmt: skip
axes.set_xticks(
  macs, [f'{m}\n(rate {r})' for m, r in zip(macs, RATES, strict=True)]
)
axes.minorticks_off()
axes.grid(alpha=0.3)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# The middle width does far better than what the weakest could train alone. More
# is not always better: the widest channels are trained by a third of the
# clients, which here hold labels of their own.
#
# ## Cut out a small model
#
# `cut_out` gives an ordinary `flax.linen` module and its variables, which know
# nothing of the network they come from. Its
# accuracy is the one that was measured under the mask.

# %%
params, stats, history = results['HeteroFL'][:3]
module, variables = fl.models.cut_out(submodels, params, stats, WEAKEST)
outputs = module.apply(variables, data.x_test)
accuracy = np.mean(outputs.logits.argmax(-1) == data.y_test)
size = sum(
  leaf.size for leaf in variables['params'].values() for leaf in leaf.values()
)
print(f'{module.hidden} hidden, {size} parameters: {100 * accuracy:.1f} %')
np.testing.assert_allclose(
  accuracy, history[-1][f'test/accuracy@{RATES[-1]}'], atol=1e-6
)
