"""Methods compared fairly: each tuned by the same number of trials on validation alone, then run over many seeds.

The trials of a method are trained together, a round at a time, and so are its final runs: a round of T trials over S
tuning seeds is T·S runs of one compiled function, and where that is also the number of final seeds, the same one.
Tuning seeds are not among the final ones: they have splits, initial weights and batches of their own.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import records, statistics
from benchmarks.jobs import Job
from benchmarks.records import Line
from benchmarks.training import Method, Pool, Runs, Task, Trained, TrainingSet, outputs_of, stacked, train
from benchmarks.tuning import Setting, best, propose

FIRST_TUNING_SEED = 1000


class Data(NamedTuple):
    """A problem at S seeds.

    Attributes:
      pool: all examples.
      sets: one training set a seed, all of one size.
      validation: rows of the pool, ``[S, v]``.
      test: rows of the pool, ``[S, m]``.
      score: ``score(s, outputs)`` on the validation rows of seed s, from outputs ``[v, C]``; higher is better.
      measure: ``measure(s, outputs)``, what is reported of outputs ``[m, C]`` on the test rows of seed s.
      facts: in every line: sizes and source.
    """

    pool: Pool
    sets: Sequence[TrainingSet]
    validation: np.ndarray
    test: np.ndarray
    score: Callable[[int, np.ndarray], float]
    measure: Callable[[int, np.ndarray], dict[str, Any]]
    facts: dict[str, Any]


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

    def __str__(self) -> str:
        return (
            f"{self.rounds * self.trials} trials of TPE in {self.rounds} rounds, each the mean of "
            f"{self.tuning_seeds} seeds, then {self.seeds} other seeds"
        )


class Problem(NamedTuple):
    """One column of a table.

    Attributes:
      name: in lines and tables.
      task: what is trained.
      data: ``data(seeds)``.
      tuned_on: the problem whose tuning holds for this one too; its own name where it is tuned itself.
      budget: of every method.
      methods: by name.
      settings: in the hash of each job beside the names: what else decides.
    """

    name: str
    task: Task
    data: Callable[[tuple[int, ...]], Data]
    tuned_on: str
    budget: Budget
    methods: Mapping[str, Method]
    settings: Mapping[str, Any]


def jobs(problems: Sequence[Problem]) -> Iterator[Job]:
    """Rounds of tuning and final runs, method by method, so that what is finished can be compared."""
    names = list(dict.fromkeys(name for problem in problems for name in problem.methods))
    for name in names:
        for problem in problems:
            if name not in problem.methods:
                continue
            if problem.tuned_on == problem.name:
                for number in range(problem.budget.rounds):
                    yield _tuning(problem, name, number)
        for problem in problems:
            if name in problem.methods:
                yield _final(problem, name)


def _settings(problem: Problem, name: str, **more: Any) -> dict[str, Any]:
    space = {key: str(value) for key, value in problem.methods[name].space.items()}
    common = {"method": name, "space": space, "problem": problem.name, "steps": problem.task.steps}
    return {**common, "batch": problem.task.batch_size, **problem.settings, **more}


def _tuning(problem: Problem, name: str, number: int) -> Job:
    budget, method = problem.budget, problem.methods[name]
    seeds = tuple(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + budget.tuning_seeds))

    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        before = trials_of(lines, problem.name, name, before=number)
        settings = propose(method.space, before, budget.trials, seed=number)
        data = _data(problem, seeds)
        copies = [s for _ in settings for s in range(len(seeds))]
        repeated = [setting for setting in settings for _ in seeds]
        trained = _train(problem, method, data, seeds, copies, repeated, on_progress)
        scores = trained.scores.reshape(len(settings), len(seeds))
        common = {"kind": "trial", "method": name, "problem": problem.name, "round": number}
        return [
            {
                **common,
                "setting": {key: records.rounded(value, 9) for key, value in setting.items()},
                "score": records.rounded(found.mean(), 9),
                "scores": records.rounded(found),
                "seconds": round(trained.seconds / len(settings), 3),
            }
            for setting, found in zip(settings, scores, strict=True)
        ]

    runs = budget.trials * budget.tuning_seeds
    title = f"{problem.name} {name}: trials {number * budget.trials + 1}-{(number + 1) * budget.trials}"
    settings = _settings(problem, name, round=number, trials=budget.trials, tuning_seeds=budget.tuning_seeds)
    return Job(title, settings, runs * problem.task.steps, work)


def _final(problem: Problem, name: str) -> Job:
    budget, method = problem.budget, problem.methods[name]
    seeds = tuple(range(budget.seeds))

    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        chosen = best(trials_of(lines, problem.tuned_on, name))
        data = _data(problem, seeds)
        every = list(range(len(seeds)))
        trained = _train(problem, method, data, seeds, every, [chosen] * len(seeds), on_progress)
        outputs = _corrected(method, data, every, outputs_of(problem.task, data.pool, trained.params, data.test))
        return [
            {
                "kind": "final",
                "method": name,
                "problem": problem.name,
                "seed": seed,
                **data.measure(s, outputs[s]),
                "validation": records.rounded(trained.scores[s]),
                "setting": chosen,
                "class_weights": records.rounded(trained.class_weights[:, s], 4),
                "losses": records.rounded(trained.losses[:, s], 4),
                "seconds": round(trained.seconds / len(seeds), 3),
                "compile_seconds": round(trained.compile_seconds, 3),
                **data.facts,
            }
            for s, seed in enumerate(seeds)
        ]

    tuned = {"tuned_on": problem.tuned_on, "rounds": budget.rounds, "trials": budget.trials, "seeds": budget.seeds}
    title = f"{problem.name} {name}: {budget.seeds} seeds"
    return Job(title, _settings(problem, name, **tuned), budget.seeds * problem.task.steps, work)


def trials_of(lines: Sequence[Line], problem: str, name: str, before: int | None = None) -> list[tuple[Setting, float]]:
    """Settings and scores of the trials of a method, of all rounds or of those before one."""
    found = [
        line for line in lines if line.get("kind") == "trial" and line["problem"] == problem and line["method"] == name
    ]
    return [
        (line["setting"], -np.inf if line["score"] is None else line["score"])
        for line in found
        if before is None or line["round"] < before
    ]


def _train(
    problem: Problem,
    method: Method,
    data: Data,
    seeds: Sequence[int],
    copies: Sequence[int],
    settings: Sequence[Setting],
    on_progress: Callable[[float], None],
) -> Trained:
    """Trains run r on the data of seed number ``copies[r]`` at ``settings[r]``."""
    runs = Runs(
        stacked([data.sets[s] for s in copies]), np.array([seeds[s] for s in copies]), settings, data.validation[copies]
    )

    def score(r: int, outputs: np.ndarray) -> float:
        return data.score(copies[r], _corrected(method, data, [copies[r]], outputs[None])[0])

    return train(problem.task, method, data.pool, runs, score, on_progress)


def _corrected(method: Method, data: Data, copies: Sequence[int], outputs: np.ndarray) -> np.ndarray:
    """Outputs ``[R, m, C]``, less the log class prior where the method asks for it."""
    if not method.corrects_prior:
        return outputs
    counts = np.stack([data.sets[s].class_counts for s in copies])
    return outputs - np.log(np.maximum(counts, 1))[:, None, :]


@functools.lru_cache(maxsize=2)
def _cached(data: Callable[[tuple[int, ...]], Data], seeds: tuple[int, ...]) -> Data:
    return data(seeds)


def _data(problem: Problem, seeds: tuple[int, ...]) -> Data:
    return _cached(problem.data, seeds)


def finals(lines: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The final runs, methods in `order`, problems in the order of the lines."""
    found = lines[lines["kind"] == "final"]
    known = [name for name in order if name in set(found["method"])]
    found = found[found["method"].isin(known)]
    problems = list(dict.fromkeys(found["problem"]))
    return found.assign(
        method=pd.Categorical(found["method"], known, ordered=True),
        problem=pd.Categorical(found["problem"], problems, ordered=True),
    ).sort_values(["method", "problem", "seed"])


def best_of(finals: pd.DataFrame, metric: str, names: Sequence[str], *, smaller: bool = False) -> str:
    """The method among `names` with the best mean rank over problems."""
    return str(statistics.ranks(finals[finals["method"].isin(names)], metric, smaller=smaller).index[0])


def budget_of(lines: pd.DataFrame, tuned: str = "of each problem") -> str:
    """What every method was given, as a sentence; `tuned` says where."""
    trials = lines[lines["kind"] == "trial"].groupby(["method", "problem"]).size()
    seeds = lines[lines["kind"] == "trial"]["scores"].map(len).max()
    runs = lines[lines["kind"] == "final"].groupby("problem", sort=False)["seed"].nunique()
    counts = ", ".join(sorted({str(count) for count in trials}))
    finals = ", ".join(
        f"{count} seeds ({', '.join(map(str, runs.index[runs == count]))})" for count in dict.fromkeys(runs)
    )
    return (
        f"Every method had {counts} trials of TPE, in the same ranges for what methods share, each the mean of {seeds} "
        f"seeds, chosen on the validation set {tuned}; then {finals}, other than those of the tuning. Of each run the "
        "best of its checkpoints by validation is reported."
    )
