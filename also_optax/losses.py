r"""Per-example losses for imbalanced classes and noisy labels, in optax's manner, where optax has none.

They are the baselines that an adversary has to beat, and they go with one: all return ``losses``, not averaged, for
:func:`also_optax.reweight`. With logits :math:`z`, label :math:`y` and :math:`n_k` examples of class :math:`k`, all but
the weights of classes are functions of one number, how far the other classes are above the label,

.. math:: m = \log \sum_{k \ne y} e^{z_k - z_y}, \qquad -\log p_y = \log(1 + e^m), \qquad p_y = \frac{1}{1 + e^m},

so that neither side of :math:`p_y` is a difference of near equals:

==============================================  ======================================================================
:func:`ldam_loss`                               cross-entropy of :math:`s (z - \Delta_y e_y)`, :math:`\Delta_y \propto
                                                n_y^{-1/4}`
:func:`logit_adjusted_cross_entropy`            cross-entropy of :math:`z_k + \tau \log \pi_k`
:func:`symmetric_cross_entropy`                 :math:`-\alpha \log p_y - \beta A (1 - p_y)`
:func:`generalised_cross_entropy`               :math:`(1 - p_y^q)/q`
:func:`softmax_focal_loss`                      :math:`-(1 - p_y)^\gamma \log p_y`
==============================================  ======================================================================

Logits are ``[..., K]`` and labels int ``[...]``. Logits of half precision are worked on in float32, which the losses
then are in; gradients come back in half precision. A label outside ``[0, K)``, as of padding, has a loss without
meaning but finite with a finite gradient, so that ``where`` can leave it out. Parameters may be tracers: a grid of them
is one `jax.vmap`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from also_optax import _groups
from also_optax._hyperparams import LARGEST, LARGEST_LOG, Table, check_scalar, statistics_dtype


def class_balanced_weights(class_counts: Table, beta: ArrayLike = 0.9999) -> jax.Array:
    r"""Weights of classes by their effective number of examples, :math:`(1 - \beta)/(1 - \beta^{n_k})`.

    Scaled to a mean of 1 over the *classes* that have examples, as the authors' code does (its sum is K); over the
    examples of an imbalanced set the mean is then below 1. A class without examples has weight 0, where that code
    divides by zero.

    Special cases: ``beta=0`` weighs all classes alike; ``beta=1`` is :func:`inverse_frequency_weights`; equal counts
    give weights of 1.

    Args:
      class_counts: examples of each class, ``[K]``, not negative.
      beta: in [0, 1]; examples beyond 1/(1 - beta) of a class hardly count. A Python number near 1 keeps its digits.

    Returns:
      Weights, ``[K]``. The weighted losses are ``weights[labels] * losses``.

    Raises:
      ValueError: if an argument is out of range or of the wrong shape.

    Examples:
      >>> from also_optax import losses
      >>> print(*(f"{weight:.3f}" for weight in losses.class_balanced_weights([5000, 500, 50], beta=0.999)))
      0.126 0.317 2.557

    References:
      Cui et al, *Class-Balanced Loss Based on Effective Number of Samples*,
      `arXiv 1901.05555 <https://arxiv.org/abs/1901.05555>`_, eq. (2).
    """
    check_scalar("beta", beta, "in [0, 1]", lambda v: 0 <= v <= 1)
    counts = _class_table("class_counts", class_counts)
    # 1 - beta before it is rounded to float32, of which .9999 has only three digits left.
    log_beta = jnp.maximum(jnp.log1p(-jnp.asarray(1 - beta, counts.dtype)), -LARGEST_LOG)
    decays = log_beta < 0
    safe_log_beta = jnp.where(decays, log_beta, -1)
    effective = jnp.where(decays, -jnp.expm1(counts * safe_log_beta) / -safe_log_beta, counts)
    present = counts > 0
    weights = jnp.where(present, 1 / jnp.where(present, effective, 1), 0)
    return weights * (present.sum() / jnp.maximum(weights.sum(), jnp.finfo(weights.dtype).tiny))


def inverse_frequency_weights(class_counts: Table) -> jax.Array:
    """Weights of classes that are inverse to their number of examples, with a mean of 1 over classes.

    It is ``class_balanced_weights(class_counts, beta=1)``: each class then has the same share of the loss.

    Args:
      class_counts: examples of each class, ``[K]``, not negative; a class without any has weight 0.

    Returns:
      Weights, ``[K]``.

    Raises:
      ValueError: if `class_counts` is out of range or not a vector.

    Examples:
      >>> from also_optax import losses
      >>> print(losses.inverse_frequency_weights([300, 100]))
      [0.5 1.5]
    """
    return class_balanced_weights(class_counts, beta=1)


def ldam_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: Table,
    max_margin: ArrayLike = 0.5,
    scale: ArrayLike = 30.0,
    class_weights: Table | None = None,
) -> jax.Array:
    r"""Cross-entropy with a margin that is larger for rarer classes.

    The label's logit is lowered by :math:`\Delta_y = C\,(n_{\min}/n_y)^{1/4}` and all are multiplied by `scale`. The
    scale is made for logits that are cosines, of normalised features with normalised weights: with a plain linear last
    layer use ``scale=1``.

    Deferred re-weighting, which the paper trains with, is a change of `class_weights` late in training; its CIFAR runs
    change at 80 % of the epochs, to :func:`class_balanced_weights`::

        deferred = jnp.where(step < 0.8 * num_steps, 1.0, losses.class_balanced_weights(class_counts))
        loss = losses.ldam_loss(logits, labels, class_counts, class_weights=deferred)

    Special cases: ``max_margin=0`` is the cross-entropy of ``scale * logits``; with equal counts every class has the
    margin `max_margin`; ``class_weights=None`` weighs all classes alike.

    Args:
      logits: ``[..., K]``.
      labels: int, ``[...]``.
      class_counts: examples of each class, ``[K]``, not negative; a class without any has the largest margin, and no
        part in the others'.
      max_margin: C, the margin of the rarest class, at least 0; in units of the logits.
      scale: s, above 0.
      class_weights: ``[K]``, or None.

    Returns:
      Losses, ``[...]``. They are weighted, not divided by the sum of the weights as the authors' code does.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if a shape or a number is wrong.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import losses
      >>> logits, labels = jnp.array([[0.2, 0.1], [0.1, 0.2]]), jnp.array([0, 1])
      >>> print(*(f"{loss:.3f}" for loss in losses.ldam_loss(logits, labels, class_counts=[1600, 100], scale=10.0)))
      1.701 4.018

    References:
      Cao et al, *Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss*,
      `arXiv 1906.07413 <https://arxiv.org/abs/1906.07413>`_, eq. (13) and algorithm 1.
    """
    max_margin = _number("max_margin", max_margin, "at least 0 and finite", lambda v: 0 <= v < np.inf)
    scale = _number("scale", scale, "above 0 and finite", lambda v: 0 < v < np.inf)
    logits, labels = _checked(logits, labels)
    counts = _class_table("class_counts", class_counts, logits.shape[-1])
    rarest = jnp.min(counts, where=counts > 0, initial=jnp.inf)
    rarest = jnp.where(jnp.isinf(rarest), 1, rarest)
    margins = max_margin * (rarest / jnp.maximum(counts, rarest)) ** 0.25
    losses = jax.nn.softplus(scale * (_lead_of_others(scale, logits, labels) + _groups.take(margins, labels)))
    if class_weights is None:
        return losses
    return losses * _groups.take(_class_table("class_weights", class_weights, logits.shape[-1]), labels)


def logit_adjusted_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, class_frequencies: Table, tau: ArrayLike = 1.0
) -> jax.Array:
    r"""Cross-entropy of ``logits + tau * log(class_frequencies)``: what is learnt is then balanced.

    The frequencies are in the loss only; predict with the plain logits.

    Special cases: ``tau=0`` and equal frequencies are the cross-entropy.

    Args:
      logits: ``[..., K]``.
      labels: int, ``[...]``.
      class_frequencies: share or count of each class in the training data, ``[K]``, not negative, not all zero;
        normalised here. Zero counts as 1e-30, which takes a class without examples out of the others' losses.
      tau: strength, finite; 1 is what makes the balanced error consistent.

    Returns:
      Losses, ``[...]``.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if a shape or a number is wrong.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import losses
      >>> logits, labels = jnp.zeros((2, 2)), jnp.array([0, 1])
      >>> print(*(f"{loss:.3f}" for loss in losses.logit_adjusted_cross_entropy(logits, labels, [0.9, 0.1])))
      0.105 2.303

    References:
      Menon et al, *Long-Tail Learning via Logit Adjustment*,
      `arXiv 2007.07314 <https://arxiv.org/abs/2007.07314>`_, eq. (10).
    """
    tau = _number("tau", tau, "finite", lambda v: -np.inf < v < np.inf)
    logits, labels = _checked(logits, labels)
    frequencies = _class_table("class_frequencies", class_frequencies, logits.shape[-1])
    log_prior = jnp.log(jnp.maximum(frequencies / frequencies.sum(), 1 / LARGEST))
    adjustment = jax.lax.expand_dims(tau * log_prior.astype(logits.dtype), range(logits.ndim - 1))
    return jax.nn.softplus(_lead_of_others(1, logits + adjustment, labels))


def symmetric_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    alpha: ArrayLike = 0.1,
    beta: ArrayLike = 1.0,
    log_zero: ArrayLike = -4.0,
) -> jax.Array:
    r"""Cross-entropy and its reverse, :math:`-\alpha \log p_y - \beta A (1 - p_y)`: the reverse is robust to noise.

    The reverse, with prediction and label exchanged, is bounded, so a wrong label can pull only so far. The authors'
    code clips the probabilities at 1e-7, beyond which no gradient is left, and the label at 1e-4, whose logarithm is
    -9.2 in place of A; here nothing is clipped.

    Special cases: ``alpha=1, beta=0`` is the cross-entropy; ``alpha=0, beta=1, log_zero=-1`` is 1 - p.

    Args:
      logits: ``[..., K]``.
      labels: int, ``[...]``.
      alpha: weight of the cross-entropy, at least 0.
      beta: weight of the reverse, at least 0.
      log_zero: A, what stands for log 0, at most 0.

    Returns:
      Losses, ``[...]``.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if a shape or a number is wrong.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import losses
      >>> logits, labels = jnp.array([[0.0, 0.0], [0.0, 50.0]]), jnp.array([0, 0])
      >>> print(*(f"{loss:.3f}" for loss in losses.symmetric_cross_entropy(logits, labels)))
      2.069 9.000

    References:
      Wang et al, *Symmetric Cross Entropy for Robust Learning with Noisy Labels*,
      `arXiv 1908.06112 <https://arxiv.org/abs/1908.06112>`_, eq. (7).
    """
    alpha = _number("alpha", alpha, "at least 0 and finite", lambda v: 0 <= v < np.inf)
    beta = _number("beta", beta, "at least 0 and finite", lambda v: 0 <= v < np.inf)
    log_zero = _number("log_zero", log_zero, "at most 0 and finite", lambda v: -np.inf < v <= 0)
    lead = _lead_of_others(1, *_checked(logits, labels))
    return alpha * jax.nn.softplus(lead) - beta * log_zero * jax.nn.sigmoid(lead)


def generalised_cross_entropy(logits: ArrayLike, labels: ArrayLike, q: ArrayLike = 0.7) -> jax.Array:
    r"""Between cross-entropy and absolute error, :math:`(1 - p_y^q)/q`: bounded by 1/q, for noisy labels.

    Special cases: ``q=0`` is the cross-entropy, and small q are exact; ``q=1`` is 1 - p.

    Args:
      logits: ``[..., K]``.
      labels: int, ``[...]``.
      q: in [0, 1]; the published value is 0.7.

    Returns:
      Losses, ``[...]``.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if a shape or a number is wrong.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import losses
      >>> logits, labels = jnp.array([[0.0, 0.0], [0.0, 50.0]]), jnp.array([0, 0])
      >>> for q in (0.0, 0.7, 1.0):
      ...     print(*(f"{loss:.3f}" for loss in losses.generalised_cross_entropy(logits, labels, q)))
      0.693 50.000
      0.549 1.429
      0.500 1.000

    References:
      Zhang and Sabuncu, *Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels*,
      `arXiv 1805.07836 <https://arxiv.org/abs/1805.07836>`_, eq. (6).
    """
    q = _number("q", q, "in [0, 1]", lambda v: 0 <= v <= 1)
    cross_entropy = jax.nn.softplus(_lead_of_others(1, *_checked(logits, labels)))
    bends = q > 1e-20  # below, the two differ by less than any float has digits for
    safe_q = jnp.where(bends, q, 1)
    return jnp.where(bends, -jnp.expm1(-safe_q * cross_entropy) / safe_q, cross_entropy)


def softmax_focal_loss(logits: ArrayLike, labels: ArrayLike, gamma: ArrayLike = 2.0) -> jax.Array:
    r"""Focal loss of classes that exclude each other, :math:`-(1 - p_y)^\gamma \log p_y`: easy examples count less.

    It is `optax.sigmoid_focal_loss` of the log-odds of the label. Weigh classes by
    ``class_balanced_weights(counts)[labels] * losses``.

    Special cases: ``gamma=0`` is the cross-entropy; of two classes it is `optax.sigmoid_focal_loss` of the difference
    of the logits.

    Args:
      logits: ``[..., K]``.
      labels: int, ``[...]``.
      gamma: at least 0.

    Returns:
      Losses, ``[...]``.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if a shape or a number is wrong.

    Examples:
      >>> import jax.numpy as jnp
      >>> from also_optax import losses
      >>> logits, labels = jnp.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]]), jnp.array([0, 0])
      >>> print(*(f"{loss:.4f}" for loss in losses.softmax_focal_loss(logits, labels)))
      0.0008 2.8210

    References:
      Lin et al, *Focal Loss for Dense Object Detection*,
      `arXiv 1708.02002 <https://arxiv.org/abs/1708.02002>`_, eq. (4).
    """
    gamma = _number("gamma", gamma, "at least 0 and finite", lambda v: 0 <= v < np.inf)
    lead = _lead_of_others(1, *_checked(logits, labels))
    return optax.sigmoid_focal_loss(-lead, jnp.ones_like(lead), gamma=gamma)


def _lead_of_others(scale: jax.Array | float, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """m of the module docstring for ``scale * logits``, over `scale`: ``[...]``, finite."""
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    of_label = jnp.sum(logits, axis=-1, where=is_label, keepdims=True)
    if logits.shape[-1] == 1:
        return jnp.full_like(of_label[..., 0], -LARGEST)
    others = jnp.where(is_label, -jnp.inf, scale * (logits - of_label))
    return jax.nn.logsumexp(others, axis=-1) / scale


def _number(name: str, value: ArrayLike, requirement: str, holds: Callable[[float], bool]) -> jax.Array:
    """A scalar parameter, checked where it is concrete; of weak type where it is a Python number."""
    check_scalar(name, value, requirement, holds)
    return jnp.asarray(value)


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Logits in float32 at least, and labels."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"`logits` must be floating point, got dtype {logits.dtype}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"`labels` must be integer, got dtype {labels.dtype}.")
    if logits.ndim == 0 or logits.shape[-1] == 0 or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"`labels` must have the shape of `logits` without their last axis, got {labels.shape} for {logits.shape}."
        )
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), labels


def _class_table(name: str, values: Any, size: int | None = None) -> jax.Array:
    """One number for each class, ``[K]``, in the dtype of statistics."""
    if len(np.shape(values)) != 1 or size not in (None, np.shape(values)[0]):
        wanted = "[K]" if size is None else f"({size},)"
        raise ValueError(f"`{name}` must have one entry per class, shape {wanted}, got shape {np.shape(values)}.")
    if not isinstance(values, jax.core.Tracer):
        known = np.asarray(values, np.float64)
        if not (np.isfinite(known).all() and (known >= 0).all() and (known > 0).any()):
            raise ValueError(
                f"`{name}` must be finite, not negative and not all zero, got values from {known.min()} to "
                f"{known.max()}."
            )
    return jnp.asarray(values, statistics_dtype())
