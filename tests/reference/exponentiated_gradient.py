"""Exponentiated gradient reweighting, arXiv 2104.01493: all weights, normalised after each batch."""

import numpy as np


class ExponentiatedGradient:
    """`see` returns the weights of a batch's examples, and then moves."""

    def __init__(self, num_examples, step_size, prior=None):
        self.pi = np.full(num_examples, 1 / num_examples) if prior is None else np.array(prior) / np.sum(prior)
        self.step_size = step_size

    def see(self, losses, ids, where):
        weights = np.where(where, len(self.pi) * self.pi[np.maximum(ids, 0)], 0)
        for loss, i, counts in zip(losses, ids, where, strict=True):
            if counts:
                self.pi[i] *= np.exp(-self.step_size * loss)
        self.pi = self.pi / self.pi.sum()
        return weights


def log_weights(batches, losses, prior, step_size):
    """log pi after all batches, and the tilt, from the sums of losses: for what exp itself would lose."""
    tilt = np.zeros(prior.size)
    for ids, batch in zip(batches, losses, strict=True):
        inside = ids >= 0
        np.add.at(tilt, ids[inside], -step_size * batch[inside])
    with np.errstate(divide="ignore"):
        unnormalised = np.log(prior) + tilt
    peak = unnormalised.max()
    return unnormalised - peak - np.log(np.exp(unnormalised - peak).sum()), tilt
