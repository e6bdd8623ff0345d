"""Search spaces, and the tree-structured Parzen estimator of Optuna over them, in rounds.

A round's settings are proposed together, so that they can be trained together. A round is proposed from the trials of
the rounds before it alone: from lines of a results file a search goes on where it was.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Setting = Mapping[str, Any]


class Range(NamedTuple):
    """Numbers from `low` to `high`, uniform, or uniform in their logarithm."""

    low: float
    high: float
    log: bool = True

    def __str__(self) -> str:
        return f"{'LogU' if self.log else 'U'}[{self.low:g}, {self.high:g}]"


Space = Mapping[str, Range]

WORST = -1e9
"""The score of a run that diverged."""


def propose(space: Space, trials: Sequence[tuple[Setting, float]], count: int, *, seed: int) -> list[dict[str, float]]:
    """The next `count` settings to try.

    Args:
      space: what is tuned.
      trials: settings tried and their scores, higher is better; a score that is not finite counts as the worst.
      count: how many.
      seed: of the sampler; the same seed and trials give the same settings.
    """
    import optuna  # takes half a second, which only tuning should wait for

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {
        name: optuna.distributions.FloatDistribution(r.low, r.high, log=r.log) for name, r in space.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for setting, score in trials:
        value = float(score) if np.isfinite(score) else WORST
        study.add_trial(optuna.trial.create_trial(params=dict(setting), distributions=dict(distributions), value=value))
    return [dict(study.ask(dict(distributions)).params) for _ in range(count)]


STARTUP = 8
"""Trials that are drawn at random before the estimator is asked."""


def best(trials: Sequence[tuple[Setting, float]]) -> Setting:
    """The setting with the highest finite score; of equals the first.

    Raises:
      ValueError: if there is none.
    """
    finite = [(setting, score) for setting, score in trials if score is not None and np.isfinite(score)]
    if not finite:
        raise ValueError("no trial ended with a finite score: run the tuning of this method first, or again (--fresh)")
    return max(finite, key=lambda trial: trial[1])[0]
