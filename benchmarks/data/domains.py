"""Domains made of one set of images: rotated ones, and ones whose colour says more or less about the label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage


class Domains(NamedTuple):
    """Images of several domains.

    Attributes:
      features: uint8, ``[N, h, w, channels]``.
      classes: int, ``[N]``.
      domains: int, ``[N]``.
      names: of the domains.
    """

    features: np.ndarray
    classes: np.ndarray
    domains: np.ndarray
    names: tuple[str, ...]


def rotated(images: np.ndarray, classes: np.ndarray, degrees: Sequence[float], *, seed: int) -> Domains:
    """Each image turned by one of the angles, as many images an angle.

    Args:
      images: uint8, ``[N, h, w]``.
      classes: ``[N]``.
      degrees: counter-clockwise; a domain each.
      seed: of which image is of which domain.
    """
    domains = _dealt(len(images), len(degrees), seed)
    turned = np.zeros_like(images)
    for domain, angle in enumerate(degrees):
        rows = domains == domain
        turned[rows] = ndimage.rotate(images[rows], angle, axes=(2, 1), reshape=False, order=1)
    return Domains(turned[..., None], classes, domains, tuple(f"{angle:g}°" for angle in degrees))


def coloured(
    images: np.ndarray, classes: np.ndarray, agreements: Sequence[float], *, noise: float, seed: int
) -> Domains:
    """Coloured MNIST (arXiv 1907.02893): the label is wrong with a chance of `noise`, the colour agrees with it or not.

    Args:
      images: uint8, ``[N, h, w]``.
      classes: ``[N]``, from 0 to 9; the label is whether the class is 5 or more.
      agreements: chances that an image of label 1 is in the second channel, and one of label 0 in the first.
      noise: chance that a label is turned round.
      seed: of domains, labels and colours.
    """
    rng = np.random.default_rng(seed)
    domains = _dealt(len(images), len(agreements), seed)
    labels = (classes >= 5) ^ (rng.random(len(images)) < noise)
    channel = np.where(rng.random(len(images)) < np.asarray(agreements)[domains], labels, ~labels).astype(int)
    features = np.zeros((*images.shape, 2), images.dtype)
    features[np.arange(len(images)), :, :, channel] = images
    names = tuple(f"{200 * chance - 100:+.0f} %" for chance in agreements)
    return Domains(features, labels.astype(int), domains, names)


def halved(images: np.ndarray) -> np.ndarray:
    """Images ``[N, h, w]`` at half the resolution: means of four pixels, without an odd last row or column."""
    n, height, width = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2].reshape(n, height // 2, 2, width // 2, 2)
    return even.mean((2, 4)).astype(images.dtype)


def _dealt(count: int, domains: int, seed: int) -> np.ndarray:
    """A domain for each of `count` images, equally many of each, up to one."""
    return np.random.default_rng([seed, 1]).permutation(np.arange(count) % domains)
