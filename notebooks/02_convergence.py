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
# # How fast the game is solved
#
# Training against an adversary is a game of two players who move at the same time, and such games can go round in circles.
# Here is a small one whose solution is known exactly, so that every step can be compared with it. It shows what the
# optimism of `also_optax.also` is for, that theory and runs agree, and how to tell from `diagnostics` whether the adversary
# keeps pace.

# %%
import jax

jax.config.update("jax_enable_x64", True)  # the gaps below go down to rounding

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import also_optax
from also_optax import contrib

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

# %% [markdown]
# ## A game with a known solution
#
# Three groups with one example each, a model of three parameters, and losses that are straight lines plus the same bowl:
#
# $$\min_\theta \max_\pi\; \sum_g \pi_g L_g(\theta) - \tau\,\mathrm{KL}(\pi\|\hat\pi), \qquad
#   L_g(\theta) = a_g \cdot \theta + b_g + \tfrac12 \sum_j m_j \theta_j^2.$$
#
# The bowl is shallow in two directions and steep in one, as in most models. We choose the weights `PI_STAR` that are to be
# the answer. The model's best reply to any weights is $\theta_j = -(\sum_g \pi_g a_g)_j / m_j$, and the heights $b_g$ follow
# from the adversary's best reply, $\pi^* \propto \hat\pi\, e^{L(\theta^*)/\tau}$. So both sides of the duality gap have a
# closed form.

# %%
PRIOR, PI_STAR = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
TAU, CURVATURE = 0.05, np.array([0.05, 0.05, 1.0])
ANGLES = 0.3 + 2 * np.pi * np.arange(3) / 3
SLOPES = np.stack([np.cos(ANGLES), np.sin(ANGLES), [1.0, -0.5, 0.3]], axis=1) * np.array([1.0, 1.3, 0.8])[:, None]
THETA_STAR = -PI_STAR @ SLOPES / CURVATURE
HEIGHTS = TAU * np.log(PI_STAR / PRIOR) - SLOPES @ THETA_STAR


def losses(theta):
    return SLOPES @ theta + HEIGHTS + CURVATURE @ theta**2 / 2


def duality_gap(theta, pi):
    """The worst that an adversary could do to theta, less the best that a model could do against pi."""
    worst = TAU * jax.nn.logsumexp(jnp.log(PRIOR) + losses(theta) / TAU)
    best_reply = -pi @ SLOPES / CURVATURE
    return worst - pi @ losses(best_reply) + TAU * jnp.sum(pi * jnp.log(pi / PRIOR))


print(f"duality gap at the solution: {duality_gap(THETA_STAR, PI_STAR):.0e}")

# %% [markdown]
# ## The players
#
# `optimism=0` is descent-ascent: each player answers the other's last move. `optimism=1` answers where the other seems to be
# going, `2 g_t - g_{t-1}`. `lookahead=True` does the same in two half-steps. Adam is left out (`optax.identity()`), so that
# the only settings are the two step sizes.

# %%
STEPS, TARGET = 1500, 1e-6
loss_and_grads = also_optax.value_and_grad(losses)


def play(learning_rate, dual_learning_rate, optimism, lookahead=False):
    """What is seen after each step of a run from theta = 0 and the prior."""
    tx = also_optax.also(
        learning_rate,
        num_groups=3,
        dual_learning_rate=dual_learning_rate,
        kl_penalty=TAU,
        prior=PRIOR,
        optimism=optimism,
        lookahead=lookahead,
        optimizer=optax.identity(),
        weight_decay=0.0,
        average_decay=0.9,
    )

    def step(carry, _):
        theta, opt_state = carry
        (_, rw), grads = loss_and_grads(theta, opt_state, groups=jnp.arange(3))
        updates, opt_state = tx.update(grads, opt_state, theta, **rw.extra_args)
        theta = optax.apply_updates(theta, updates)
        point, pi = also_optax.eval_params(opt_state, theta), also_optax.group_weights(opt_state)
        seen = {"gap": duality_gap(point, pi), "theta": point, "pi": pi}
        return (theta, opt_state), seen | {"adversary_gap": also_optax.diagnostics(opt_state)["gap"]}

    return jax.lax.scan(step, (jnp.zeros(3), tx.init(jnp.zeros(3))), length=STEPS)[1]


METHODS = {
    "descent-ascent": {"optimism": 0},
    "optimistic": {"optimism": 1.0},
    "look-ahead": {"optimism": 1.0, "lookahead": True},
}
RATES = np.geomspace(1 / 64, 8, 10)  # for either player


def on_grid(settings):
    """The gaps of all pairs of step sizes, `[dual, model, STEPS]`, in one compiled function."""

    def gaps(dual, rate):
        return play(rate, dual, **settings)["gap"]

    over_models = jax.vmap(gaps, in_axes=(None, 0))
    return np.asarray(jax.jit(jax.vmap(over_models, in_axes=(0, None)))(RATES, RATES))


def each(pairs, settings):
    """A run for each of some (model, adversary) pairs of step sizes."""
    runs = jax.jit(jax.vmap(lambda pair: play(*pair, **settings)))(jnp.array(pairs))
    return [jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), runs) for k in range(len(pairs))]


def steps_to_target(gaps):
    """After how many steps the gap stays below TARGET; infinity where it does not."""
    above = ~(gaps <= TARGET)
    last_above = gaps.shape[-1] - np.argmax(above[..., ::-1], axis=-1)
    return np.where(above.any(axis=-1), np.where(above[..., -1], np.inf, last_above), 0)


needed = {name: steps_to_target(on_grid(settings)) for name, settings in METHODS.items()}
best = {}
for name, steps in needed.items():
    i, j = np.unravel_index(np.argmin(steps), steps.shape)
    best[name] = (RATES[j], RATES[i])
    print(f"{name}: {steps[i, j]:.0f} steps to a gap of {TARGET:g} with {RATES[j]:.3g} (model) and {RATES[i]:.3g}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)
ticks = [f"1/{1 / r:.0f}" if r < 0.9 else f"{r:.0f}" for r in RATES]
for ax, (name, steps) in zip(axes, needed.items(), strict=True):
    shown = ax.imshow(np.where(np.isinf(steps), np.nan, steps), origin="lower", cmap="cividis", vmin=0, vmax=STEPS)
    i, j = np.unravel_index(np.argmin(steps), steps.shape)
    ax.plot(j, i, "*", color="white", markeredgecolor="black", markersize=15)
    ax.set_title(f"{name}: at best {steps[i, j]:.0f} steps", loc="left")
    ax.set(xlabel="step size of the model", xticks=range(10), xticklabels=ticks, yticks=range(10), yticklabels=ticks)
axes[0].set(ylabel="step size of the adversary")
fig.colorbar(shown, ax=axes, label=f"steps to a gap of {TARGET:g} (white: more than {STEPS})")
plt.show()

# %% [markdown]
# With equal step sizes descent-ascent needs about a thousand steps. It does better when one player is so much slower that the
# other has always almost answered: two narrow roads that have to be found. Optimism opens the whole middle of the map, and is
# fastest there. That takes a model whose directions differ in curvature: with `CURVATURE` 0.05 in all three, one model step of
# about 1/0.05 is the best reply itself, and descent-ascent with such steps is the faster of the two (27 steps against 46).
#
# ## The rate, from theory and from runs
#
# Near the solution a step is a matrix, and the gap shrinks by the square of its largest eigenvalue, $\rho^2$, in each step.
# The matrix is worked out below from the equations of the method alone.


# %%
def rate(learning_rate, dual_learning_rate, optimism):
    """rho: of the step in theta and log(pi_g/pi_0), linearised at the solution, and of the step before it."""
    differences = SLOPES[1:] - SLOPES[0]
    spread = (np.diag(PI_STAR) - np.outer(PI_STAR, PI_STAR))[1:, 1:]
    towards = np.block([[-np.diag(CURVATURE), -differences.T @ spread], [differences, np.zeros((2, 2))]])
    towards = np.diag([learning_rate] * 3 + [dual_learning_rate] * 2) @ towards
    pull = np.diag([1.0] * 3 + [1 / (1 + dual_learning_rate * TAU)] * 2)
    now, before = pull @ (np.eye(5) + (1 + optimism) * towards), -optimism * pull @ towards
    return np.abs(np.linalg.eigvals(np.block([[now, before], [np.eye(5), np.zeros((5, 5))]]))).max()


EQUAL = (0.25, 0.25)
runs, equal = {}, {}
for name, settings in METHODS.items():
    runs[name], equal[name] = each([best[name], EQUAL], settings)
solved = contrib.mirror_prox(
    losses,
    jnp.zeros(3),
    learning_rate=best["optimistic"][0],
    dual_learning_rate=best["optimistic"][1],
    kl_penalty=TAU,
    prior=PRIOR,
    strong_convexity=CURVATURE.min(),
    tolerance=0.0,
    max_steps=STEPS,
)

# %%
STYLES = {
    "descent-ascent": {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    "optimistic": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "look-ahead": {"color": "#009E73", "linestyle": "-.", "marker": "^"},
}
FLOOR = 1e-14  # below, the gap is rounding


def draw_theory(ax, name, pair, gaps):
    """A straight line at the rate of theory, a little above the run, from the step on where its gap is below 1e-2."""
    rho = rate(*pair, METHODS[name]["optimism"])
    steps = np.arange(int(np.argmax(gaps < 1e-2)), STEPS)
    line = 3e-2 * rho ** (2.0 * (steps - steps[0]))
    ax.semilogy(steps, line, ":", color="black", linewidth=1.2)
    middle = int(np.argmax(line < 1e-5))
    ax.annotate(f"{rho:.4f}$^{{2t}}$", (steps[middle], line[middle]), (4, 4), textcoords="offset points")


fig, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained", sharey=True)
for ax, shown, pairs, length in ((left, runs, best, 600), (right, equal, dict.fromkeys(METHODS, EQUAL), 1200)):
    for k, (name, run) in enumerate(shown.items()):
        label = f"{name}, {pairs[name][0]:.2g} and {pairs[name][1]:.2g}"
        ax.semilogy(np.maximum(run["gap"], FLOOR), **STYLES[name], markersize=5, markevery=(15 * k, 75), label=label)
        if name != "look-ahead":
            draw_theory(ax, name, pairs[name], run["gap"])
    ax.set(xlim=(0, length), ylim=(FLOOR / 2, 30), xlabel="step")
bound = np.maximum(solved.gaps, FLOOR)
left.semilogy(np.arange(5, 220, 18), bound[5:220:18], "x", color="black", label="bound by mirror_prox")
left.set_ylabel("duality gap")
left.set_title("Each method at its best step sizes (model and adversary)", loc="left")
right.set_title("Both players at 1/4", loc="left")
for ax in (left, right):
    ax.plot([], [], ":", color="black", label="rate of theory")
    ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# All converge linearly, as straight as theory says. `contrib.mirror_prox` is the optimistic recursion as a solver: the same
# path, with a bound on the gap that needs no closed form, and so a reason to stop.
#
# ## Where the weights go
#
# Weights of three groups are points of a triangle. Descent-ascent spirals, because each player runs past the place where the
# other has just been.


# %%
def to_plane(pi):
    return pi @ np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


def draw_triangle(ax, names):
    corners = to_plane(np.eye(3)[[0, 1, 2, 0]])
    ax.plot(*corners.T, color="#777777", linewidth=1)
    for corner, name, side in zip(corners, ("group 0", "group 1", "group 2"), ("right", "left", "left"), strict=False):
        ax.annotate(name, corner, (-6 if side == "right" else 6, -4), textcoords="offset points", ha=side)
    for name, path in names.items():
        path = to_plane(np.concatenate([PRIOR[None], path]))
        ax.plot(*path.T, **STYLES[name] | {"linestyle": "-"}, markersize=4, markevery=10, linewidth=1, label=name)
    ax.plot(*to_plane(PRIOR), "D", color="black", label="prior, the start")
    ax.plot(*to_plane(PI_STAR), "*", color="white", markeredgecolor="black", markersize=17, zorder=3, label="solution")
    ax.set_aspect("equal")
    ax.axis("off")


fig, axes = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained")
short = {name: equal[name]["pi"][:400] for name in ("descent-ascent", "optimistic")}
for ax, name in zip(axes, short, strict=True):
    draw_triangle(ax, {name: short[name]})
    ax.legend(frameon=False, loc="upper left")
    ax.set_title(f"{name}: the adversary's weights, 400 steps at 1/4 and 1/4")
plt.show()

# %% [markdown]
# ## The adversary's gap as a gauge
#
# In practice there is no closed form. But the adversary's side of the gap is always exact, and `diagnostics` has it: how much
# worse the worst weights would be than the present ones. Three adversaries against the same model (step size 1/4):

# %%
PACES = {"healthy": 1 / 4, "too fast": 2.0, "too slow": 1 / 64}
paced = dict(zip(PACES, each([(0.25, eta) for eta in PACES.values()], {"optimism": 1.0}), strict=True))
fig, (left, right) = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
looks = zip(PACES, ("optimistic", "descent-ascent", "look-ahead"), strict=True)
for k, (name, look) in enumerate(looks):
    run, style = paced[name], STYLES[look] | {"markersize": 5, "markevery": (10 * k, 50)}
    label = f"{name}: dual_learning_rate={PACES[name]:.3g}"
    left.semilogy(np.maximum(run["adversary_gap"], 1e-9), **style, label=label)
    right.plot(run["pi"][:, 2], **style)
right.axhline(PI_STAR[2], color="black", linestyle=":", linewidth=1)
left.set(xlabel="step", ylabel="gap (in units of the loss)", xlim=(0, 400), ylim=(5e-10, 30))
left.set_title('diagnostics(opt_state)["gap"]', loc="left")
left.legend(frameon=False, fontsize=9)
right.set(xlabel="step", ylabel="pi of group 2", xlim=(0, 400), ylim=(0, 1))
right.set_title("A group's weight (dots: solution)", loc="left")
plt.show()

# %% [markdown]
# - **Healthy**: the gap falls for as long as the model learns, and the weights come to rest.
# - **Too fast**: the gap is small, since the adversary has always just answered, but it stops falling and the weights swing
#   from step to step. Lower `dual_learning_rate`; on noisy batches, earlier.
# - **Too slow**: the gap is large against the differences of the groups' losses, and the weights drift in long waves. Raise it.
#
# What the notebook claims, checked:

# %%
final = {name: float(run["gap"][-1]) for name, run in runs.items()}
print(", ".join(f"{name} {value:.0e}" for name, value in final.items()))
fewest = {name: steps.min() for name, steps in needed.items()}
assert final["optimistic"] < 1e-6 and final["look-ahead"] < 1e-6
assert 2 * fewest["optimistic"] < fewest["descent-ascent"]
np.testing.assert_allclose(runs["optimistic"]["theta"][-1], THETA_STAR, atol=1e-6)
np.testing.assert_allclose(runs["optimistic"]["pi"][-1], PI_STAR, atol=1e-6)

# The solver walks the same path, and its bound is one.
np.testing.assert_allclose(solved.params, runs["optimistic"]["theta"][-1], atol=1e-10)
assert np.all(solved.gaps[:150] >= runs["optimistic"]["gap"][:150] - 1e-12)

# Where the gap is between 1e-4 and 1e-10, it falls at the rate of theory.
gaps = runs["optimistic"]["gap"]
start, end = np.argmax(gaps < 1e-4), np.argmax(gaps < 1e-10)
observed = (gaps[end] / gaps[start]) ** (0.5 / (end - start))
predicted = rate(*best["optimistic"], optimism=1.0)
print(f"rate of theory {predicted:.4f}, of the run {observed:.4f}")
assert abs(np.log(observed) / np.log(predicted) - 1) < 0.05

ends = {name: run["adversary_gap"][350:400] for name, run in paced.items()}
assert ends["healthy"].max() < 1e-6 < 1e-4 < ends["too fast"].max() < 1e-2 < ends["too slow"].max()
