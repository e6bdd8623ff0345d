"""Tables, after section 6.2 of the ALSO paper (arXiv 2508.16734) and RGD's table (arXiv 2306.09222).

An MLP with periodic embeddings of the numbers on 18 real tables: six with groups or heavy tails, and the twelve of the
imbalanced suite that a rule chose. The paper has TabReD, which cannot be had out of a package. Classification is scored
by the area under the ROC curve, which no shift of the threshold changes; regression by the root mean squared error.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks import comparison, metrics, plots, records, statistics, tables
from benchmarks import data as datasets
from benchmarks.comparison import Data, Problem
from benchmarks.data import Table, load_table
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.methods import (
    ADAM,
    ALSO,
    METHODS,
    also_by_example,
    by_example,
)
from benchmarks.networks_tabular import MLPPLR
from benchmarks.search import FIRST_TUNING_SEED, Budget
from benchmarks.training import Method, Pool, Task, cross_entropy, squared_error, training_set

COMMON = ("adamw", "also", "rgd", "abadam", "absgd", "cvar")
"""Methods that every table has; the ranks are theirs."""
OF_CLASSES = ("adamw-prior", "static", "also-uniform", "also-classes")
OF_GROUPS = ("also-groups", "group-dro-groups")
TITLES = {
    "also": Method(
        "ALSO, a weight per example; the prior class-balanced, of a regression uniform",
        {**ADAM, **ALSO},
        also_by_example(balanced=True),
        groups=by_example,
    ),
    **{name: METHODS[name] for name in (*COMMON, *OF_CLASSES, *OF_GROUPS) if name != "also"},
}
ALSO_OF_REGRESSION = Method(TITLES["also"].about, {**ADAM, **ALSO}, also_by_example(balanced=False), groups=by_example)
ENOUGH = 10
"""Test rows of a class (or of a regression) that a group must have to be among those that are the worst group."""


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      tables: names in `TABLES`.
      rounds: of tuning, of five trials each.
      rounds_large: for tables with more than `large` training rows.
      tuning_seeds: a trial.
      seeds: of the final runs; each decides split, initial weights and batches, alike for all methods.
      steps: of the optimizer.
      batch: its size.
      large: training rows that a larger table is thinned to for tuning.
      final: at most so many training rows in the final runs.
      methods: of those named in this module; all where empty.
      version: raised when results are no longer comparable.
    """

    tables: tuple[str, ...] = tuple(datasets.TABLES)
    rounds: int = 4
    rounds_large: int = 2
    tuning_seeds: int = 2
    seeds: int = 10
    steps: int = 600
    batch: int = 128
    large: int = 8000
    final: int = 100_000
    methods: tuple[str, ...] = ()
    version: int = 1


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol(("adult", "diamonds"), 1, 1, 2, 5, 200, 128, 2000, 4000, COMMON),
    "smoke": Protocol(("bundled",), 1, 1, 1, 5, 20, 32, 200, 200, ("adamw", "also", "also-groups")),
}
TRIALS = 5


def jobs(protocol: Protocol) -> Iterator[Job]:
    """All of them, table by table."""
    for name in protocol.tables:
        yield from comparison.jobs([_problem(protocol, name)])


def _problem(protocol: Protocol, name: str) -> Problem:
    table = _table(name)
    binary = table.task == "binary"
    names = [*COMMON, *(OF_CLASSES if binary else ()), *(OF_GROUPS if table.groups is not None else ())]
    chosen = {key: TITLES[key] for key in names if not protocol.methods or key in protocol.methods}
    if not binary:
        chosen["also"] = ALSO_OF_REGRESSION
    network = MLPPLR(2 if binary else 1, table.numeric.shape[1], (64, 64))
    task = Task(
        network,
        protocol.steps,
        protocol.batch,
        checks=min(20, protocol.steps),
        loss=cross_entropy if binary else squared_error,
        clip_norm=1.0,
        together=10,
    )
    large = len(table.target) * 0.6 > protocol.large
    budget = Budget(protocol.rounds_large if large else protocol.rounds, TRIALS, protocol.tuning_seeds, protocol.seeds)
    return Problem(name, task, functools.partial(_data, protocol, name), name, budget, chosen, {})


@functools.lru_cache(maxsize=2)
def _table(name: str) -> Table:
    return _bundled() if name == "bundled" else load_table(name)


def _bundled() -> Table:
    """Breast cancer of scikit-learn, with two groups by the size of the tumour: for runs that fetch nothing."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    none = np.zeros((len(bunch.target), 0), dtype=int)
    groups = (bunch.data[:, 0] > np.median(bunch.data[:, 0])).astype(int)
    return Table(
        bunch.data[:, :5], none, 1.0 - bunch.target, "binary", groups, ("small", "large"), None, None,
        tuple(bunch.feature_names[:5]), (), "malignant", "breast cancer, scikit-learn, five of its columns",
    )  # fmt: skip


def _data(protocol: Protocol, name: str, seeds: tuple[int, ...]) -> Data:
    table = _table(name)
    binary = table.task == "binary"
    most = protocol.large if seeds[0] >= FIRST_TUNING_SEED else protocol.final
    groups = np.zeros(len(table.target), dtype=int) if table.groups is None else table.groups
    parts = [datasets.split(table, seed, max_train=most) for seed in seeds]
    prepared = [datasets.prepare(table, part.train, seed=seed) for part, seed in zip(parts, seeds, strict=True)]
    num_others = max(p.features.shape[1] - p.num_numeric for p in prepared)
    pool, rows, first = [], [], 0  # the features of each seed, one after another, and where its parts are in them
    for part, ready in zip(parts, prepared, strict=True):
        used = np.concatenate(part)
        pool.append(_aligned(ready, table.numeric.shape[1], num_others)[used])
        ends = np.cumsum([len(p) for p in part])
        rows.append(np.split(first + np.arange(len(used)), ends[:-1]))
        first += len(used)
    size = -(-max(len(part.train) for part in parts) // 64) * 64
    most_rows = max(len(seeds), protocol.seeds) * len(table.target)  # tuning and final runs share a compilation
    features = np.concatenate(pool)
    features = np.pad(features, ((0, most_rows - len(features)), (0, 0)))
    sets = [
        training_set(
            of_seed[0],
            ready.target[part.train].astype(int) if binary else ready.target[part.train],
            size=size,
            num_classes=2 if binary else 1,
            classes=None if binary else np.zeros(len(part.train), dtype=int),
            groups=groups[part.train],
            num_groups=int(groups.max()) + 1,
        )
        for of_seed, part, ready in zip(rows, parts, prepared, strict=True)
    ]
    validation = [
        (ready.target[part.validation], groups[part.validation]) for part, ready in zip(parts, prepared, strict=True)
    ]
    test = [(ready.target[part.test], groups[part.test]) for part, ready in zip(parts, prepared, strict=True)]
    measure = _of_binary if binary else _of_regression

    def score(s: int, outputs: np.ndarray) -> float:
        target = validation[s][0]
        outputs = outputs[: len(target)].astype(float)
        if binary:
            return float(roc_auc_score(target, outputs[:, 1] - outputs[:, 0]))
        return -float(np.sqrt(np.mean((outputs[:, 0] - target) ** 2)))

    return Data(
        Pool(jnp.asarray(features), jnp.float32(1)),
        sets,
        _stacked([of_seed[1] for of_seed in rows]),
        _stacked([of_seed[2] for of_seed in rows]),
        score,
        lambda s, outputs: measure(test[s][0], test[s][1], table, outputs[: len(test[s][0])]),
        {
            "source": table.source,
            "task": table.task,
            "train_size": len(parts[0].train),
            "test_size": len(parts[0].test),
            "positive": round(float(table.target.mean()), 4) if binary else None,
            "target_std": records.rounded(prepared[0].target_std, 6),
        },
    )


def _aligned(ready: datasets.Prepared, num_numeric: int, num_others: int) -> np.ndarray:
    """Features with as many numbers and others as those of other seeds: columns of zeros for what was left out."""
    numbers, others = ready.features[:, : ready.num_numeric], ready.features[:, ready.num_numeric :]
    return np.concatenate(
        [
            np.pad(numbers, ((0, 0), (0, num_numeric - numbers.shape[1]))),
            np.pad(others, ((0, 0), (0, num_others - others.shape[1]))),
        ],
        axis=1,
    )


def _stacked(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of each seed as a matrix; shorter ones are filled up with their first."""
    size = max(len(r) for r in rows)
    return np.stack([np.concatenate([r, np.full(size - len(r), r[0])]) for r in rows])


def _of_binary(target: np.ndarray, groups: np.ndarray, table: Table, outputs: np.ndarray) -> dict[str, Any]:
    found = metrics.of_binary(target, outputs)
    right = outputs.argmax(1) == target
    worst = {
        table.group_names[g]: np.mean([right[(groups == g) & (target == c)].mean() for c in (0, 1)])
        for g in range(len(table.group_names))
        if min(np.sum((groups == g) & (target == c)) for c in (0, 1)) >= ENOUGH
    }
    return found | {"utility": found["auc"]} | _worst(worst, min)


def _of_regression(target: np.ndarray, groups: np.ndarray, table: Table, outputs: np.ndarray) -> dict[str, Any]:
    finite = bool(np.isfinite(outputs).all())
    errors = (np.nan_to_num(outputs[:, 0].astype(float)) - target) ** 2
    rmse = round(float(np.sqrt(errors.mean())), 6)
    worst = {
        table.group_names[g]: np.sqrt(errors[groups == g].mean())
        for g in range(len(table.group_names))
        if np.sum(groups == g) >= ENOUGH
    }
    return {"rmse": rmse, "utility": -rmse, "finite": finite} | _worst(worst, max)


def _worst(by_group: dict[str, Any], which: Any) -> dict[str, Any]:
    if not by_group:
        return {}
    name = which(by_group, key=by_group.get)
    return {"worst_group": round(float(by_group[name]), 6), "worst_group_name": name}


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    finals = comparison.finals(lines, list(TITLES))
    binary, regression = finals[finals["task"] == "binary"], finals[finals["task"] == "regression"]
    grouped = finals[finals["worst_group"].notna()] if "worst_group" in finals else finals[:0]
    shown = {}
    if len(binary):
        shown["Area under the ROC curve, %"] = _transposed(tables.scores(binary, "auc"))
        shown["Balanced accuracy, %"] = _transposed(tables.scores(binary, "balanced_accuracy"))
    if len(regression):
        title = "Root mean squared error, in standard deviations of the training target"
        shown[title] = _transposed(tables.scores(regression, "rmse", tables.plain))
    for task, title, cell in (
        ("binary", "Balanced accuracy in the worst group, %", tables.percent),
        ("regression", "Root mean squared error in the worst group, in standard deviations", tables.plain),
    ):
        of_task = grouped[grouped["task"] == task]
        if len(of_task):
            shown[title] = _transposed(tables.scores(of_task, "worst_group", cell))
    common = finals[finals["method"].isin(COMMON)]
    common = common.assign(method=common["method"].cat.remove_unused_categories())
    shown["Ranks over tables (area under the curve or error), of the methods that all tables have"] = tables.ranks(
        common, "utility"
    )
    if len(binary):
        shown["Ranks over classification tables, area under the curve"] = tables.ranks(binary, "auc")
        shown["Ranks over classification tables, balanced accuracy"] = tables.ranks(binary, "balanced_accuracy")
    shown |= {
        "Methods": tables.rows_of(TITLES, list(dict.fromkeys(finals["method"]))),
        "Tables": _sources(finals),
        "Settings chosen": _transposed(tables.chosen(finals)),
    }
    return Page(
        intro=(
            "An MLP with periodic embeddings of the numbers (arXiv 2203.05556) and two hidden layers of 64, on real "
            "tables; features by quantiles, fitted on training rows alone; gradients clipped at norm 1; the best of 20 "
            "checkpoints by validation. The paper's TabReD cannot be had out of a package.",
            comparison.budget_of(lines),
            f"Tables of more than {finals.iloc[0]['protocol']['large']} training rows are thinned to so many for "
            "tuning, and get fewer trials. " + comparison.how_to_read(finals),
        ),
        findings=findings(finals, common, binary),
        tables=shown,
        draw=functools.partial(draw, common),
        did_not_help=tables.did_not_help(finals, "utility", "adamw"),
    )


def _transposed(table: pd.DataFrame) -> pd.DataFrame:
    return tables.named(table.T, "table")


def _sources(finals: pd.DataFrame) -> pd.DataFrame:
    first = finals.groupby("problem", observed=True).first()
    shares = ["" if pd.isna(v) else f"{100 * v:.1f} %" for v in first["positive"]]
    table = {"what": first["source"], "training rows": first["train_size"].astype(int).astype(str), "positive": shares}
    return tables.named(pd.DataFrame(table, index=first.index), "table")


def findings(finals: pd.DataFrame, common: pd.DataFrame, binary: pd.DataFrame) -> list[str]:
    """Ranks, and on which tables who is above or below AdamW."""
    found = []
    for name, frame, metric, what in (
        ("also", common, "utility", "over all tables"),
        ("rgd", common, "utility", "over all tables"),
        ("also", binary, "balanced_accuracy", "balanced accuracy over classification tables"),
    ):
        if not len(frame) or name not in set(frame["method"]):
            continue
        rank = statistics.ranks(frame, metric)
        best, p = statistics.not_worse_than_the_best(frame, metric, name)
        verdict = "it is the best" if best == name else f"the best is {best} ({rank[best]:.2f}), p = {p:.2g}"
        found.append(f"Mean rank of {name}, {what}: {rank[name]:.2f} of {len(rank)}; {verdict}.")
    metric = "utility"
    for name in ("also", "also-groups", "rgd", "abadam"):
        if name in set(finals["method"]):
            found.append(f"{name} {tables.verdicts(finals, metric, name, 'adamw')}.")
    return found


def draw(common: pd.DataFrame, file: Path) -> None:
    """What each method has over AdamW on each table, in standard deviations of AdamW over its seeds."""
    wide = common.pivot_table(index="problem", columns="method", values="utility", observed=True)
    spread = common[common["method"] == "adamw"].groupby("problem", observed=True)["utility"].std()
    scale = spread.clip(lower=1e-3 * wide["adamw"].abs())  # all seeds may have found the same
    gains = wide.drop(columns="adamw").sub(wide["adamw"], axis=0).div(scale, axis=0)
    looks = plots.styles([str(name) for name in gains.columns])
    with plots.picture(file, "What methods have over AdamW, table by table", figsize=(9, 7)) as (_, ax):
        for k, name in enumerate(gains.columns):
            y = np.arange(len(gains)) + 0.12 * (k - (len(gains.columns) - 1) / 2)
            look = looks[str(name)] | {"linestyle": "none"}
            ax.plot(gains[name].clip(-5, 5), y, label=name, markersize=6, **look)
        ax.axvline(0, color="#7f7f7f", linewidth=0.8)
        ax.set_yticks(range(len(gains)), [str(name) for name in gains.index])
        ax.set_xlim(-5.3, 5.3)
        ax.set_xlabel(
            "area under the curve, or error saved, over AdamW's, in standard deviations of\n"
            "AdamW over seeds (at least a thousandth of AdamW's value), cut at 5"
        )
        ax.grid(axis="y", linewidth=0.3)
        ax.legend(fontsize=8)


EXPERIMENT = Experiment("Tables", "18 real tables, MLP-PLR (ALSO, section 6.2; RGD)", PROTOCOLS, jobs, page)
