"""Tilted losses, arXiv 2007.01162: of examples, and of groups by moving averages."""

import numpy as np


def example_weights(losses, t):
    """Of a batch."""
    powers = np.exp(t * losses)
    return powers / powers.mean()


class Tilted:
    """Of groups: `see` moves the averages of exp(t·mean loss) and returns the weights of the batch's examples."""

    def __init__(self, num_groups, averaging_rate=1.0, frequencies=None):
        self.average = [None] * num_groups
        self.averaging_rate, self.frequencies = averaging_rate, frequencies

    def see(self, losses, groups, where, t):
        for g in range(len(self.average)):
            mine = where & (groups == g)
            if mine.any():
                power, old = np.exp(t * losses[mine].mean()), self.average[g]
                self.average[g] = power if old is None else old + self.averaging_rate * (power - old)
        powers = np.array([self.average[g] if counts else 0.0 for g, counts in zip(groups, where, strict=True)])
        if self.frequencies is None:
            return powers / powers[where].mean()
        seen = [g for g, average in enumerate(self.average) if average is not None]
        mean = sum(self.frequencies[g] * self.average[g] for g in seen) / sum(self.frequencies[g] for g in seen)
        return powers / mean
