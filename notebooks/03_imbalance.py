# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Imbalance: a weight per class, or a weight per example
#
# Even against odd digits, with twenty times fewer odd ones in training and as many of both in the test. A plain average
# answers "even" too often. Known class counts mend that without any adversary, so they are in the picture: `also` has to be
# as good, from a weight per class or a weight per example. And it depends on the *prior*: what the weights start from, and
# are pulled to.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import also_optax

SEEDS, STEPS, BATCH, THINNED = 10, 500, 64, 20
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# Each seed has its own split: 700 images or so to train on, 30 odd ones among them at most; 600 to test on, as many odd as
# even. All seeds of a method are trained at once under `jax.vmap`.

# %%
images, digits = load_digits(return_X_y=True)
images, odd = (images / 16).astype(np.float32), digits % 2


def split(seed):
    rng = np.random.default_rng(seed)
    even_rows, odd_rows = (rng.permutation(np.flatnonzero(odd == side)) for side in (0, 1))
    test = np.concatenate([even_rows[:300], odd_rows[:300]])
    train = np.concatenate([even_rows[300:880], odd_rows[300 : 300 + 580 // THINNED]])
    return train, test


train_rows, test_rows = (jnp.asarray(np.stack(rows)) for rows in zip(*map(split, range(SEEDS)), strict=True))
x, y = jnp.asarray(images), jnp.asarray(odd)
n = train_rows.shape[1]
counts = jnp.bincount(y[train_rows[0]], length=2)
print(f"{n} training images, {counts[0]} even and {counts[1]} odd")

# %% [markdown]
# ## The methods
#
# Only the optimizer and the ids differ. One weight per class: `num_groups=2`, the class as id, and
# `group_frequencies=counts / counts.sum()`, so that classes are compared by their *mean* loss. One weight per example:
# `num_groups=n`, the position in the training set as id, and the inverse class count as `prior`.

# %%
ADAM = {"learning_rate": 3e-3, "weight_decay": 1e-2}
STRENGTH = {"dual_learning_rate": 1e-2, "kl_penalty": 0.1}
is_odd = y[train_rows[0]]  # rows differ between seeds, classes do not
balanced = 1 / counts[is_odd]

METHODS = {
    "adamw": optax.adamw(**ADAM),
    "adamw, static weights": optax.adamw(**ADAM),
    "also, per class": also_optax.also(**ADAM, num_groups=2, group_frequencies=counts / n, **STRENGTH),
    "also, per example": also_optax.also(**ADAM, num_groups=n, prior=balanced, **STRENGTH),
    "also, per example, uniform prior": also_optax.also(**ADAM, num_groups=n, **STRENGTH),
}
model = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(2)])
init = jax.jit(jax.vmap(lambda seed: model.init(jax.random.key(seed), images[:1])))


def losses_of(params, rows):
    return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x[rows]), y[rows])


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
def train(name, seed, rows, params):
    """Parameters after training, and after each step the mean weight of the odd examples of the batch."""
    tx, key = METHODS[name], jax.random.key(seed)

    def step(state, t):
        params, opt_state = state
        at = jax.random.randint(jax.random.fold_in(key, t), (BATCH,), 0, n)  # positions in the training set
        ids = is_odd[at] if name == "also, per class" else at
        if name.startswith("also"):
            read = also_optax.value_and_grad(losses_of)
            (_, rw), grads = read(params, opt_state, rows[at], groups=ids)
            updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
            weights = rw.weights
        else:
            weights = n / (2 * counts[is_odd[at]]) if "static" in name else jnp.ones(BATCH)
            grads = jax.grad(lambda p: jnp.mean(weights * losses_of(p, rows[at])))(params)
            updates, opt_state = tx.update(grads, opt_state, params)
        of_odd = jnp.stack([jnp.sum(weights * is_odd[at]), jnp.sum(is_odd[at])])
        return (optax.apply_updates(params, updates), opt_state), of_odd

    (params, _), of_odd = jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))
    return params, of_odd


@jax.jit
@jax.vmap
def balanced_accuracy(params, rows):
    right = model.apply(params, x[rows]).argmax(-1) == y[rows]
    return jnp.mean(right)  # as many odd as even


seeds = jnp.arange(SEEDS)
found = {}
for name in METHODS:
    params, of_odd = train(name, seeds, train_rows, init(seeds))
    sums = np.asarray(of_odd).sum(0).reshape(25, -1, 2).sum(1)  # over seeds, and over twenty steps
    found[name] = np.asarray(balanced_accuracy(params, test_rows)), sums[:, 0] / sums[:, 1]

# %% [markdown]
# ## What came of it

# %%
LOOKS = {
    "adamw": ("#7f7f7f", "o", "--"),
    "adamw, static weights": ("#0072b2", "^", "--"),
    "also, per class": ("#e69f00", "P", "-"),
    "also, per example": ("#d55e00", "D", "-"),
    "also, per example, uniform prior": ("#009e73", "s", ":"),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
for k, (name, (accuracy, weight)) in enumerate(found.items()):
    color, marker, line = LOOKS[name]
    half = 2.26 * accuracy.std(ddof=1) / np.sqrt(SEEDS)
    left.errorbar(100 * accuracy.mean(), -k, xerr=100 * half, color=color, marker=marker, capsize=3)
    steps = (np.arange(len(weight)) + 0.5) * STEPS / len(weight)
    right.plot(steps, weight, line, color=color, marker=marker, markevery=6, label=name)
left.set_yticks(-np.arange(len(found)), list(found))
left.set_xlabel("balanced accuracy on the test set, %\n(mean over seeds, 95 % interval)")
right.set_xlabel("step")
right.set_ylabel("mean weight of an odd example\n(1 = plain training)")
right.set_yscale("log")
right.legend(frameon=False, fontsize=8)
plt.show()

for name, (accuracy, _) in found.items():
    print(f"{name:34s} {100 * accuracy.mean():.1f} % ± {100 * accuracy.std(ddof=1):.1f}")

# %% [markdown]
# Per class and per example with a balanced prior, `also` is where static weights are, ten times above one for the rare class.
# From a uniform prior it moves single hard examples of *both* classes, and the rare class gets less than it needs: the prior
# is what matters most here, as the paper's appendix says too. So on data that is only imbalanced, take static weights, or
# their like; take the adversary where counts do not tell who is hard: known groups (notebook 04), or hard examples within
# classes.


# %%
def gain(name, over):
    """Mean and standard error of the difference at the same seed."""
    difference = found[name][0] - found[over][0]
    return difference.mean(), difference.std(ddof=1) / np.sqrt(SEEDS)


for name in ("also, per class", "also, per example"):
    mean, error = gain(name, "adamw")
    assert mean > 3 * error, (name, mean, error)  # clearly above plain training
    mean, error = gain(name, "adamw, static weights")
    assert mean > -0.03, (name, mean, error)  # and about where static weights are
    assert found[name][1][-1] > 4 * found["adamw"][1][-1]  # by weighing the rare class up
assert gain("also, per example", "also, per example, uniform prior")[0] > 0
