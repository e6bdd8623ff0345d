"""DoReMi, arXiv 2305.10429, Algorithm 1, step 2, with the weights themselves and one domain at a time."""

import numpy as np


class Doremi:
    """`see` moves the weights by a batch and returns those of its examples; `alphas` are the weights after each."""

    def __init__(self, num_groups, step_size=1.0, smoothing=1e-3, prior=None):
        self.alpha = np.full(num_groups, 1 / num_groups) if prior is None else np.array(prior) / np.sum(prior)
        self.step_size, self.smoothing = step_size, smoothing
        self.excess = np.zeros(num_groups)
        self.alphas = []

    def see(self, losses, reference_losses, groups, where):
        sizes = np.zeros(len(self.alpha))
        for g in range(len(self.alpha)):
            mine = where & (groups == g)
            sizes[g] = mine.sum()
            if mine.any():
                self.excess[g] = np.mean(
                    [max(a - b, 0) for a, b in zip(losses, reference_losses, strict=True)], where=mine
                )
        alpha = self.alpha * np.exp(self.step_size * self.excess)
        self.alpha = (1 - self.smoothing) * alpha / alpha.sum() + self.smoothing / len(alpha)
        self.alphas.append(self.alpha)
        return np.where(where, [self.alpha[g] * where.sum() / max(sizes[g], 1) for g in np.maximum(groups, 0)], 0)
