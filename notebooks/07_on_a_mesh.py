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
# # On a mesh
#
# One weight for each of a million examples, on eight devices, by the training step that one device runs. The devices here
# are eight pieces of this machine's processor: that shows where everything lives and that the answer is the same, not how
# fast it would be.

# %%
import re

import jax

jax.config.update("jax_num_cpu_devices", 8)  # before JAX makes its first array

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import also_optax

NUM_EXAMPLES, BATCH, EPOCHS = 2**20, 4096, 3
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# The data: in one example of a hundred the label follows another feature than in the rest, and nobody knows in which. It stays
# on the host, and batches of it are handed out in random order, as a data loader would.

# %%
rng = np.random.default_rng(0)
x = rng.normal(size=(NUM_EXAMPLES, 8)).astype(np.float32)
rare = rng.random(NUM_EXAMPLES) < 0.01
y = np.where(rare, x[:, 1] > 0, x[:, 0] > 0).astype(np.float32)
ids = np.concatenate([rng.permutation(NUM_EXAMPLES).reshape(-1, BATCH) for _ in range(EPOCHS)]).astype(np.int32)


def losses(params, x, y):
    return optax.sigmoid_binary_cross_entropy(x @ params["w"] + params["b"], y)


def init_params():
    return {"w": jnp.zeros(8), "b": jnp.zeros(())}


# %% [markdown]
# ## The step
#
# Nothing in it knows of devices. With so many groups `also` is lazy by itself: a step touches the batch's part of the weights.

# %%
loss_and_grads = also_optax.value_and_grad(losses)
tx = also_optax.also(1e-2, num_groups=NUM_EXAMPLES, dual_learning_rate=1e-3, kl_penalty=0.1)


def train_step(params, opt_state, x, y, ids):
    (loss, rw), grads = loss_and_grads(params, opt_state, x, y, groups=ids)
    updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
    return optax.apply_updates(params, updates), opt_state, loss


# %% [markdown]
# ## Where everything lives
#
# `state_shardings` says it for each leaf of the optimizer's state: what belongs to a parameter is beside it, and
# `groups_axis="data"` splits the adversary's tables. The state is made in its place, and donated to each step, or every step
# would copy it.

# %%
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
replicated, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))


def start_on_mesh(groups_axis="data"):
    params = jax.device_put(init_params(), replicated)
    shardings = also_optax.state_shardings(tx, params, mesh, groups_axis=groups_axis)
    return params, jax.jit(tx.init, out_shardings=shardings)(params)


def batch_of(rows, sharding=None):
    return jax.device_put((x[rows], y[rows], rows), sharding)


def megabytes_per_device(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)) / 1e6


params, opt_state = start_on_mesh()
for path, leaf in jax.tree.leaves_with_path(opt_state):
    if leaf.size > 1:
        print(f"{jax.tree_util.keystr(path):42} {leaf.shape!s:14} {leaf.sharding.spec}")
whole, pieces = megabytes_per_device(start_on_mesh(groups_axis=None)[1]), megabytes_per_device(opt_state)
print(f"{whole:.1f} MB on each device if replicated, {pieces:.1f} MB as it is")

# %% [markdown]
# ## Training
#
# Call the step under `jax.set_mesh`. Devices that are pieces of one processor can wait for each other for ever when several
# steps are under way, so each is waited for here; on real ones leave that out.

# %%
step = jax.jit(train_step, donate_argnums=(0, 1))
with jax.set_mesh(mesh):
    compiled = step.lower(params, opt_state, *batch_of(ids[0], split)).compile()
    for rows in ids:
        params, opt_state, loss = jax.block_until_ready(compiled(params, opt_state, *batch_of(rows, split)))

one_params, one_state = init_params(), jax.jit(tx.init)(init_params())
for rows in ids:
    one_params, one_state, one_loss = step(one_params, one_state, *batch_of(rows))

weights, one_weights = (NUM_EXAMPLES * np.asarray(also_optax.group_weights(of)) for of in (opt_state, one_state))
print(f"weighted loss: eight devices {loss:.6f}, one device {one_loss:.6f}")

# %% [markdown]
# What the devices send each other in a step, from the compiled program: ids, losses and sums, never a table.

# %%
COLLECTIVE = r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\("
sent = [line for line in compiled.as_text().splitlines() if re.search(COLLECTIVE, line)]
shapes = [shape for line in sent for shape in re.findall(r"\w\[([\d,]*)\]", re.split(COLLECTIVE, line)[0])]
sizes = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
print(f"{len(sent)} messages, the largest of {max(sizes)} numbers (a histogram); a table has {NUM_EXAMPLES}")

# %%
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
bars = left.bar(["replicated", 'groups_axis="data"'], [whole, pieces], color=["#777777", "#0072B2"], edgecolor="black")
left.bar_label(bars, fmt="%.1f")
left.set(ylabel="MB on each device")
left.set_title("The optimizer's state", loc="left")
bins = np.geomspace(weights.min(), weights.max(), 60)
for kind, name, color, line in ((~rare, "common", "#0072B2", "-"), (rare, "rare (1 %)", "#D55E00", "--")):
    middle.hist(weights[kind], bins, histtype="step", color=color, linestyle=line, linewidth=1.8, label=name)
middle.set(xscale="log", yscale="log", xlabel="weight (plain: 1)", ylabel="examples")
middle.set_title("Weights after training", loc="left")
middle.legend(frameon=False)
shown = np.concatenate([np.flatnonzero(kind)[:1500] for kind in (rare, ~rare)])
right.loglog(one_weights[shown], weights[shown], ".", color="#009E73", markersize=4)
right.set(xlabel="weight on one device", ylabel="weight on eight devices")
right.set_title("The same weights (1500 rare, 1500 common)", loc="left")
plt.show()

# %% [markdown]
# The adversary has found the rare examples by their losses alone, and it is the same adversary on any number of devices, up to
# the order in which floats are added. [SCALING.md](../benchmarks/SCALING.md) goes on from here, to more than one machine.

# %%
assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(opt_state))
assert pieces < whole / 7
assert max(sizes) < NUM_EXAMPLES / 100
np.testing.assert_allclose(weights, one_weights, rtol=1e-4)
np.testing.assert_allclose(params["w"], one_params["w"], rtol=1e-3, atol=1e-4)
print(f"mean weight: rare {weights[rare].mean():.1f}, common {weights[~rare].mean():.2f}; ", end="")
print(f"largest difference between one device and eight {np.abs(weights / one_weights - 1).max():.0e}")
assert weights[rare].mean() > 3 * weights[~rare].mean()
