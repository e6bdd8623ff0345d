"""Scores of models: to choose settings by, and to report, from logits ``[m, C]`` or one output ``[m, 1]``."""

from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, recall_score, roc_auc_score

LARGEST_LOGIT = 100.0
TIE = 1e-4
"""What a nat of cross-entropy counts in a score: accuracies of small validation sets are often equal."""


def balanced_score(classes: np.ndarray, logits: np.ndarray) -> float:
    """Balanced accuracy, ties broken by the class-balanced cross-entropy; higher is better.

    Args:
      classes: int, ``[m]``.
      logits: finite, ``[m, C]``.
    """
    present = np.unique(classes)
    right = logits.argmax(1) == classes
    losses = -log_softmax(logits.astype(float), axis=1)[np.arange(len(classes)), classes]
    accuracy = np.mean([right[classes == c].mean() for c in present])
    cross_entropy = np.mean([losses[classes == c].mean() for c in present])
    return float(accuracy - TIE * min(cross_entropy, LARGEST_LOGIT))


def accuracy_score(classes: np.ndarray, logits: np.ndarray) -> float:
    """Accuracy, ties broken by the cross-entropy; higher is better."""
    losses = -log_softmax(logits.astype(float), axis=1)[np.arange(len(classes)), classes]
    return float(np.mean(logits.argmax(1) == classes) - TIE * min(losses.mean(), LARGEST_LOGIT))


def of_binary(target: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """What is reported of two classes; a model that has diverged answers 0, and `finite` says so.

    Args:
      target: 0 or 1, ``[m]``, both present.
      logits: ``[m, 2]``.
    """
    finite = bool(np.isfinite(logits).all())
    lead = np.nan_to_num(logits[:, 1] - logits[:, 0], nan=-LARGEST_LOGIT).astype(float)
    lead = lead.clip(-LARGEST_LOGIT, LARGEST_LOGIT)
    predicted = (lead > 0).astype(int)
    found = {
        "balanced_accuracy": balanced_accuracy_score(target, predicted),
        "worse_class": recall_score(target, predicted, average=None).min(),
        "f1": f1_score(target, predicted, zero_division=0.0),
        "auc": roc_auc_score(target, lead),
        "cross_entropy": log_loss(target, 1 / (1 + np.exp(-lead))),
    }
    return {name: round(float(value), 6) for name, value in found.items()} | {"finite": finite}


def of_parity(classes: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """:func:`of_binary` of the parity of ten classes, and the accuracy on the worst of the ten."""
    target = classes % 2
    right = (logits[:, 1] > logits[:, 0]) == (target == 1)
    worst = min(float(right[classes == c].mean()) for c in np.unique(classes))
    return of_binary(target, logits) | {"worst_of_ten": round(worst, 6)}


def of_classes(classes: np.ndarray, logits: np.ndarray) -> dict[str, Any]:
    """What is reported of more than two classes: accuracy, its mean over classes and the worst class's."""
    right = logits.argmax(1) == classes
    by_class = [float(right[classes == c].mean()) for c in np.unique(classes)]
    found = {"accuracy": right.mean(), "balanced_accuracy": np.mean(by_class), "worst_class": min(by_class)}
    finite = bool(np.isfinite(logits).all())
    return {name: round(float(value), 6) for name, value in found.items()} | {"finite": finite}


def robust_objective(losses: np.ndarray, prior: np.ndarray, temperature: float) -> float:
    """The largest of ``sum(pi * losses) - temperature * KL(pi || prior)`` over distributions pi, in closed form."""
    return float(temperature * logsumexp(np.log(prior) + losses / temperature))
