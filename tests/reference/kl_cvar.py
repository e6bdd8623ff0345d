"""KL-CVaR, arXiv 2010.05893, section 2, by its one-dimensional dual."""

import numpy as np
from scipy.optimize import brentq


def _level(losses, alpha, penalty):
    """eta/penalty, where the weights min(exp((l - eta)/penalty), 1/alpha) have mean 1, relative to the largest loss."""
    scaled = (np.asarray(losses, dtype=float) - np.max(losses)) / penalty

    def excess(level):
        return np.exp(np.minimum(scaled - level, -np.log(alpha))).mean() - 1

    return scaled, brentq(excess, scaled.min() - 1, 1e-9, xtol=1e-15, rtol=1e-15, maxiter=1000)


def weights(losses, alpha, penalty):
    """B·p, ``[B]``."""
    scaled, level = _level(losses, alpha, penalty)
    return np.exp(np.minimum(scaled - level, -np.log(alpha)))


def value(losses, alpha, penalty):
    """eta + the mean of the conjugate, max over w in [0, 1/alpha] of w (l - eta) - penalty (w log w - w + 1)."""
    scaled, level = _level(losses, alpha, penalty)
    cap = np.exp(np.minimum(scaled - level, -np.log(alpha)))
    conjugate = cap * (scaled - level) - (cap * np.log(np.where(cap > 0, cap, 1)) - cap + 1)
    return np.max(losses) + penalty * (level + conjugate.mean())
