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
# # A game for the few
#
# One example in twenty comes from a group that a plain average forgets. Below, `optax.adamw` and `also_optax.also` train the
# same linear classifier on the same data. The picture shows what the adversary does about it, and how we know that it has
# done its job: its *gap*, which is exact and costs nothing.

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
counts = jnp.bincount(group, length=2)


# %%
def per_example_loss(params):
    return optax.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], label)


def train(tx, plain=False):
    """Parameters after training, and what was seen of each step."""
    loss_and_grads = also_optax.value_and_grad(per_example_loss)

    def step(carry, _):
        params, opt_state = carry
        losses = per_example_loss(params)
        group_losses = jnp.stack([losses.mean(where=group == g) for g in (0, 1)])
        if plain:
            grads = jax.grad(lambda params: per_example_loss(params).mean())(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            seen = {}
        else:
            (_, rw), grads = loss_and_grads(params, opt_state, groups=group)
            updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
            seen = {"pi": also_optax.group_weights(opt_state), "gap": also_optax.diagnostics(opt_state)["gap"]}
        return (optax.apply_updates(params, updates), opt_state), seen | {"group_losses": group_losses}

    params = {"w": jnp.zeros(2), "b": jnp.zeros(())}
    (params, _), seen = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=steps))()
    return params, seen


frequencies = counts / counts.sum()
# The prior is where the adversary starts: here at the data's own shares, which is plain training.
robust = also_optax.also(
    0.02,
    num_groups=2,
    dual_learning_rate=0.1,
    kl_penalty=0.02,
    prior=frequencies,
    group_frequencies=frequencies,
    average_decay=0.9,
)
plain_params, plain = train(optax.adamw(0.02), plain=True)
robust_params, game = train(robust)

# %%
fig, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
blue, orange, grey = "#0072B2", "#D55E00", "#777777"
for values, style, name in ((plain, "--", "AdamW"), (game, "-", "ALSO")):
    for g, (colour, who) in enumerate(((blue, "common"), (orange, "rare"))):
        axes[0].plot(values["group_losses"][:, g], style, color=colour, label=f"{who} group, {name}")
axes[0].set(title="Mean loss of each group", xlabel="step", ylabel="loss")
axes[0].legend(frameon=False, fontsize=8)
axes[1].plot(game["pi"][:, 1], color=orange)
axes[1].axhline(frequencies[1], color=grey, linestyle=":")
axes[1].annotate("its share of the data", (steps, frequencies[1]), (0, 4), textcoords="offset points", ha="right")
axes[1].set(title="The adversary's weight on the rare group", xlabel="step", ylabel="pi", ylim=(0, None))
axes[2].semilogy(np.maximum(game["gap"], 1e-9), color=blue)
axes[2].set(title="The adversary's gap", xlabel="step", ylabel="max F(p) - F(pi)")
plt.show()

# %% [markdown]
# AdamW leaves the rare group behind. Under ALSO the adversary moves weight to it until the two groups' losses meet up to the
# pull of `kl_penalty`, and stays there; the gap says that no other weights would be worse for this model.

# %%
worst_plain, worst_robust = (float(seen["group_losses"][-1].max()) for seen in (plain, game))
print(f"worst group's loss: AdamW {worst_plain:.3f}, ALSO {worst_robust:.3f}; last gap {float(game['gap'][-1]):.1e}")
assert worst_robust < 0.8 * worst_plain
assert float(game["gap"][-1]) < 1e-3
