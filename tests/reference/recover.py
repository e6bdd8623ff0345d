"""RECOVER, arXiv 2006.10138, algorithm 1, in linear space on a logistic regression."""

import numpy as np

from tests.reference import Problem, at, logistic_losses


def _means(params, inputs, labels, where, temperature):
    losses, gradients = logistic_losses(params, inputs, labels)
    exponentials = np.exp(losses / temperature)
    value = (where * exponentials).sum() / where.sum()
    return value, (where * exponentials) @ gradients / where.sum()


def trajectory(problem: Problem, params, *, learning_rate, temperature, averaging_rate):
    """Parameters and the objective's estimate after each step."""
    records = []
    previous = u = v = None
    for step, (rows, where) in enumerate(zip(problem.batches, problem.where, strict=True)):
        batch = problem.inputs[rows], problem.labels[rows], where, temperature
        a = at(averaging_rate, step)
        value, gradient = _means(params, *batch)
        if previous is None:
            u, v = value, gradient
        else:
            old_value, old_gradient = _means(previous, *batch)
            u = value + (1 - a) * (u - old_value)
            v = gradient + (1 - a) * (v - old_gradient)
        previous, params = params, params - at(learning_rate, step) * v / u
        records.append((params, temperature * np.log(u)))
    return tuple(np.array(series) for series in zip(*records, strict=True))
