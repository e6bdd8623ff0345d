"""ABSGD and ABAdam, arXiv 2012.06951, Algorithm 1, with the moving average s itself and no logarithm."""

import numpy as np

from tests.reference import Adam, HeavyBall, Problem, Trajectory, at, logistic_losses


def weights_of(losses, where, average, temperature, averaging_rate):
    """Weights of a batch and the new average; an average of None is the first visit, which takes the batch's mean."""
    exponentials = np.exp(losses / temperature)
    mean = exponentials[where].mean()
    average = mean if average is None else (1 - averaging_rate) * average + averaging_rate * mean
    return where * exponentials / average, average


def trajectory(
    problem: Problem,
    params,
    *,
    learning_rate,
    temperature,
    averaging_rate=0.9,
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    adam=False,
) -> Trajectory:
    """`temperature` may be a function of the step: lambda log s is what stays when it moves."""
    direction = Adam() if adam else HeavyBall(momentum, nesterov)
    average, average_temperature = None, None
    records = []
    for step, (rows, where) in enumerate(zip(problem.batches, problem.where, strict=True)):
        lam = at(temperature, step)
        losses, gradients = logistic_losses(params, problem.inputs[rows], problem.labels[rows])
        if np.isinf(lam):
            weights, average = where * 1.0, None
        else:
            if average is not None:
                average = average ** (average_temperature / lam)
            weights, average = weights_of(losses, where, average, lam, at(averaging_rate, step))
        average_temperature = lam
        gradient = sum(w * g for w, g in zip(weights, gradients, strict=True)) / where.sum()
        rate = at(learning_rate, step)
        if adam:
            params = params - rate * (direction(gradient) + weight_decay * params)
        else:
            params = params - rate * direction(gradient + weight_decay * params)
        records.append((params, losses, weights))
    return Trajectory(*(np.array(series) for series in zip(*records, strict=True)))
