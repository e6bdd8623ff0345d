"""Losses of one example for imbalanced classes and noisy labels, from the papers' equations; logits `z`, label `y`."""

import numpy as np


def log_softmax(z):
    shifted = z - z.max()
    return shifted - np.log(np.exp(shifted).sum())


def cross_entropy(z, y):
    return -log_softmax(z)[y]


def focal(z, y, gamma=2.0):
    p = np.exp(log_softmax(z))[y]
    return -((1 - p) ** gamma) * np.log(p)


def generalised(z, y, q=0.7):
    p = np.exp(log_softmax(z))[y]
    return (1 - p**q) / q


def symmetric(z, y, alpha=0.1, beta=1.0, log_zero=-4.0):
    """With the label's log spelled out: 0 where it is the class, `log_zero` where it is not."""
    log_p = log_softmax(z)
    log_label = np.full(len(z), log_zero)
    log_label[y] = 0
    return -alpha * log_p[y] - beta * (np.exp(log_p) * log_label).sum()


def logit_adjusted(z, y, frequencies, tau=1.0):
    return cross_entropy(z + tau * np.log(np.asarray(frequencies) / np.sum(frequencies)), y)


def ldam(z, y, counts, max_margin=0.5, scale=30.0, class_weights=None):
    margins = 1 / np.sqrt(np.sqrt(counts))
    margins = margins * (max_margin / margins.max())
    z = np.array(z)
    z[y] -= margins[y]
    weight = 1 if class_weights is None else class_weights[y]
    return weight * cross_entropy(scale * z, y)


def class_balanced_weights(counts, beta=0.9999):
    weights = (1 - beta) / (1 - beta ** np.asarray(counts, np.longdouble))
    return (weights / weights.mean()).astype(float)
