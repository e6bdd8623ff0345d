"""ALSO, arXiv 2508.16734, Algorithm 1, and the two-point form of its authors' code; pi in linear space."""

import numpy as np

from tests.reference import Adam, Problem, Trajectory, at, logistic_losses


def prox(pi, ascent_direction, prior, step_size, penalty):
    """argmax over the simplex of <d, p> - penalty KL(p, prior) - KL(p, pi) / step_size."""
    unnormalised = pi * prior ** (step_size * penalty) * np.exp(step_size * ascent_direction)
    unnormalised = unnormalised ** (1 / (1 + step_size * penalty))
    return unnormalised / unnormalised.sum()


def dual_gradient(losses, groups, where, frequencies):
    """h[i] = 1/B sum over the batch's examples of group i of loss / q[i]; with q = 1/G it is eq. (4)'s."""
    gradient = np.zeros(len(frequencies))
    for loss, group, counts in zip(losses, groups, where, strict=True):
        if counts:
            gradient[group] += loss / frequencies[group]
    return gradient / where.sum()


def frequencies_of(group_frequencies, num_groups, pi):
    if group_frequencies is None:
        return np.full(num_groups, 1 / num_groups)
    if isinstance(group_frequencies, str):
        return pi
    return np.asarray(group_frequencies) / np.sum(group_frequencies)


def trajectory(
    problem: Problem,
    params,
    num_groups,
    *,
    learning_rate,
    dual_learning_rate,
    kl_penalty,
    optimism=1.0,
    prior=None,
    group_frequencies=None,
    lookahead=False,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=1e-4,
) -> Trajectory:
    """Every hyperparameter as in the package; rates and penalty may be functions of the step."""
    prior = np.ones(num_groups) if prior is None else np.asarray(prior, float)
    prior = prior / prior.sum()
    direction = Adam(b1, b2, eps)
    pi, pi_ahead = prior, prior
    params_ahead = params
    previous_gradient = previous_dual_gradient = None
    records = []
    for step, (rows, where) in enumerate(zip(problem.batches, problem.where, strict=True)):
        groups = problem.groups[rows]
        rate, eta, tau = at(learning_rate, step), at(dual_learning_rate, step), at(kl_penalty, step)
        q = frequencies_of(group_frequencies, num_groups, pi)

        losses, gradients = logistic_losses(params_ahead, problem.inputs[rows], problem.labels[rows])
        weights = where * pi_ahead[groups] / q[groups]
        gradient = sum(w * g for w, g in zip(weights, gradients, strict=True)) / where.sum()
        h = dual_gradient(losses, groups, where, q)

        if lookahead:
            params = params - rate * (direction(gradient) + weight_decay * params)
            pi = prox(pi, h, prior, eta, tau)
            params_ahead = params - rate * (direction(optimism * gradient) + weight_decay * params)
            pi_ahead = prox(pi, h, prior, eta, tau)
        else:
            first = previous_gradient is None
            g = gradient if first else (1 + optimism) * gradient - optimism * previous_gradient
            d = h if first else (1 + optimism) * h - optimism * previous_dual_gradient
            params = params_ahead = params - rate * (direction(g) + weight_decay * params)
            pi = pi_ahead = prox(pi, d, prior, eta, tau)
            previous_gradient, previous_dual_gradient = gradient, h
        records.append((params, losses, weights, pi))
    return Trajectory(*(np.array(series) for series in zip(*records, strict=True)))


def group_losses(dual_gradients, decay):
    """Moving average of h, [T, G], with the weights of the steps summing to one."""
    ages = np.arange(len(dual_gradients))[::-1]
    weights = decay**ages
    return (weights / weights.sum()) @ dual_gradients


def worst_case(losses, prior, penalty):
    """max over the simplex of <p, L> - penalty KL(p, prior)."""
    if penalty == 0:
        return losses[prior > 0].max()
    return penalty * np.log(np.sum(prior * np.exp(losses / penalty)))


def kl(p, prior):
    positive = p > 0
    return np.sum(p[positive] * np.log(p[positive] / prior[positive]))
