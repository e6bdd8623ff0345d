"""What `comparison` does, for experiments whose runs are no plain training: tuned fairly, then run at many seeds.

The lines are those of `comparison`, and so is the protocol: the same number of trials for every method, seeds of the
tuning that are not among the final ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import comparison, records
from benchmarks.comparison import FIRST_TUNING_SEED, Budget, trials_of
from benchmarks.jobs import Job
from benchmarks.records import Line
from benchmarks.tuning import Setting, Space, best, propose


class Ran(NamedTuple):
    """What came of R runs.

    Attributes:
      scores: on validation, ``[R]``; higher is better, and what is not finite has failed.
      seconds: that they took, without compiling.
      compile_seconds: of compiling.
      lines: what is reported of each, worked out for final runs alone.
    """

    scores: np.ndarray
    seconds: float
    compile_seconds: float
    lines: Callable[[], Sequence[Line]]


Run = Callable[[str, Sequence[int], Sequence[Setting], Callable[[float], None]], Ran]
"""``run(method, seeds, settings, on_progress)``: run r has seed ``seeds[r]`` and ``settings[r]``."""


class Contest(NamedTuple):
    """One column of a table.

    Attributes:
      name: in lines and tables.
      budget: of every method.
      spaces: what is tuned of each method, by name.
      steps: of a run.
      settings: in the hash of each job beside the names: what else decides.
      run: trains and scores.
    """

    name: str
    budget: Budget
    spaces: Mapping[str, Space]
    steps: int
    settings: Mapping[str, Any]
    run: Run


def jobs(contest: Contest) -> Iterator[Job]:
    """Rounds of tuning and final runs, method by method, so that what is finished can be compared."""
    for name in contest.spaces:
        for number in range(contest.budget.rounds):
            yield _tuning(contest, name, number)
        yield _final(contest, name)


def _settings(contest: Contest, name: str, **more: Any) -> dict[str, Any]:
    space = {key: str(value) for key, value in contest.spaces[name].items()}
    return {"method": name, "space": space, "problem": contest.name, "steps": contest.steps, **contest.settings, **more}


def _tuning(contest: Contest, name: str, number: int) -> Job:
    budget = contest.budget
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + budget.tuning_seeds)

    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        before = trials_of(lines, contest.name, name, before=number)
        settings = propose(contest.spaces[name], before, budget.trials, seed=number)
        repeated = [setting for setting in settings for _ in seeds]
        ran = contest.run(name, [*seeds] * len(settings), repeated, on_progress)
        return [
            {
                "kind": "trial",
                "method": name,
                "problem": contest.name,
                "round": number,
                "setting": {key: records.rounded(value, 9) for key, value in setting.items()},
                "score": records.rounded(found.mean(), 9),
                "scores": records.rounded(found),
                "seconds": round(ran.seconds / len(settings), 3),
            }
            for setting, found in zip(settings, ran.scores.reshape(len(settings), -1), strict=True)
        ]

    title = f"{contest.name} {name}: trials {number * budget.trials + 1}-{(number + 1) * budget.trials}"
    settings = _settings(contest, name, round=number, trials=budget.trials, tuning_seeds=budget.tuning_seeds)
    return Job(title, settings, budget.trials * budget.tuning_seeds * contest.steps, work)


def _final(contest: Contest, name: str) -> Job:
    budget = contest.budget

    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        chosen = best(trials_of(lines, contest.name, name))
        seeds = range(budget.seeds)
        ran = contest.run(name, seeds, [chosen] * budget.seeds, on_progress)
        common = {
            "kind": "final",
            "method": name,
            "problem": contest.name,
            "setting": chosen,
            "seconds": round(ran.seconds / budget.seeds, 3),
            "compile_seconds": round(ran.compile_seconds, 3),
        }
        return [
            {**common, "seed": seed, "validation": records.rounded(score), **line}
            for seed, score, line in zip(seeds, ran.scores, ran.lines(), strict=True)
        ]

    tuned = {"rounds": budget.rounds, "trials": budget.trials, "seeds": budget.seeds}
    title = f"{contest.name} {name}: {budget.seeds} seeds"
    return Job(title, _settings(contest, name, final=tuned), budget.seeds * contest.steps, work)


def results(lines: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The final runs, a row for each of their ``results``, ``{what: {metric: value}}``, with `what` as the problem."""
    finals = comparison.finals(lines, order)
    rows = [
        {"method": line["method"], "problem": what, "seed": line["seed"], "finite": line["finite"], **measured}
        for line in finals.to_dict("records")
        for what, measured in line["results"].items()
    ]
    found = pd.DataFrame(rows)
    return found.assign(
        method=pd.Categorical(found["method"], finals["method"].cat.categories, ordered=True),
        problem=pd.Categorical(found["problem"], list(dict.fromkeys(found["problem"])), ordered=True),
    )
