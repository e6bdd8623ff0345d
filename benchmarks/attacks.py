"""Attacks on images: each example has its own, and all are one function of its strengths, most of which are 0.

Shifts and rotations are one bilinear warp, so that a batch with every attack in it costs no more than one of a single
kind. What an attack does beside its strength is random: the direction of a shift, the place of a hole.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.ndimage import map_coordinates

TOGETHER = 32
"""Images that are worked on at once."""

BLUR = 5
"""Side of the square that a blurred pixel is the mean of."""


class Attack(NamedTuple):
    """How much is done of what; 0 is nothing. Numbers, or arrays with an entry an example.

    Attributes:
      shift: the longest, along either axis, as a share of the side.
      angle: the largest, in degrees.
      contrast: the largest logarithm of the factor of the contrast.
      brightness: the most that is added to all pixels or taken away.
      noise: standard deviation of Gaussian noise on each pixel.
      blur: share of the mean over a square in each pixel.
      hole: side of a square of zeros, as a share of the side.
      epsilon: of the fast gradient sign method: what is added to each pixel, in the direction of a larger loss.
    """

    shift: Any = 0.0
    angle: Any = 0.0
    contrast: Any = 0.0
    brightness: Any = 0.0
    noise: Any = 0.0
    blur: Any = 0.0
    hole: Any = 0.0
    epsilon: Any = 0.0


ATTACKS: dict[str, Attack] = {
    "none": Attack(),
    "shift": Attack(shift=0.15),
    "rotation": Attack(angle=40.0),
    "contrast": Attack(contrast=1.2, brightness=0.3),
    "noise": Attack(noise=0.3),
    "blur": Attack(blur=1.0),
    "hole": Attack(hole=0.5),
    "fgsm .02": Attack(epsilon=0.02),
    "fgsm .1": Attack(epsilon=0.1),
}
"""What the adversary chooses from, for pixels in [0, 1]."""


def of_ids(ids: jax.Array) -> Attack:
    """The attack of each example, from positions in :data:`ATTACKS`."""
    return Attack(*(jnp.array(strengths)[ids] for strengths in zip(*ATTACKS.values(), strict=True)))


def changed(key: jax.Array, images: jax.Array, attack: Attack) -> jax.Array:
    """Images ``[B, h, w, 1]`` after all that needs no model; pixels stay in [0, 1].

    Args:
      key: of what is random.
      images: pixels in [0, 1].
      attack: leaves ``[B]``.
    """
    keys = jax.random.split(key, len(images))
    # A loop, so that the pixels are worked out once, not again by each that reads them.
    return jax.lax.map(lambda one: _of_image(*one), (keys, images, attack), batch_size=TOGETHER)


def _of_image(key: jax.Array, image: jax.Array, attack: Attack) -> jax.Array:
    plan_key, noise_key = jax.random.split(key)
    signs, side = jax.random.uniform(plan_key, (7,), minval=-1.0), image.shape[0]
    moved = warped(image, jnp.round(side * attack.shift * signs[:2]), jnp.deg2rad(attack.angle) * signs[2])
    mean = image.mean()
    toned = mean + jnp.exp(attack.contrast * signs[3]) * (image - mean) + attack.brightness * signs[4]
    toned = toned + attack.blur * (blurred(image) - image)
    image = jnp.where((attack.shift > 0) | (attack.angle > 0), moved, toned)
    image = image + attack.noise * jax.random.normal(noise_key, image.shape)
    return jnp.clip(jnp.where(hole(side, attack.hole, (1 + signs[5:]) / 2), 0.0, image), 0.0, 1.0)


def warped(image: jax.Array, shift: jax.Array, angle: jax.Array) -> jax.Array:
    """An image ``[h, w, 1]`` turned about its middle by radians, then shifted by pixels ``[2]``.

    Bilinear, with zeros from outside.
    """
    middle = (jnp.array(image.shape[:2]) - 1) / 2
    at = jnp.indices(image.shape[:2], dtype=jnp.float32) - (middle + shift)[:, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows, columns = cos * at[0] + sin * at[1], cos * at[1] - sin * at[0]
    found = map_coordinates(image[..., 0], [rows + middle[0], columns + middle[1]], order=1, mode="constant")
    return found[..., None]


def blurred(image: jax.Array) -> jax.Array:
    """Each pixel of an image ``[side, side, 1]`` the mean of a square around it; zeros beyond the edges."""
    places = jnp.arange(image.shape[0])
    means = (jnp.abs(places[:, None] - places[None]) <= BLUR // 2) / BLUR
    return (means @ image[..., 0] @ means)[..., None]


def hole(side: int, share: jax.Array, corner: jax.Array) -> jax.Array:
    """Where the hole is, bool ``[side, side, 1]``.

    Args:
      side: of the image, in pixels.
      share: side of the hole as a share of it.
      corner: in [0, 1), ``[2]``: 0 is at the top or the left, 1 as far as the hole can go.
    """
    size = jnp.round(side * share)
    first = jnp.floor(corner * (side - size + 1))
    pixels = jnp.arange(side)[None]
    inside = (pixels >= first[:, None]) & (pixels < (first + size)[:, None])
    return (inside[0][:, None] & inside[1][None])[..., None]


def fast_gradient_sign(
    losses_of: Callable[[jax.Array], jax.Array], images: jax.Array, epsilons: jax.Array
) -> jax.Array:
    """Each pixel a step of its image's epsilon towards a larger loss; pixels stay in [0, 1].

    Args:
      losses_of: ``[B]`` from images.
      images: ``[B, h, w, 1]``.
      epsilons: ``[B]``.
    """
    gradient = jax.grad(lambda x: losses_of(x).sum())(images)
    return jnp.clip(images + epsilons[:, None, None, None] * jnp.sign(gradient), 0.0, 1.0)


def attacked(
    outputs_of: Callable[[jax.Array], jax.Array], key: jax.Array, images: jax.Array, classes: jax.Array, ids: jax.Array
) -> jax.Array:
    """Images after the attack of each.

    Args:
      outputs_of: logits of the model that is attacked, ``[B, C]``, from images.
      key: of what is random.
      images: ``[B, h, w, 1]``, pixels in [0, 1].
      classes: ``[B]``.
      ids: positions in :data:`ATTACKS`, ``[B]``.
    """
    attack = of_ids(ids)

    def losses_of(images: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs_of(images), classes)

    return fast_gradient_sign(losses_of, changed(key, images, attack), attack.epsilon)
