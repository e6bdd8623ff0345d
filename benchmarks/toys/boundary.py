"""Two Gaussian classes in the plane, one of them rare, and a linear boundary that starts turned away from the best one.

After ABSGD's example (arXiv 2012.06951). Both classes have one covariance, so the boundary with the best balanced
accuracy is known, and so is the balanced accuracy of any other.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import norm

from also_optax.losses import inverse_frequency_weights
from benchmarks.toys import descent
from benchmarks.toys.descent import Rule

MEANS = np.array([[-1.0, -0.5], [1.0, 0.5]])
COVARIANCE = np.array([[1.0, -0.5], [-0.5, 1.0]])
BEST = np.linalg.solve(COVARIANCE, MEANS[1] - MEANS[0])
"""The normal of the best boundary, which goes through the origin."""


class Weighting(NamedTuple):
    """How a step weighs examples.

    Attributes:
      about: half a sentence.
      rule: from losses; None is none.
      loss: ``loss(logits, targets)``, ``[n]``.
      balanced: whether weights are inverse class frequencies.
    """

    about: str
    rule: Rule = None
    loss: Callable[[jax.Array, jax.Array], jax.Array] = optax.sigmoid_binary_cross_entropy
    balanced: bool = False


def sample(seed: int, counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points ``[n, 2]`` and their classes ``[n]``."""
    rng = np.random.default_rng(seed)
    points = [rng.multivariate_normal(mean, COVARIANCE, size=count) for mean, count in zip(MEANS, counts, strict=True)]
    return np.concatenate(points), np.repeat([0, 1], counts)


def start(seed: int, degrees: float) -> np.ndarray:
    """A boundary ``[w1, w2, b]`` through the origin, turned from the best by `degrees`, to a side drawn by the seed."""
    angle = np.radians(degrees) * np.random.default_rng([seed, 1]).choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.append(turn @ BEST / np.linalg.norm(BEST), 0.0)


def train(
    weighting: Weighting,
    learning_rates: np.ndarray,
    seeds: np.ndarray,
    counts: tuple[int, int],
    steps: int,
    degrees: float,
) -> np.ndarray:
    """Boundaries after each step of gradient descent on all points, ``[R, S, 1 + steps, 3]``, with the start."""
    points, classes = (jnp.asarray(np.stack(part)) for part in zip(*(sample(s, counts) for s in seeds), strict=True))
    starts = jnp.asarray(np.stack([start(s, degrees) for s in seeds]))
    return np.asarray(_train(weighting, steps, jnp.asarray(learning_rates), points, classes, starts))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(
    weighting: Weighting,
    steps: int,
    learning_rates: jax.Array,
    points: jax.Array,
    classes: jax.Array,
    starts: jax.Array,
) -> jax.Array:
    def of_run(learning_rate: jax.Array, x: jax.Array, y: jax.Array, params: jax.Array) -> jax.Array:
        factors = jnp.ones(len(y))
        if weighting.balanced:
            factors = inverse_frequency_weights(jnp.bincount(y, length=2))[y]

        def losses_of(params: jax.Array) -> jax.Array:
            return factors * weighting.loss(x @ params[:2] + params[2], y.astype(x.dtype))

        def step(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = descent.step(weighting.rule, learning_rate, losses_of, state)
            return state, state[0]

        opt_state = descent.sgd(weighting.rule, learning_rate).init(params)
        _, after = jax.lax.scan(step, (params, opt_state), length=steps)
        return jnp.concatenate([params[None], after])

    of_seeds = jax.vmap(of_run, in_axes=(None, 0, 0, 0))
    return jax.vmap(of_seeds, in_axes=(0, None, None, None))(learning_rates, points, classes, starts)


def angle(boundaries: np.ndarray) -> np.ndarray:
    """Degrees between boundaries ``[..., 3]`` and the best one."""
    normals = boundaries[..., :2]
    cosine = normals @ BEST / (np.linalg.norm(normals, axis=-1) * np.linalg.norm(BEST))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def balanced_accuracy(boundaries: np.ndarray) -> np.ndarray:
    """That of boundaries ``[..., 3]`` on the two distributions, exactly."""
    normals, offsets = boundaries[..., :2], boundaries[..., 2]
    deviation = np.sqrt(np.einsum("...i,ij,...j->...", normals, COVARIANCE, normals))
    right = [sign * (normals @ mean + offsets) / deviation for sign, mean in zip((-1, 1), MEANS, strict=True)]
    return norm.cdf(right).mean(0)
