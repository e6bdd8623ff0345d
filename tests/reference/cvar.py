"""CVaR, arXiv 2010.05893, eq. 3, by sorting."""

import numpy as np


def weights(losses, alpha):
    """B·p, ``[B]``; equal losses share."""
    losses = np.asarray(losses, dtype=float)
    left = alpha * len(losses)
    found = np.zeros(len(losses))
    for loss in sorted(set(losses), reverse=True):
        ties = losses == loss
        taken = min(left, ties.sum())
        found[ties] = taken / (alpha * ties.sum())
        left -= taken
    return found


def value(losses, alpha):
    """min over t of t + mean (l - t)+/alpha, which is piecewise linear with its corners at the losses."""
    losses = np.asarray(losses, dtype=float)
    return min(t + np.maximum(losses - t, 0).mean() / alpha for t in losses)
