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
# # Wrong labels
#
# On imbalanced data large losses are asked for more weight; on wrong labels they should get less. Here 35 % of the training
# labels of scikit-learn's handwritten digits are replaced by another digit at random. Long enough training learns those too.
# Two kinds of remedy: losses that stop shouting (`also_optax.losses`), and weights that turn away from large losses
# (a negative strength in `absgd` and `abadam`, or `reweight_by_exponentiated_gradient`).

# %%
import functools
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import also_optax
from also_optax import samplers
from also_optax.losses import generalised_cross_entropy, symmetric_cross_entropy

SMALL = os.environ.get("ALSO_OPTAX_NOTEBOOKS") == "small"
SEEDS, EPOCHS = (2, 30) if SMALL else (5, 50)
NOISE, TRAIN, VALIDATION, BATCH = 0.35, 1000, 300, 100
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# Each seed has its own split, noise and initial weights. The validation labels are as noisy as the training labels, since
# nobody has clean ones to choose settings by; only the 497 test labels are clean, and nothing is chosen on them.

# %%
images, digits = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


def split(seed):
    rng = np.random.default_rng(seed)
    order, noisy = rng.permutation(len(digits)), TRAIN + VALIDATION
    x, y = images[order], digits[order]
    wrong = rng.random(noisy) < NOISE
    seen = np.where(wrong, (y[:noisy] + rng.integers(1, 10, noisy)) % 10, y[:noisy])
    parts = {
        "train": (x[:TRAIN], seen[:TRAIN]),
        "validation": (x[TRAIN:noisy], seen[TRAIN:]),
        "test": (x[noisy:], y[noisy:]),
    }
    return parts | {"wrong": wrong[:TRAIN]}


data = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(split(seed) for seed in range(SEEDS)))
keys = jax.vmap(jax.random.key)(jnp.arange(SEEDS))

# %% [markdown]
# ## The methods
#
# Each is an optimizer and a loss, with one number to choose, from five values. All else is the same: a small MLP, Adam at
# 0.01, batches of 100.

# %%
LEARNING_RATE = 0.01
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def plain(weight_decay=1e-4):
    """`optax.adamw`, which is `abadam` at an infinite temperature: so one loop is enough."""
    return also_optax.abadam(LEARNING_RATE, temperature=jnp.inf, weight_decay=weight_decay)


def two_stages(temperature):
    """Five plain epochs, then the temperature: the published recipe."""
    stages = [optax.constant_schedule(-jnp.inf), optax.constant_schedule(temperature)]
    return also_optax.abadam(LEARNING_RATE, temperature=optax.join_schedules(stages, [5 * TRAIN // BATCH]))


def exponentiated_gradient(step_size):
    rule = also_optax.reweight_by_exponentiated_gradient(TRAIN, step_size)
    return optax.chain(rule, optax.adam(LEARNING_RATE))


METHODS = {  # the optimizer, the loss, and the values of the number that they are made of
    "AdamW": (plain, lambda logits, y, _: cross_entropy(logits, y), "weight_decay", [0.01, 0.1, 0.3, 1.0, 3.0]),
    "generalised CE": (lambda _: plain(), generalised_cross_entropy, "q", [0.3, 0.5, 0.7, 0.9, 1.0]),
    "symmetric CE": (lambda _: plain(), symmetric_cross_entropy, "alpha", [0.01, 0.03, 0.1, 0.3, 1.0]),
    "ABAdam, temperature": (
        lambda v: also_optax.abadam(LEARNING_RATE, temperature=v),
        lambda logits, y, _: cross_entropy(logits, y),
        "temperature",
        [-0.3, -0.5, -1.0, -2.0, -4.0],
    ),
    "ABAdam, two stages": (
        two_stages,
        lambda logits, y, _: cross_entropy(logits, y),
        "temperature",
        [-0.3, -0.5, -1.0, -2.0, -4.0],
    ),
    "ABAdam, target_ess": (
        lambda v: also_optax.abadam(LEARNING_RATE, target_ess=v),
        lambda logits, y, _: cross_entropy(logits, y),
        "target_ess",
        [-40.0, -50.0, -60.0, -70.0, -80.0],
    ),
    "exponentiated gradient": (
        exponentiated_gradient,
        lambda logits, y, _: cross_entropy(logits, y),
        "step_size",
        [0.01, 0.02, 0.05, 0.1, 0.2],
    ),
}
if SMALL:
    METHODS = {name: METHODS[name] for name in ("AdamW", "ABAdam, target_ess", "exponentiated gradient")}
WEIGHTED = [name for name in METHODS if name.startswith(("ABAdam", "exponentiated"))]
model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(10)])


def accuracy(params, part):
    x, y = part
    return jnp.mean(model.apply(params, x).argmax(axis=-1) == y)


STEPS = EPOCHS * TRAIN // BATCH
starts = jax.jit(jax.vmap(lambda key: model.init(key, images[:1])))(keys)
batches = jax.jit(
    jax.vmap(lambda key: jax.vmap(lambda t: samplers.epoch_batch(key, t, TRAIN, BATCH))(jnp.arange(STEPS)))
)(keys)


def train(make, loss, strength, part, params, batches):
    """Accuracies and mean weights after each epoch."""
    tx, (x, y), wrong = make(strength), part["train"], part["wrong"]
    loss_and_grads = also_optax.value_and_grad(lambda params, x, y: loss(model.apply(params, x), y, strength))

    def step(carry, rows):
        params, opt_state = carry
        (_, rw), grads = loss_and_grads(params, opt_state, x[rows], y[rows], groups=rows)  # a group is an example
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        kinds = jnp.stack([wrong[rows], ~wrong[rows]])
        return (optax.apply_updates(params, updates), opt_state), kinds @ rw.weights

    def epoch(carry, batches):
        carry, weights = jax.lax.scan(step, carry, batches)
        params, _ = carry
        seen = {name: accuracy(params, part[name]) for name in ("train", "validation", "test")}
        return carry, seen | {"weights": weights.sum(axis=0) / jnp.stack([wrong.sum(), (~wrong).sum()])}

    (_, opt_state), seen = jax.lax.scan(epoch, (params, tx.init(params)), batches.reshape(EPOCHS, -1, BATCH))
    return seen | ({"pi": also_optax.group_weights(opt_state)} if make is exponentiated_gradient else {})


runs = {}  # leaves [strength, seed, epoch, ...]
for name, (make, loss, _, grid) in METHODS.items():
    of_seeds = jax.vmap(functools.partial(train, make, loss), in_axes=(None, 0, 0, 0))
    sweep = jax.jit(jax.vmap(of_seeds, in_axes=(0, None, None, None)))
    runs[name] = jax.tree.map(np.asarray, sweep(jnp.array(grid), data, starts, batches))

# %% [markdown]
# ## Chosen on noisy labels
#
# Two ways to choose, each for every seed on its own noisy validation set: the strength alone, at the end of training; or the
# strength and the epoch to stop at. Stopping early is a good remedy by itself: a model learns what is right first.


# %%
def chosen(name, by_epoch):
    """Indices of strength and epoch, for each seed."""
    found = runs[name]["validation"]
    found = found if by_epoch else found[:, :, -1:]
    flat = found.transpose(1, 0, 2).reshape(SEEDS, -1).argmax(axis=1)
    strength, epoch = np.unravel_index(flat, (found.shape[0], found.shape[2]))
    return strength, epoch if by_epoch else np.full(SEEDS, EPOCHS - 1)


results = {}
print(f"test accuracy, %, mean ± standard deviation of {SEEDS} seeds     at the end      stopped")
for name, (*_, what, grid) in METHODS.items():
    picks = [chosen(name, by_epoch) for by_epoch in (False, True)]
    results[name] = [100 * runs[name]["test"][strength, np.arange(SEEDS), epoch] for strength, epoch in picks]
    end, stopped = (f"{result.mean():.1f} ± {result.std(ddof=1):.1f}" for result in results[name])
    values = ", ".join(f"{grid[k]:g}" for k in np.unique(picks[0][0]))
    print(f"{name:24} {what + ' ' + values:32} {end:>14} {stopped:>12}")

print("\nat the end, mean over seeds, at each strength (for interest: not for choosing)")
for name, (*_, what, grid) in METHODS.items():
    ends = 100 * runs[name]["test"][:, :, -1].mean(axis=1)
    print(f"{name:24} {what:12}", *(f"{value:g}: {end:.0f}  " for value, end in zip(grid, ends, strict=True)))

# %%
STYLES = {
    "AdamW": {"color": "#777777", "linestyle": "--", "marker": "o"},
    "generalised CE": {"color": "#56B4E9", "linestyle": ":", "marker": "v"},
    "symmetric CE": {"color": "#CC79A7", "linestyle": ":", "marker": "<"},
    "ABAdam, temperature": {"color": "#E69F00", "linestyle": "-.", "marker": "s"},
    "ABAdam, two stages": {"color": "#009E73", "linestyle": "-.", "marker": "P"},
    "ABAdam, target_ess": {"color": "#D55E00", "linestyle": "-", "marker": "D"},
    "exponentiated gradient": {"color": "#0072B2", "linestyle": "-", "marker": "^"},
}


def over_epochs(name, what):
    """Mean over seeds of the runs that were chosen at the end."""
    return runs[name][what][chosen(name, by_epoch=False)[0], np.arange(SEEDS)].mean(axis=0)


epochs = np.arange(1, EPOCHS + 1)
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
for k, name in enumerate(METHODS):
    style = STYLES[name] | {"markersize": 5, "markevery": (2 * k, 12)}
    left.plot(epochs, 100 * over_epochs(name, "test"), **style, label=name)
unchecked = 100 * runs["AdamW"]["test"][0].mean(axis=0)
left.plot(epochs, unchecked, color="black", linewidth=1, label="AdamW, weight_decay=0.01")
left.set(xlabel="epoch", ylabel="accuracy on clean test labels, %", ylim=(75, 97))
left.set_title("Test accuracy", loc="left")
left.legend(frameon=False, fontsize=8)
for k, name in enumerate(WEIGHTED):
    of_wrong, of_right = over_epochs(name, "weights").T
    style = STYLES[name] | {"markersize": 5}
    middle.plot(epochs, of_wrong, **style, markevery=(4 * k, 12), label=name)
    middle.plot(epochs, of_right, **style, markevery=(4 * k, 12), markerfacecolor="white")
middle.axhline(1, color="#777777", linestyle="--", linewidth=1)
middle.annotate("right labels (hollow)", (EPOCHS, 1.65), ha="right")
middle.annotate("wrong labels (filled)", (EPOCHS, 0.25), ha="right")
middle.set(xlabel="epoch", ylabel="mean weight of an example (plain: 1)", ylim=(0, 1.8))
middle.set_title("Who is listened to", loc="left")
middle.legend(frameon=False, fontsize=8, loc=(0.3, 0.3))
for k, name in enumerate(METHODS):
    for which, shift, fill in ((0, -0.12, None), (1, 0.12, "white")):
        style = {
            "color": STYLES[name]["color"],
            "marker": STYLES[name]["marker"],
            "markerfacecolor": fill or STYLES[name]["color"],
        }
        right.plot(results[name][which], np.full(SEEDS, k + shift), **style, linestyle="", markersize=5)
        right.plot(results[name][which].mean(), k + shift, "|", color="black", markersize=14)
right.set(xlabel="accuracy on clean test labels, %", yticks=range(len(METHODS)), yticklabels=METHODS)
right.invert_yaxis()
right.set_title("Seeds: end (filled), stopped (hollow)", loc="left")
plt.show()

# %% [markdown]
# - Without a remedy accuracy falls for as long as the wrong labels are being learnt. Weight decay and stopping early each
#   help; every method here is above both, by a few points, and they are near one another.
# - The exponentiated gradient sums the losses of each example, starts from uniform weights and turns away slowly. It needs no
#   stopping, and its weights afterwards tell wrong labels from right ones, below.
# - `absgd`'s weights act from the first step, when all losses are alike and chance decides which are small. A temperature
#   near 0 then keeps a few classes and gives up the others; even at -1 some seeds leave a class out until half-way, which is
#   the late rise of the line with squares. A few plain epochs first, by a schedule of the temperature, are the remedy.
# - `target_ess=-60` says it without units: 60 of the 100 examples of a batch are to count. It fits the share of right labels,
#   65 %, and means the same early and late.

# %%
detector, strength = runs["exponentiated gradient"]["pi"], chosen("exponentiated gradient", by_epoch=False)[0]
areas = [roc_auc_score(data["wrong"][seed], -detector[strength[seed], seed]) for seed in range(SEEDS)]
print(f"a wrong label has a smaller weight than a right one in {100 * np.mean(areas):.1f} % of pairs")

end = {name: result[0].mean() for name, result in results.items()}
assert all(end[name] > end["AdamW"] for name in METHODS if name != "AdamW")
assert unchecked.max() - unchecked[-1] > 2
for name in WEIGHTED:
    of_wrong, of_right = over_epochs(name, "weights")[-1]
    assert of_wrong < 0.25 < 1.25 < of_right
assert min(areas) > 0.95
