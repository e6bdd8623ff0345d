"""Spectral risks, arXiv 2212.05149 and 2310.13863: sorting, and pooling of adjacent violators one entry at a time."""

import numpy as np


def superquantile(count, alpha):
    """sigma, ``[count]``: the integral of the density 1/alpha on [1 - alpha, 1]."""
    grid = np.arange(count + 1) / count
    return np.diff(np.maximum(grid - (1 - alpha), 0) / alpha)


def extremile(count, r):
    return np.diff((np.arange(count + 1) / count) ** r)


def esrm(count, rho):
    return np.diff(np.expm1(rho * np.arange(count + 1) / count) / np.expm1(rho))


def weights(losses, sigma):
    """B·sigma of the rank, ``[B]``; equal losses share."""
    losses = np.asarray(losses, dtype=float)
    ranked = np.empty(len(losses))
    ranked[np.argsort(losses, kind="stable")] = len(losses) * np.asarray(sigma)
    return np.array([ranked[losses == loss].mean() for loss in losses])


def smoothed_weights(losses, sigma, penalty, divergence):
    """B·p of the maximum of <p, l> - penalty·D(p) over the permutahedron of sigma, ``[B]``."""
    losses = np.asarray(losses, dtype=float)
    order = np.argsort(losses, kind="stable")
    found = np.empty(len(losses))
    for start, end, _ in _blocks(losses[order], len(losses) * np.asarray(sigma), penalty, divergence):
        part, total = losses[order][start:end], len(losses) * np.sum(sigma[start:end])
        if divergence == "chi2":
            found[order[start:end]] = total / (end - start) + (part - part.mean()) / penalty
        else:
            exponentials = np.exp((part - part.max()) / penalty)
            found[order[start:end]] = total * exponentials / exponentials.sum()
    return found


def smoothed_value(losses, sigma, penalty, divergence):
    """The dual at its minimum: <sigma, v> + the conjugate of penalty·D at l - v, where v is in the losses' order."""
    losses = np.sort(np.asarray(losses, dtype=float))
    blocks = _blocks(losses, len(losses) * np.asarray(sigma), penalty, divergence)
    v = np.concatenate([np.full(end - start, level) for start, end, level in blocks])
    if divergence == "chi2":  # v is shifted by the penalty, which makes the conjugate a square
        return np.dot(sigma, v) + penalty / 2 + ((losses - v) ** 2).mean() / (2 * penalty)
    return np.dot(sigma, v)  # v is shifted by the penalty, which makes the conjugate 0


def _blocks(losses, mass, penalty, divergence):
    """Start, end and level of each block of the isotonic regression of ascending losses."""
    blocks = []
    for i in range(len(losses)):
        block = (i, i + 1, _level(losses[i : i + 1], mass[i], penalty, divergence))
        while blocks and blocks[-1][2] >= block[2]:
            start = blocks.pop()[0]
            block = (start, i + 1, _level(losses[start : i + 1], mass[start : i + 1].sum(), penalty, divergence))
        blocks.append(block)
    return blocks


def _level(losses, mass, penalty, divergence):
    """v of a block, so that (l - v)/penalty, or its exponential, adds up to its mass."""
    if divergence == "chi2":
        return losses.mean() - penalty * mass / len(losses)
    if mass == 0:
        return np.inf
    return losses.max() + penalty * (np.log(np.exp((losses - losses.max()) / penalty).sum()) - np.log(mass))
