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
# # Choosing the strength
#
# How far may the adversary move weight away from the data's own shares? In `also_optax.also` there are three ways to say it:
#
# | argument | what it is | unit |
# |---|---|---|
# | `kl_penalty` | how strongly the weights are pulled back to the prior | that of the loss |
# | `radius` | how far they may be from it: the largest KL(pi ‖ prior) | nats: 0 is the prior, log 2 is half of the groups at twice their weight |
# | `target_ess` | how many groups are to count, at least: G / sum(pi²/prior) | groups |
#
# and one number for how fast: `dual_learning_rate`. This notebook draws the map of them, on real data, and reads from
# `diagnostics` where on the map a run is.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import LogNorm
from sklearn.datasets import load_digits

import also_optax

SPLITS, STEPS, SIZE = 3, 800, 500
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# The task: is a handwritten digit odd? One training digit in ten is. A linear model on 64 pixels, with weight decay so that it
# cannot fit every example. The groups are the ten digits, and what counts is the worst of them, on 790 held-out images where
# all digits are equally frequent. All numbers are means of three random splits.

# %%
images, digits = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)


def split(seed):
    order = np.random.default_rng(seed).permutation(len(digits))
    pool, held_out = order[:1000], order[1000:1790]
    odd, even = pool[digits[pool] % 2 == 1], pool[digits[pool] % 2 == 0]
    train = np.concatenate([odd[: SIZE // 10], even[: SIZE - SIZE // 10]])
    return {"x": images[train], "digit": digits[train], "held_out": (images[held_out], digits[held_out])}


data = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(split(seed) for seed in range(SPLITS)))


def losses(params, x, digit):
    return optax.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], (digit % 2).astype(jnp.float32))


def by_digit(values, digit):
    member = jax.nn.one_hot(digit, 10)
    return values @ member / member.sum(axis=0)


def train(part, **settings):
    """Diagnostics after each step, and the accuracy of each digit on held-out images at the end."""
    frequencies = jnp.bincount(part["digit"], length=10) / SIZE
    settings = {"prior": frequencies} | settings  # to start from and to be pulled to: plain training
    tx = also_optax.also(
        0.02, num_groups=10, group_frequencies=frequencies, weight_decay=0.3, average_decay=0.9, **settings
    )
    loss_and_grads = also_optax.value_and_grad(losses)

    def step(carry, _):
        params, opt_state = carry
        (_, rw), grads = loss_and_grads(params, opt_state, part["x"], part["digit"], groups=part["digit"])
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        found = also_optax.diagnostics(opt_state)
        return (optax.apply_updates(params, updates), opt_state), {
            key: found[key] for key in found if key != "rejected"
        }

    params = {"w": jnp.zeros(64), "b": jnp.zeros(())}
    (params, _), seen = jax.lax.scan(step, (params, tx.init(params)), length=STEPS)
    x, digit = part["held_out"]
    right = (x @ params["w"] + params["b"] > 0) == (digit % 2 == 1)
    return seen | {"accuracy": by_digit(right.astype(jnp.float32), digit)}


def sweep(**settings):
    """Runs for arrays of settings, all of one shape `[N]`, on all splits, in one compiled function: `[N, SPLITS, ...]`."""

    def of_setting(setting):
        return jax.vmap(lambda part: train(part, **setting))(data)

    settings = {name: jnp.asarray(values, jnp.float32) for name, values in settings.items()}
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(of_setting))(settings))


# %% [markdown]
# ## The map
#
# Settings are ordinary numbers in the optimizer's state, so a grid of 81 pairs, on three splits each, is one `jit` of one
# `vmap`.

# %%
RATES, PENALTIES = np.geomspace(1e-3, 10, 9), np.geomspace(1e-3, 10, 9)
rates, penalties = (grid.ravel() for grid in np.meshgrid(RATES, PENALTIES, indexing="ij"))
runs = sweep(dual_learning_rate=rates, kl_penalty=penalties)


def on_map(values):
    return values.mean(axis=1).reshape(len(RATES), len(PENALTIES))


late = slice(-50, None)
worst = on_map(100 * runs["accuracy"].min(axis=-1))
distance = on_map(runs["kl"][:, :, late].mean(axis=-1))
missing = on_map(runs["gap"][:, :, late].mean(axis=-1) / penalties[:, None])
PLACES = {"too weak": (5, 7), "too slow": (0, 3), "too fast": (6, 2), "right": (4, 3)}

fig, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", sharey=True)
shown = (
    (worst, "Accuracy of the worst digit, held out", "%", {"cmap": "cividis"}),
    (distance, "How far the weights went: KL(pi ‖ prior)", "nats", {"cmap": "cividis_r", "vmax": 1}),
    (
        np.maximum(missing, 1e-4),
        "How far they still have to go: gap / kl_penalty",
        "nats",
        {"cmap": "cividis_r", "norm": LogNorm(1e-3, 1e2)},
    ),
)
edges = np.geomspace(1e-3 / np.sqrt(10**0.5), 10 * np.sqrt(10**0.5), 10)
for ax, (values, title, unit, style) in zip(axes, shown, strict=True):
    mesh = ax.pcolormesh(edges, edges, values, **style)
    fig.colorbar(mesh, ax=ax, label=unit)
    ax.set(xscale="log", yscale="log", xlabel="kl_penalty", xlim=edges[[0, -1]], ylim=edges[[0, -1]])
    ax.set_title(title, loc="left", fontsize=11)
    ax.plot(edges, 1 / (STEPS * edges), color="white", linewidth=3)
    ax.plot(edges, 1 / (STEPS * edges), "--", color="black", linewidth=1.2)
    for name, (i, j) in PLACES.items():
        ax.text(
            PENALTIES[j],
            RATES[i],
            name.replace(" ", "\n"),
            ha="center",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "pad": 1.5},
        )
axes[0].set_ylabel("dual_learning_rate")
plt.show()

# %% [markdown]
# Plain training is the right edge. The plateau is wide, a decade or two of either number, and ends on three sides, each of
# which `diagnostics` tells:
#
# - **Too weak**, on the right: `kl` is near 0 and so is the gap. The adversary is where it wants to be, at home.
# - **Too slow**, at the bottom: the gap is large. `gap / kl_penalty` is the KL divergence of the weights from those that would
#   be worst now, in nats, so it can be held against `kl`.
# - **Too fast**, on top: the weights swing, often to single groups, and the model cannot follow.
#
# Left of the dashed line, `dual_learning_rate * kl_penalty = 1 / steps`, the run is too short for the weights to meet their
# pull, and it is the length of training that limits them. On the plateau that does no harm.

# %%
STYLES = {
    "too weak": {"color": "#777777", "linestyle": "--", "marker": "o"},
    "too slow": {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    "too fast": {"color": "#D55E00", "linestyle": ":", "marker": "s"},
    "right": {"color": "#0072B2", "linestyle": "-", "marker": "D"},
}
fig, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
for k, (name, (i, j)) in enumerate(PLACES.items()):
    run = {key: values[i * len(PENALTIES) + j, 0] for key, values in runs.items()}  # of the first split
    style = STYLES[name] | {"markersize": 5, "markevery": (40 * k, 160), "linewidth": 1.3}
    label = f"{name}: dual_learning_rate {RATES[i]:.2g}, kl_penalty {PENALTIES[j]:.2g}"
    axes[0].plot(run["kl"], **style, label=label)
    axes[1].semilogy(np.maximum(run["gap"] / PENALTIES[j], 1e-4), **style)
    axes[2].plot(run["group_losses"].max(axis=1), **style)
axes[0].set(xlabel="step", ylabel='diagnostics: "kl", nats', ylim=(0, 2.5))
axes[1].set(xlabel="step", ylabel='"gap" / kl_penalty, nats')
axes[2].set(xlabel="step", ylabel='the largest of "group_losses"', ylim=(0, 2.5))
axes[0].get_figure().legend(
    *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=9
)
plt.show()

# %% [markdown]
# ## Three handles on one thing
#
# With a rate from the calm middle (0.1), each handle is swept. Whichever it is, what the run becomes depends on how far the
# weights went.

# %%
HANDLES = {
    "kl_penalty": np.geomspace(0.01, 10, 7),
    "radius": np.array([0.0, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8]),
    "target_ess": np.array([10.0, 9.5, 9.0, 8.0, 6.0, 5.0, 4.0]),
}
LOOKS = dict(zip(HANDLES, (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":")), strict=True))
swept = {
    name: sweep(**{name: values}, dual_learning_rate=np.full(len(values), 0.1)) for name, values in HANDLES.items()
}
fig, axes = plt.subplots(1, 4, figsize=(16, 3.9), layout="constrained")
for ax, (name, values) in zip(axes, HANDLES.items(), strict=False):
    color, marker, line = LOOKS[name]
    reached = swept[name]["kl"][:, :, -1].mean(axis=1)
    ax.plot(values, reached, marker=marker, color=color, linestyle=line)
    ax.set(xlabel=name, ylabel="KL(pi ‖ prior) at the end, nats", ylim=(-0.05, 1))
    axes[3].plot(
        reached,
        100 * swept[name]["accuracy"].min(axis=-1).mean(axis=1),
        marker=marker,
        color=color,
        linestyle=line,
        label=name,
    )
axes[0].set_xscale("log")
axes[1].plot([0, 0.8], [0, 0.8], color="#777777", linewidth=0.8)
axes[2].invert_xaxis()
axes[3].set(xlabel="KL(pi ‖ prior) at the end, nats", ylabel="worst digit's accuracy, %")
axes[3].legend(frameon=False)
plt.show()

# %% [markdown]
# `radius` is the distance itself, whatever the losses. `target_ess` is counted against the prior: 10 is the prior, 5 may leave
# half of the groups (`effective_groups` of `diagnostics` is 1 / sum(pi²), against uniform weights, and says the same only where
# the prior is uniform). A `kl_penalty` is in units of the loss: how far it lets the weights go changes as the losses fall.
#
# ## A recipe
#
# 1. Run once with `radius=0`, which is plain training, and look at `group_losses`: the largest less the mean is all that can
#    be won. Try static weights, here a uniform `prior` with `dual_learning_rate=0`: that is the baseline to beat.
# 2. `radius=0.2` and `dual_learning_rate` near 0.1 over the difference of those losses. Double the radius while the worst group
#    of a *validation* set gets better.
# 3. Look at `diagnostics`. Weights that swing: divide the rate by 3. A gap that is still large, or a `kl` that has not reached
#    the radius early in training: multiply it by 3. Neither: leave it.
# 4. The same with `kl_penalty`: start near the differences of the group losses and halve it. Use it where the adversary should
#    calm down when the groups have become alike.


# %%
def verdict(kl, still_to_go):
    """What steps 2 and 3 say of the end of a run, `[50]` each."""
    if kl.std() > 0.1 * max(kl.mean(), 0.1):
        return "too fast"
    if still_to_go.mean() > 1:
        return "too slow"
    return "too weak" if kl.mean() < 0.05 else "right"


for name, (i, j) in PLACES.items():
    run = {key: runs[key][i * len(PENALTIES) + j, :, late] for key in ("kl", "gap")}
    found = {verdict(run["kl"][k], run["gap"][k] / PENALTIES[j]) for k in range(SPLITS)}
    print(f"{name}: diagnostics say {', '.join(found)}; worst digit {worst[i, j]:.0f} %")
    assert found == {name}

static = sweep(prior=np.full((1, 10), 0.1), dual_learning_rate=[0.0], kl_penalty=[1.0])
of_static = 100 * static["accuracy"].min(axis=-1).mean()
by_radius = dict(zip(HANDLES["radius"], 100 * swept["radius"]["accuracy"].min(axis=-1).mean(axis=1), strict=True))
print(f"worst digit: plain {by_radius[0.0]:.0f} %, static weights {of_static:.0f} %,", end=" ")
print(", ".join(f"radius {radius:g} {accuracy:.0f} %" for radius, accuracy in by_radius.items() if radius > 0))
assert by_radius[0.4] > by_radius[0.2] > by_radius[0.0] + 10

# At equal distance the handles are one: of the others, accuracy is within 5 points of what `radius` has there.
radii = np.array(list(by_radius))
for name in ("kl_penalty", "target_ess"):
    reached = swept[name]["kl"][:, :, -1].mean(axis=1)
    accuracy = 100 * swept[name]["accuracy"].min(axis=-1).mean(axis=1)
    np.testing.assert_allclose(accuracy, np.interp(reached, radii, list(by_radius.values())), atol=5)

# %% [markdown]
# Static weights go most of the way here, since the odd digits are above all rare; the adversary adds a little, for those that
# are hard as well.
