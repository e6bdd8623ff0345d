"""Chi-square DRO, arXiv 2010.05893, section 2, by their one-dimensional duals."""

import numpy as np
from scipy.optimize import brentq


def penalty_weights(losses, penalty):
    """B·p = (l - eta)+/penalty of mean 1, ``[B]``."""
    losses = np.asarray(losses, dtype=float) - np.max(losses)
    eta = _water_level(losses, penalty)
    return np.maximum(losses - eta, 0) / penalty


def penalty_value(losses, penalty):
    """The minimum over eta of the dual, eta + mean (l - eta)+²/(2·penalty) + penalty/2."""
    shifted = np.asarray(losses, dtype=float) - np.max(losses)
    eta = _water_level(shifted, penalty)
    return np.max(losses) + eta + (np.maximum(shifted - eta, 0) ** 2).mean() / (2 * penalty) + penalty / 2


def _water_level(losses, penalty):
    """Adds one loss after the other, from the largest down, until the level is above the next."""
    ordered = np.sort(losses)[::-1]
    for size in range(1, len(ordered) + 1):
        level = ordered[:size].mean() - penalty * len(ordered) / size
        if size == len(ordered) or level >= ordered[size]:
            return level


def ball_weights(losses, radius):
    """B·p = (l - eta)+/mean (l - eta)+ on the boundary of the ball, or what is inside it anyway, ``[B]``."""
    losses = np.asarray(losses, dtype=float)
    depth = _depth(losses, radius)
    if depth is None:
        return (losses == losses.max()) / (losses == losses.max()).mean()
    heights = np.maximum((losses - losses.max()) / depth + 1, 0)
    return heights / heights.mean()


def ball_value(losses, radius):
    """The minimum over eta of the dual, eta + sqrt(1 + 2·radius)·sqrt(mean (l - eta)+²)."""
    losses = np.asarray(losses, dtype=float)
    depth = _depth(losses, radius)
    if depth is None:
        return losses.max()
    if np.isinf(depth):
        return losses.mean()
    root = np.sqrt((np.maximum(losses - losses.max() + depth, 0) ** 2).mean())
    return losses.max() - depth + np.sqrt(1 + 2 * radius) * root


def _depth(losses, radius):
    """How far eta is below the largest loss; None where all on the largest losses is in the ball."""
    largest = losses == losses.max()
    if (1 / largest.mean() - 1) / 2 <= radius:
        return None
    if radius == 0:
        return np.inf
    scale = losses.max() - losses.min()
    scaled = (losses - losses.max()) / scale

    def excess(log_depth):
        heights = np.maximum(scaled / np.exp(log_depth) + 1, 0)
        return ((heights / heights.mean() - 1) ** 2).mean() / 2 - radius

    low, high = np.log(-scaled[~largest].max()), np.log(2 + 1 / np.sqrt(2 * radius))
    return scale * np.exp(brentq(excess, low, high, xtol=1e-15, rtol=1e-15))
