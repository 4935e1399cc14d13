# %% [markdown]
# # Your own method in 30 lines
#
# A method is a dataclass of its numbers, a builder, and a record that names
# them. Here it is FedMAX: clients whose data differ get features that differ,
# so each client keeps its features as evenly spread as it can. With features
# $z$ and $a = \mathrm{softmax}(z)$ of dimension $D$, a client minimizes
#
# $$f_k + \beta \, \mathrm{mean}_i \, \mathrm{KL}(a_i \,\|\, 1 / D).$$
#
# Chen, Bhardwaj, Marculescu. FedMAX: mitigating activation divergence for
# accurate and communication-efficient federated learning. ECML-PKDD 2020.

# %%
import dataclasses
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fedjax_ls as fl
from fedjax_ls import losses, rules
from fedjax_ls.algorithms import Identity, Method
from fedjax_ls.algorithms.fedavg import FedAvg, averaging
from fedjax_ls.hyper import traced
from fedjax_ls.local import local_sgd
from fedjax_ls.train import use_compilation_cache

use_compilation_cache()  # the next run compiles less
QUICK = os.environ.get('FEDJAX_LS_QUICK') == '1'
ROUNDS = 4 if QUICK else 100
BETAS = (1.0,) if QUICK else (0.1, 1.0)

# %% [markdown]
# ## The method
#
# Floats of the dataclass are traced: another `beta` needs no other program,
# and a sweep over it is one program. The builder therefore reads `beta` from
# `hyper.method` when the program runs, never from `settings`. A loss term is
# `term(hyper, view) -> scalar`; padded examples must not count, which
# `masked_mean` sees to.


# %%
@traced
@dataclasses.dataclass
class FedMax:
  """`beta`: weight of the term, >= 0."""

  beta: float = 0.1


def evenness(hyper, view):
  log_a = jax.nn.log_softmax(view.outputs.features)
  divergence = jnp.sum(jnp.exp(log_a) * log_a, -1) + jnp.log(log_a.shape[-1])
  return hyper.method.beta * losses.masked_mean(divergence, view.mask)


def fedmax(settings, parts):
  del settings
  client = local_sgd(parts.model, terms=(evenness,), unroll=parts.unroll)
  return averaging(parts, client)


METHOD = Method(
  name='fedmax',
  settings=FedMax,
  build=fedmax,
  references=('Chen, Bhardwaj, Marculescu. FedMAX. ECML-PKDD 2020.',),
  toy=FedMax(beta=0.5),
  identity=Identity(FedMax(beta=0.0), 'fedavg', FedAvg()),
  ranges={'beta': rules.NOT_NEGATIVE},
)
fl.algorithms.METHODS[METHOD.name] = METHOD

# %% [markdown]
# As a file `fedjax_ls/algorithms/fedmax.py` it needs no last line: it is found
# by itself, by the command line and by the test that runs every method.
#
# ## Is it right?
#
# First the term against a plain loop over examples, one of them padding.

# %%
features = np.random.RandomState(0).normal(size=(3, 5)).astype(np.float32)
expected = 0.0
for z in features[:2]:
  a = np.exp(z) / np.exp(z).sum()
  expected += 0.7 * (a * np.log(a * 5)).sum() / 2

view = losses.View(
  outputs=fl.Outputs(logits=None, features=jnp.asarray(features)),
  x=None, y=None, mask=jnp.array([True, True, False]),
  params=None, anchor=None, ctx=None,
)  # fmt: skip
hyper = fl.Hyper(fl.Client(), fl.Server(), FedMax(beta=0.7))
np.testing.assert_allclose(evenness(hyper, view), expected, rtol=1e-5)

# %% [markdown]
# Then its identity, which the record states: at `beta = 0` it is FedAvg. And
# at another `beta` it is not.

# %%
data = fl.data.load('digits')
parts = fl.data.classes(data.y_train, 10, 1, seed=0)
federation = fl.federate(data.x_train, data.y_train, parts.train)
model = fl.flax_model(fl.MLP(10), data.x_train[:1])


def train(method, rounds=ROUNDS):
  return fl.fit(
    model,
    federation,
    test=(data.x_test, data.y_test),
    method=method,
    client=fl.Client(learning_rate=0.1, batch_size=32, amount=10),
    rounds=rounds,
    eval_every=max(rounds // 10, 1),
  )


def distance(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(float(jnp.abs(x - y).max()) for x, y in pairs)


identity = METHOD.identity
other = train(identity.other_settings, 3).params
same = distance(train(identity.settings, 3).params, other)
moved = distance(train(FedMax(beta=0.5), 3).params, other)
print(f'beta = 0: {same:.1e}    beta = 0.5: {moved:.1e}')
assert same < 1e-6 < 1e-4 < moved

# %% [markdown]
# ## A run
#
# A setting out of range is refused in one sentence, before anything compiles.

# %%
try:
  train(FedMax(beta=-1.0))
except ValueError as error:
  print(error)

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout='constrained')
for method in (FedAvg(), *map(FedMax, BETAS)):
  history = train(method).history
  accuracy = [100 * line['test/accuracy'] for line in history]
  axes.plot([line['round'] for line in history], accuracy, label=str(method))
axes.set(xlabel='round', ylabel='test accuracy (%)', ylim=(0, 100))
axes.grid(alpha=0.3)
axes.legend(frameon=False)
plt.show()
