"""Optimistic Mirror-Prox on a game with affine losses A x + b and a squared norm; pi in linear space."""

import numpy as np

from tests.reference.also import prox


def trajectory(matrix, offsets, prior, *, learning_rate, dual_learning_rate, kl_penalty, optimism, decay, steps):
    """Parameters and pi after each step."""
    params, pi = np.zeros(matrix.shape[1]), prior
    previous_gradient = previous_losses = None
    records = []
    for _ in range(steps):
        losses = matrix @ params + offsets
        gradient = pi @ matrix + decay * params
        if previous_losses is None:
            previous_gradient, previous_losses = gradient, losses
        params = params - learning_rate * ((1 + optimism) * gradient - optimism * previous_gradient)
        ascent = (1 + optimism) * losses - optimism * previous_losses
        pi = prox(pi, ascent, prior, dual_learning_rate, kl_penalty)
        previous_gradient, previous_losses = gradient, losses
        records.append((params, pi))
    return tuple(np.array(series) for series in zip(*records, strict=True))
