# %% [markdown]
# # Quickstart
#
# Ten clients, one class of handwritten digits each: the hardest label shift
# there is. We look at who owns what, train one model over all clients with
# FedAvg, and see that a layer norm helps.
#
# Set `FEDJAX_LS_QUICK=1` to run a few rounds only.

# %%
import os

import flax.linen as nn
import matplotlib.pyplot as plt

import fedjax_ls as fl

QUICK = os.environ.get('FEDJAX_LS_QUICK') == '1'
ROUNDS = 10 if QUICK else 200

# %% [markdown]
# ## Data and clients
#
# `fl.data.load('digits')` is bundled with scikit-learn; your own arrays do as
# well. A partition is a list of rows for each client, and a federation is the
# arrays with it.

# %%
data = fl.data.load('digits')
parts = fl.data.classes(data.y_train, 10, 1, seed=0)
federation = fl.federate(data.x_train, data.y_train, parts.train)
print(data.x_train.shape, data.x_train.dtype, federation.size)

# %%
figure, axes = plt.subplots(figsize=(4.5, 3.5), layout='constrained')
image = axes.imshow(federation.labels, cmap='cividis_r', aspect='auto')
axes.set(xlabel='class', ylabel='client', xticks=range(10), yticks=range(10))
figure.colorbar(image, label='train rows')
plt.show()

# %% [markdown]
# ## A network and a run
#
# Any `flax.linen` module will do. In each round every client takes ten steps
# of SGD, and the server averages what they return; `result.history` has one
# line an evaluation.

# %%
mlp = nn.Sequential(
  [
    lambda x: x.reshape(len(x), -1),
    nn.Dense(128, use_bias=False),
    nn.relu,
    nn.Dense(64, use_bias=False),
    nn.relu,
    nn.Dense(10, use_bias=False),
  ]
)


def train(module, method='fedavg', learning_rate=0.1):
  return fl.fit(
    fl.flax_model(module, data.x_train[:1]),
    federation,
    test=(data.x_test, data.y_test),
    method=method,
    client=fl.Client(learning_rate=learning_rate, batch_size=32, amount=10),
    rounds=ROUNDS,
    eval_every=ROUNDS // 10,
  )


results = {'no norm': train(mlp)}
print(results['no norm'].history[-1])

# %% [markdown]
# `fl.MLP` is the same network with a choice of norms: `ln` for layer
# normalization, `fn` for feature normalization.

# %%
results['layer norm'] = train(fl.MLP(10, norm='ln'))

figure, axes = plt.subplots(figsize=(6, 3.5), layout='constrained')
for label, result in results.items():
  rounds = [line['round'] for line in result.history]
  accuracy = [100 * line['test/accuracy'] for line in result.history]
  axes.plot(rounds, accuracy, marker='.', label=label)
axes.set(xlabel='round', ylabel='test accuracy (%)', ylim=(0, 100))
axes.grid(alpha=0.3)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## The model
#
# `result.params` are the parameters of the global model, `result.state` is the
# whole run.

# %%
model = fl.flax_model(fl.MLP(10, norm='ln'), data.x_train[:1])
result = results['layer norm']
outputs, _ = model.apply(result.params, result.stats, data.x_test[:8])
print('predicted', outputs.logits.argmax(-1), 'true', data.y_test[:8])

# %% [markdown]
# Next: `label_shift` looks into the clients, `submodels` gives weak clients
# small networks, `own_method` adds a method, and `sweeps` runs many settings
# and seeds as one program.
