"""Group DRO, arXiv 1911.08731, Algorithm 1, with the weights themselves and one group at a time."""

import numpy as np


class GroupDro:
    """The adversary: `see` moves it by a batch and returns the weights of the batch's examples, where `where`."""

    def __init__(self, num_groups, step_size, *, counts=None, adjustment=0.0, prior=None, decay=0.9):
        self.q = np.full(num_groups, 1 / num_groups) if prior is None else np.array(prior) / np.sum(prior)
        self.step_size, self.decay = step_size, decay
        self.margins = np.zeros(num_groups) if counts is None else adjustment / np.sqrt(counts)
        self.history = [[] for _ in range(num_groups)]  # of the mean losses of each group, in the batches that had it

    def average(self, group):
        """The debiased moving average, as the weighted mean of all that was seen, the last with weight 1."""
        seen = np.array(self.history[group])
        weights = self.decay ** np.arange(len(seen))[::-1]
        return weights @ seen / weights.sum()

    def see(self, losses, groups, where):
        sizes = [np.sum(where & (groups == g)) for g in range(len(self.q))]
        means = [losses[where & (groups == g)].mean() if sizes[g] else None for g in range(len(self.q))]
        for group, mean in enumerate(means):
            if mean is not None:
                self.history[group].append(mean)
        seen = [g for g in range(len(self.q)) if self.history[g]]
        value = sum(self.q[g] * (self.average(g) + self.margins[g]) for g in seen) / sum(self.q[g] for g in seen)
        for g, mean in enumerate(means):
            if mean is not None:
                self.q[g] *= np.exp(self.step_size * (mean + self.margins[g] - value))
        self.q = self.q / self.q.sum()
        weights = np.array([self.q[g] * where.sum() / max(sizes[g], 1) for g in np.maximum(groups, 0)])
        return np.where(where, weights, 0)


def published_step(q, means, step_size, margins):
    """Line 5 of the algorithm, for a batch that has every group."""
    q = q * np.exp(step_size * (means + margins))
    return q / q.sum()
