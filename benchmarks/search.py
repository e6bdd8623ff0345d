"""Methods compared fairly, whatever a run is: each tuned by as many trials on validation alone, then run at many seeds.

The trials of a round run together, and so do a method's final runs. Seeds of the tuning are not among the final ones:
they have splits, initial weights and batches of their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import records
from benchmarks.jobs import Job
from benchmarks.records import Line
from benchmarks.tuning import Setting, Space, best, propose

FIRST_TUNING_SEED = 1000


class Budget(NamedTuple):
    """What every method gets.

    Attributes:
      rounds: of tuning.
      trials: a round.
      tuning_seeds: that a trial's score is the mean over.
      seeds: of the final runs.
    """

    rounds: int
    trials: int
    tuning_seeds: int
    seeds: int


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
      tuned_on: the contest whose tuning holds for this one too; None where it is tuned itself.
    """

    name: str
    budget: Budget
    spaces: Mapping[str, Space]
    steps: int
    settings: Mapping[str, Any]
    run: Run
    tuned_on: str | None = None


def jobs(contests: Sequence[Contest]) -> Iterator[Job]:
    """Rounds of tuning and final runs, method by method, so that what is finished can be compared."""
    for name in dict.fromkeys(name for contest in contests for name in contest.spaces):
        having = [contest for contest in contests if name in contest.spaces]
        for contest in having:
            if contest.tuned_on in (None, contest.name):
                for number in range(contest.budget.rounds):
                    yield _tuning(contest, name, number)
        for contest in having:
            yield _final(contest, name)


def _settings(contest: Contest, name: str, **more: Any) -> dict[str, Any]:
    space = {key: str(value) for key, value in contest.spaces[name].items()}
    return {"method": name, "space": space, "problem": contest.name, "steps": contest.steps, **contest.settings, **more}


def _tuning(contest: Contest, name: str, number: int) -> Job:
    budget = contest.budget
    seeds = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + budget.tuning_seeds)

    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        before = _trials(lines, contest.name, name, before=number)
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
    budget, tuned_on = contest.budget, contest.tuned_on or contest.name

    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        chosen = best(_trials(lines, tuned_on, name))
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

    tuned = {"tuned_on": tuned_on, "rounds": budget.rounds, "trials": budget.trials, "seeds": budget.seeds}
    title = f"{contest.name} {name}: {budget.seeds} seeds"
    return Job(title, _settings(contest, name, **tuned), budget.seeds * contest.steps, work)


def _trials(lines: Sequence[Line], contest: str, name: str, before: int | None = None) -> list[tuple[Setting, float]]:
    """Settings and scores of the trials of a method, of all rounds or of those before one."""
    found = [
        line for line in lines if line.get("kind") == "trial" and line["problem"] == contest and line["method"] == name
    ]
    return [
        (line["setting"], -np.inf if line["score"] is None else line["score"])
        for line in found
        if before is None or line["round"] < before
    ]
