"""RGD, arXiv 2306.09222, Algorithm 1 and table 1."""

import numpy as np

from tests.reference import Adam, Problem, Trajectory, at, logistic_losses


def kl(loss, clip):
    return np.exp(min(loss, clip) / (clip + 1))


def chi2(loss, clip):
    return 1 + min(max(loss, 0), clip) / (clip + 1)


def reverse_kl(loss, clip):
    return 1 / (1 - min(max(loss, 0), clip) / (clip + 1))


def trajectory(problem: Problem, params, *, learning_rate, clip, divergence) -> Trajectory:
    """`clip` may be a function of the step."""
    direction = Adam()
    records = []
    for step, (rows, where) in enumerate(zip(problem.batches, problem.where, strict=True)):
        losses, gradients = logistic_losses(params, problem.inputs[rows], problem.labels[rows])
        weights = where * np.array([divergence(loss, at(clip, step)) for loss in losses])
        gradient = sum(w * g for w, g in zip(weights, gradients, strict=True)) / where.sum()
        params = params - at(learning_rate, step) * direction(gradient)
        records.append((params, losses, weights))
    return Trajectory(*(np.array(series) for series in zip(*records, strict=True)))
