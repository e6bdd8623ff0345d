"""A `search` over methods of plain training, and what all pages say of one: its finals, its budget, how to read it.

A round of T trials over S tuning seeds is T·S runs of one compiled function, and where that is also the number of final
seeds, the same one.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import records, search, statistics
from benchmarks.jobs import Job
from benchmarks.records import Line
from benchmarks.search import Budget, Contest, Ran
from benchmarks.training import Method, Pool, Runs, Task, TrainingSet, outputs_of, stacked, train
from benchmarks.tuning import Setting


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
    """Rounds of tuning and final runs, method by method."""
    return search.jobs([_contest(problem) for problem in problems])


def _contest(problem: Problem) -> Contest:
    return Contest(
        problem.name,
        problem.budget,
        {name: method.space for name, method in problem.methods.items()},
        problem.task.steps,
        {"batch": problem.task.batch_size, **problem.settings},
        functools.partial(_run, problem),
        problem.tuned_on,
    )


def _run(
    problem: Problem,
    name: str,
    seeds: Sequence[int],
    settings: Sequence[Setting],
    on_progress: Callable[[float], None],
) -> Ran:
    method, of_data = problem.methods[name], list(dict.fromkeys(seeds))
    data = _cached(problem.data, tuple(of_data))
    copies = [of_data.index(seed) for seed in seeds]
    runs = Runs(stacked([data.sets[s] for s in copies]), np.array(seeds), settings, data.validation[copies])

    def score(r: int, outputs: np.ndarray) -> float:
        return data.score(copies[r], _corrected(method, data, [copies[r]], outputs[None])[0])

    trained = train(problem.task, method, data.pool, runs, score, on_progress)

    def lines() -> list[Line]:
        outputs = outputs_of(problem.task, data.pool, trained.params, data.test[copies])
        outputs = _corrected(method, data, copies, outputs)
        return [
            {
                **data.measure(s, outputs[r]),
                "class_weights": records.rounded(trained.class_weights[:, r], 4),
                "losses": records.rounded(trained.losses[:, r], 4),
                **data.facts,
            }
            for r, s in enumerate(copies)
        ]

    return Ran(trained.scores, trained.seconds, trained.compile_seconds, lines)


def _corrected(method: Method, data: Data, copies: Sequence[int], outputs: np.ndarray) -> np.ndarray:
    """Outputs ``[R, m, C]``, less the log class prior where the method asks for it."""
    if not method.corrects_prior:
        return outputs
    counts = np.stack([data.sets[s].class_counts for s in copies])
    return outputs - np.log(np.maximum(counts, 1))[:, None, :]


@functools.lru_cache(maxsize=2)
def _cached(data: Callable[[tuple[int, ...]], Data], seeds: tuple[int, ...]) -> Data:
    return data(seeds)


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


def how_to_read(finals: pd.DataFrame) -> str:
    """What ± and * mean in the tables, and how many runs diverged, as sentences."""
    return (
        "Mean ± half of the 95 % interval over seeds; * is a paired t-test over seeds, Holm-corrected within a column, "
        f"below .05. Runs that diverged: {(~finals['finite'].astype(bool)).sum()} of {len(finals)}."
    )


def results(lines: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The final runs, a row for each of their ``results``, ``{what: {metric: value}}``, with `what` as the problem."""
    runs = finals(lines, order)
    rows = [
        {"method": line["method"], "problem": what, "seed": line["seed"], "finite": line["finite"], **measured}
        for line in runs.to_dict("records")
        for what, measured in line["results"].items()
    ]
    found = pd.DataFrame(rows)
    return found.assign(
        method=pd.Categorical(found["method"], runs["method"].cat.categories, ordered=True),
        problem=pd.Categorical(found["problem"], list(dict.fromkeys(found["problem"])), ordered=True),
    )
