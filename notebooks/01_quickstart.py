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
# # Quickstart: a game for the few
#
# One example in twenty comes from a group that a plain average forgets. Below, `optax.adamw` and `also_optax.also` train the
# same linear classifier on the same data. Two lines of the training loop differ. The pictures show what the adversary does
# about the few, and how we know that it has done its job: its *gap*, which is exact and costs nothing.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import also_optax

rng = np.random.default_rng(0)
n, rare_share, steps = 2000, 0.05, 600
group = (rng.random(n) < rare_share).astype(np.int32)
label = rng.random(n) < 0.5
# The common group is told apart by the first feature, the rare one by the second, and the first misleads it a little.
side = np.where(label, 1.0, -1.0)
x = rng.normal(size=(n, 2)) * 0.8
x[:, 0] += np.where(group == 0, side, -0.5 * side)
x[:, 1] += np.where(group == 0, 0.0, 1.5 * side)
x, label, group = jnp.asarray(x, jnp.float32), jnp.asarray(label, jnp.float32), jnp.asarray(group)


def per_example_loss(params):
    return optax.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], label)


@jax.jit
def group_losses(params):
    losses = per_example_loss(params)
    return jnp.stack([losses.mean(where=group == g) for g in (0, 1)])


def init_params():
    return {"w": jnp.zeros(2), "b": jnp.zeros(())}


# %% [markdown]
# ## The loop you have

# %%
tx = optax.adamw(0.02)


@jax.jit
def plain_step(params, opt_state):
    def loss_fn(params):
        return per_example_loss(params).mean()

    grads = jax.grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


params = init_params()
opt_state, plain = tx.init(params), []
for _ in range(steps):
    params, opt_state = plain_step(params, opt_state)
    plain.append(group_losses(params))

# %% [markdown]
# ## Two lines change
#
# The loss is not averaged but read through the optimizer's state, where the adversary lives (**1**), and the optimizer is told
# the losses, so that the adversary can move (**2**). `group` says which of the groups an example is of.
#
# The optimizer is AdamW with an adversary. `group_frequencies` are the data's own shares of the groups: with them the adversary
# compares *mean* losses. `prior` is where it starts and what it is pulled back to, by `kl_penalty`; here the same shares, so
# that training starts as plain training.

# %%
counts = jnp.bincount(group, length=2)
frequencies = counts / counts.sum()
robust_tx = also_optax.also(
    0.02,
    num_groups=2,
    dual_learning_rate=0.1,
    kl_penalty=0.02,
    prior=frequencies,
    group_frequencies=frequencies,
    average_decay=0.9,
)


@jax.jit
def robust_step(params, opt_state):
    def loss_fn(params):
        return also_optax.reweight(opt_state, per_example_loss(params), group)  # 1

    grads, rw = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt_state = robust_tx.update(grads, opt_state, params, **rw.extra_args)  # 2
    return optax.apply_updates(params, updates), opt_state


params = init_params()
opt_state, robust, history = robust_tx.init(params), [], []
for _ in range(steps):
    params, opt_state = robust_step(params, opt_state)
    robust.append(group_losses(params))
    history.append(also_optax.diagnostics(opt_state) | {"group_weights": also_optax.group_weights(opt_state)})

# %% [markdown]
# ## What came of it

# %%
plain, robust = np.stack(plain), np.stack(robust)
pi, gap = (np.stack([found[name] for found in history]) for name in ("group_weights", "gap"))
blue, orange, grey = "#0072B2", "#D55E00", "#777777"
fig, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for losses, style, name in ((plain, "--", "AdamW"), (robust, "-", "ALSO")):
    for g, (colour, marker, who) in enumerate(((blue, "o", "common"), (orange, "s", "rare"))):
        look = {"color": colour, "marker": marker, "markevery": 150, "markersize": 5}
        axes[0].plot(losses[:, g], style, **look, label=f"{who} group, {name}")
axes[0].set(title="Mean loss of each group", xlabel="step", ylabel="loss")
axes[0].legend(frameon=False, fontsize=8)
axes[1].plot(pi[:, 1], color=orange)
axes[1].axhline(frequencies[1], color=grey, linestyle=":")
axes[1].annotate("its share of the data", (steps, frequencies[1]), (0, 4), textcoords="offset points", ha="right")
axes[1].set(title="The adversary's weight on the rare group", xlabel="step", ylabel="pi", ylim=(0, None))
axes[2].semilogy(np.maximum(gap, 1e-9), color=blue)
axes[2].set(title="The adversary's gap", xlabel="step", ylabel="max F(p) - F(pi), loss")
plt.show()

# %% [markdown]
# AdamW leaves the rare group behind. Under ALSO the adversary moves weight to it until the two groups' losses meet up to the
# pull of `kl_penalty`, and stays there; the gap says that no other weights would be worse for this model. The common group pays
# a little: there is no such thing as a free lunch for the few.
#
# `also_optax.diagnostics(opt_state)` is a flat dict of numbers for your log; `plotting.plot_diagnostics` draws all of them:

# %%
for name, value in history[-1].items():
    print(f"{name:18}", np.round(value, 4))

worst_plain, worst_robust = plain[-1].max(), robust[-1].max()
print(f"\nworst group's loss: AdamW {worst_plain:.3f}, ALSO {worst_robust:.3f}")
assert worst_robust < 0.8 * worst_plain
assert gap[-1] < 1e-3

# %% [markdown]
# ## Where to go next
#
# - **Which optimizer, and how strong?** The table in [README](../README.md) goes from your data to a method;
#   [06](06_choosing_the_strength.ipynb) finds the strength.
# - **Does it converge?** [02](02_convergence.ipynb): a game with a known solution, and when the gap is a warning.
# - **Wrong labels** want the opposite of an adversary: [05](05_label_noise.ipynb).
# - **One weight per example, many devices**: [07](07_on_a_mesh.ipynb).
# - In your own loop: masks, token losses, gradient accumulation and `shard_map` are in README; what each method solves, in
#   [docs/methods.md](../docs/methods.md). Start from static class or group weights as a baseline: they are strong.
