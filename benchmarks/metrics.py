"""Scores of models with one logit for the parity of an image's class: to choose settings by, and to report."""

from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, log_loss, recall_score, roc_auc_score

LARGEST_LOGIT = 100.0


def on_validation(target: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Balanced accuracy and class-balanced cross-entropy, from one array each; a model that has diverged comes last.

    Args:
      target: 0 or 1, ``[m]``, both present.
      logits: ``[m]``.
    """
    if not np.isfinite(logits).all():
        return 0.0, float("inf")
    losses = np.logaddexp(0, np.where(target == 1, -logits, logits))
    right = (logits > 0) == (target == 1)
    means = [(right[target == c].mean(), losses[target == c].mean()) for c in (0, 1)]
    accuracy, cross_entropy = np.mean(means, axis=0)
    return float(accuracy), float(cross_entropy)


def choose(scores: np.ndarray) -> int:
    """The setting with the best mean over runs of :func:`on_validation`, ``[runs, H, 2]``: accuracy, then loss."""
    accuracy, cross_entropy = scores.mean(axis=0).T
    return int(np.lexsort([cross_entropy, -accuracy.round(9)])[0])


def on_test(classes: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """What is reported; a model that has diverged answers "even" where it gives no number, and `finite` says so.

    Args:
      classes: the ten classes, ``[m]``; the target is their parity.
      logits: ``[m]``.
    """
    finite = bool(np.isfinite(logits).all())
    logits = np.nan_to_num(logits.astype(float), nan=-LARGEST_LOGIT).clip(-LARGEST_LOGIT, LARGEST_LOGIT)
    target, predicted = classes % 2, (logits > 0).astype(int)
    of_class = [np.mean((predicted == target)[classes == c]) for c in np.unique(classes)]
    found = {
        "balanced_accuracy": balanced_accuracy_score(target, predicted),
        "worse_parity": recall_score(target, predicted, average=None).min(),
        "worst_class": min(of_class),
        "auc": roc_auc_score(target, logits),
        "cross_entropy": log_loss(target, 1 / (1 + np.exp(-logits))),
    }
    return {name: round(float(value), 6) for name, value in found.items()} | {"finite": finite}
