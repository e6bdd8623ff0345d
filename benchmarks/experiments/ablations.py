"""Ablations of the adversaries, after the appendix of the ALSO paper (arXiv 2508.16734, figures 6 and 9 to 12).

On the data of the experiment on imbalance, fewer of them: how much the settings of each rule matter, what optimism,
look-ahead and Adam on pi are worth, and where the weights go.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from benchmarks import comparison, metrics, plots, records, statistics, tables
from benchmarks.comparison import Data, Problem
from benchmarks.experiment import Experiment, Page
from benchmarks.experiments import imbalance
from benchmarks.jobs import Job
from benchmarks.methods import ADAM, ALSO, METHODS, also_by_example, by_example
from benchmarks.networks import MLP
from benchmarks.records import Line
from benchmarks.search import Budget
from benchmarks.speed.cases import DUAL_UPDATE, WHOLE_STEP
from benchmarks.speed.timing import summarize
from benchmarks.training import Method, Runs, Task, outputs_of, stacked, train

SPEED = Path(__file__).parent.parent / "results" / "speed.jsonl"
TEMPERATURE = 0.3
"""The KL penalty of all variants, so that they play the same game."""


def variant(about: str, **fixed: Any) -> Method:
    """ALSO with a weight per example, a class-balanced prior and the common KL penalty."""
    space = {**ADAM, "dual_learning_rate": ALSO["dual_learning_rate"]}
    return Method(about, space, also_by_example(balanced=True, kl_penalty=TEMPERATURE, **fixed), groups=by_example)


VARIANTS = {
    "also-optimistic": variant("ALSO: optimism 1 on both sides"),
    "also-descent-ascent": variant("optimism 0", optimism=0.0),
    "also-dual-adam": variant("Adam on pi instead of mirror ascent", dual_adam=True),
    "also-lookahead": variant("the two-point form of the authors' code", lookahead=True),
}
REFERENCE = "also-optimistic"
OWN, SAME = "its own settings", f"the settings of {REFERENCE}"
WATCHED = ("adamw", "static", "absgd", "rgd")
"""Rows whose weights are shown beside those of the variants."""


UNWEIGHTED = ("adamw", "static")
"""Rows without an adversary: their loss has one form."""


class Grid(NamedTuple):
    """Two settings of a method, everywhere within the ranges that are searched elsewhere; the others are fixed.

    Attributes:
      method: a name in `METHODS`.
      x, y: names of the settings.
      xs, ys: their values.
      fixed: the other settings.
      neutral: half a sentence: where in the grid there is next to no adversary.
    """

    method: str
    x: str
    xs: tuple[float, ...]
    y: str
    ys: tuple[float, ...]
    fixed: Mapping[str, float]
    neutral: str

    @property
    def settings(self) -> list[dict[str, float]]:
        """All of them, rows first."""
        return [{self.y: y, self.x: x, **self.fixed} for y in self.ys for x in self.xs]


GRIDS = (
    Grid(
        "also-examples",
        "dual_learning_rate",
        (0.0, 1e-4, 1e-3, 1e-2, 1e-1),
        "kl_penalty",
        (1e-3, 1e-2, 1e-1, 1.0),
        {"learning_rate": 1e-3, "weight_decay": 1e-3},
        "dual_learning_rate 0 is the class-balanced prior for ever",
    ),
    Grid(
        "rgd",
        "clip",
        (0.01, 0.5, 1.0, 2.0, 5.0, 10.0),
        "learning_rate",
        (3e-4, 1e-3, 3e-3, 1e-2),
        {"weight_decay": 1e-3},
        "clip 0.01 is AdamW to 1 % of its weights",
    ),
    Grid(
        "absgd",
        "temperature",
        (0.5, 1.0, 2.0, 5.0, 10.0, 1000.0),
        "averaging_rate",
        (0.1, 0.3, 0.6, 1.0),
        {"learning_rate": 0.1, "weight_decay": 1e-4},
        "temperature 1000 is SGD",
    ),
)


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      data: the name of a data set.
      uc: the factor by which the odd classes are thinned.
      per_class: at most so many images of each class for training and validation, before thinning.
      rounds: of tuning the variants.
      trials: a round.
      tuning_seeds: that a trial's score is the mean over.
      seeds: of the final runs.
      steps: of the optimizer.
      batch: its size.
      grid_seeds: of each cell of a grid.
      grid_steps: of its runs.
      grids: how many grids.
      methods: names of `VARIANTS` and `WATCHED`.
      version: raised when results are no longer comparable.
    """

    data: str = "fashion-mnist"
    uc: int = 20
    per_class: int = 600
    rounds: int = 3
    trials: int = 4
    tuning_seeds: int = 2
    seeds: int = 8
    steps: int = 1000
    batch: int = 128
    grid_seeds: int = 3
    grid_steps: int = 600
    grids: int = len(GRIDS)
    methods: tuple[str, ...] = (*VARIANTS, *WATCHED)
    version: int = 2


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol("digits", 20, 600, 2, 5, 1, 5, 400, 64, 2, 200),
    "smoke": Protocol("digits", 5, 60, 1, 2, 1, 2, 20, 32, 1, 20, 1, ("also-optimistic", "also-descent-ascent")),
}
CHECKS = 10
TOGETHER = 12
"""Runs of a grid that are vmapped at a time."""


def jobs(protocol: Protocol) -> Iterator[Job]:
    """The times measured elsewhere, the grids, the variants tuned and run, and those followed over their steps."""
    yield Job("update time", {"part": "speed"}, 1.0, _update_times)
    methods = {name: (VARIANTS | METHODS)[name] for name in protocol.methods}
    budget = Budget(protocol.rounds, protocol.trials, protocol.tuning_seeds, protocol.seeds)
    name = f"uc {protocol.uc}"
    task = Task(MLP(2), protocol.steps, protocol.batch, checks=CHECKS)
    temperature = {"network": "mlp", "temperature": TEMPERATURE}
    problem = Problem(name, task, functools.partial(_data, protocol), name, budget, methods, temperature)
    for grid in GRIDS[: protocol.grids]:
        runs = len(grid.settings) * protocol.grid_seeds
        settings = {"part": "grid", "method": grid.method, "settings": grid.settings}
        yield Job(f"grid {grid.method}", settings, runs * protocol.grid_steps, _grid(protocol, grid))
    yield from comparison.jobs([problem])
    for method in (name for name in protocol.methods if name in VARIANTS):
        for settings_of in dict.fromkeys((method, REFERENCE)):
            settings = {"part": "steps", "method": method, "settings_of": settings_of}
            weight = 2 * protocol.seeds * protocol.steps
            yield Job(
                f"steps of {method}, settings of {settings_of}", settings, weight, _steps(problem, method, settings_of)
            )


def _data(protocol: Protocol, seeds: tuple[int, ...]) -> Data:
    same = imbalance.Protocol(data=protocol.data, uc=(protocol.uc,), per_class=protocol.per_class)
    return imbalance.data_of(same, protocol.uc, seeds)


def _update_times(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
    """What the `speed` benchmark measured of the dual update, and of a whole step of its MLP."""
    found = [
        line
        for line in records.read(SPEED)
        if line["part"] in (WHOLE_STEP, DUAL_UPDATE)
        and line["form"] == "call"
        and line["method"] == "also"
        and line["against"] in ("copy", "adamw")
        and line["workload"] in ("dual", "mlp")
        and "ratios" in line
    ]
    if not found:
        raise ValueError(
            f"no times in {SPEED}: run `python -m benchmarks speed --parts a,b --out {SPEED.parent}` first"
        )
    return [
        {
            "kind": "update time",
            "what": "dual update over a copy of pi" if line["workload"] == "dual" else "MLP's step over AdamW's",
            "tables": "lazy" if line["lazy"] else "dense" + ("" if line["average"] else ", no average"),
            "groups": line["num_groups"],
            "optimism": line["optimism"],
            **{key: records.rounded(value) for key, value in summarize(line["ratios"])._asdict().items()},
            "measured": line["time"],
            "measured_at": line["commit"],
        }
        for line in found
    ]


def _grid(protocol: Protocol, grid: Grid) -> Callable[..., list[Line]]:
    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        seeds = tuple(range(protocol.grid_seeds))
        data, settings = _data(protocol, seeds), grid.settings
        copies = [s for _ in settings for s in seeds]
        repeated = [setting for setting in settings for _ in seeds]
        runs = Runs(stacked([data.sets[s] for s in copies]), np.array(copies), repeated, data.validation[copies])
        task = Task(MLP(2), protocol.grid_steps, protocol.batch, checks=1, together=TOGETHER)
        method = METHODS[grid.method]
        trained = train(task, method, data.pool, runs, lambda r, outputs: data.score(copies[r], outputs), on_progress)
        outputs = outputs_of(task, data.pool, trained.params, data.test[copies])
        return [
            {
                "kind": "grid",
                "method": grid.method,
                "problem": f"uc {protocol.uc}",
                "seed": copies[r],
                "setting": setting,
                **data.measure(copies[r], outputs[r]),
            }
            for r, setting in enumerate(repeated)
        ]

    return work


def _steps(problem: Problem, name: str, settings_of: str) -> Callable[..., list[Line]]:
    """The final runs again, scored at each check on the test set, and on the training set by the game's objective."""

    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        final = [line for line in lines if line.get("kind") == "final" and line["method"] == settings_of]
        if not final:
            raise ValueError(f"no final runs of {settings_of} yet: run them first")
        seeds = tuple(line["seed"] for line in final)
        data = problem.data(seeds)
        sets = stacked(data.sets)
        rows = np.concatenate([data.test, np.asarray(sets.rows)], axis=1)
        tested = data.test.shape[1]
        found: list[tuple[float, float]] = []

        def score(r: int, outputs: np.ndarray) -> float:
            accuracy = data.measure(r, outputs[:tested])["balanced_accuracy"]
            found.append((accuracy, objective(data.sets[r], outputs[tested:])))
            return accuracy

        settings = [line["setting"] for line in final]
        train(
            problem.task,
            problem.methods[name],
            data.pool,
            Runs(sets, np.array(seeds), settings, rows),
            score,
            on_progress,
        )
        curves = np.array(found).reshape(problem.task.checks, len(seeds), 2)
        return [
            {
                "kind": "steps",
                "method": name,
                "problem": OWN if settings_of == name else SAME,
                "seed": seed,
                "accuracies": records.rounded(curves[:, s, 0]),
                "objectives": records.rounded(curves[:, s, 1]),
            }
            for s, seed in enumerate(seeds)
        ]

    return work


def objective(training_set: Any, outputs: np.ndarray) -> float:
    """What the adversary of `VARIANTS` maximises, at its maximum, from outputs ``[n, C]`` on the training set."""
    real = training_set.classes >= 0
    losses = -log_softmax(outputs.astype(float), axis=1)[np.arange(len(outputs)), training_set.targets][real]
    mass = 1 / training_set.class_counts[training_set.classes[real]]
    return metrics.robust_objective(losses, mass / mass.sum(), TEMPERATURE)


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    protocol = lines.iloc[-1]["protocol"]
    order = protocol["methods"]
    finals = comparison.finals(lines, order)
    steps = _at_the_end(lines[lines["kind"] == "steps"], order)
    grids, times = lines[lines["kind"] == "grid"], lines[lines["kind"] == "update time"]
    shown = {
        "Variants: balanced accuracy, %": tables.scores(finals, "balanced_accuracy"),
        "Variants: balanced accuracy minus also-optimistic's, points": tables.gains(
            finals, "balanced_accuracy", REFERENCE
        ),
        "Variants: robust objective after the last step (lower is better)": tables.scores(
            steps, "final_objective", tables.plain
        ),
    }
    for grid in _seen(grids):
        title = f"Balanced accuracy of {grid.method}, %, {grid.y} by {grid.x}"
        shown[title] = _grid_table(grid, grids)
    shown |= {
        "Weight of an odd example over that of the mean, at the end": tables.scores(
            _odd_weight(finals), "odd_weight", tables.plain
        ),
        "Loss of the batches, weighted over plain, at the end": tables.scores(
            _odd_weight(finals[~finals["method"].isin(UNWEIGHTED)]), "loss_ratio", tables.plain
        ),
        "Time of the update by the number of groups, from the `speed` benchmark": _times_table(times),
        "Methods": tables.rows_of(VARIANTS | METHODS, list(dict.fromkeys(finals["method"]))),
        "Settings chosen": tables.chosen(finals),
    }
    first = finals.iloc[0]
    measured = sorted(set(times["measured"].str[:10])) if len(times) else []
    return Page(
        intro=(
            f"{first['source']}; the target is the parity of the class, and the odd classes are thinned by "
            f"{protocol['uc']}, as in the experiment on imbalance, with at most {protocol['per_class']} images of a "
            f"class before thinning: classes of {' and '.join(map(str, first['train_class_counts']))} for training. An "
            "MLP of 128.",
            f"**Variants.** All four play one game: a weight per example, class-balanced prior, KL penalty "
            f"{TEMPERATURE:g}. The robust objective is that game's own on all training examples, "
            "max over pi of sum pi l - tau KL(pi || prior), in closed form; settings are chosen for accuracy, "
            f"not for it, so it is also shown with {SAME} for all. " + comparison.budget_of(lines),
            f"**Grids.** Each is one vmapped run of all settings and {protocol['grid_seeds']} seeds, "
            f"{protocol['grid_steps']} steps, the model after the last step, on the test set; nothing is chosen. "
            + " ".join(f"{grid.method}: {_fixed(grid)}; {grid.neutral}." for grid in _seen(grids)),
            f"**Update time** (figure 6) is not measured here: it is what [speed.md](speed.md) has, measured "
            f"{tables.listed(measured)}.",
        ),
        findings=findings(finals, steps, grids),
        tables=shown,
        draw=functools.partial(draw, finals, steps, grids, times),
    )


def _seen(grids: pd.DataFrame) -> list[Grid]:
    return [grid for grid in GRIDS if grid.method in set(grids["method"])]


def _fixed(grid: Grid) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in grid.fixed.items())


def _at_the_end(steps: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    names = [name for name in order if name in set(steps["method"])]
    reference = steps[steps["method"] == REFERENCE].assign(problem=SAME)
    steps = pd.concat([steps, reference])
    return steps.assign(
        method=pd.Categorical(steps["method"], names, ordered=True),
        problem=pd.Categorical(steps["problem"], [OWN, SAME], ordered=True),
        final_objective=[values[-1] for values in steps["objectives"]],
    )


def _odd_weight(finals: pd.DataFrame) -> pd.DataFrame:
    """With the weight of an odd example, and weighted over plain loss, between the last two checks."""
    last = np.array([losses[-1] for losses in finals["losses"]], dtype=float)
    return finals.assign(
        odd_weight=[weights[-1][1] for weights in finals["class_weights"]], loss_ratio=last[:, 1] / last[:, 0]
    )


def cells(grid: Grid, grids: pd.DataFrame) -> np.ndarray:
    """Mean balanced accuracy in percent, ``[Y, X]``."""
    of_method = grids[grids["method"] == grid.method]
    found = {
        (y, x): 100 * np.mean([value for value in values if np.isfinite(value)] or [np.nan])
        for (y, x), values in of_method.groupby([of_method["setting"].str[grid.y], of_method["setting"].str[grid.x]])[
            "balanced_accuracy"
        ]
    }
    return np.array([[found[y, x] for x in grid.xs] for y in grid.ys])


def _grid_table(grid: Grid, grids: pd.DataFrame) -> pd.DataFrame:
    values = [[f"{value:.1f}" for value in row] for row in cells(grid, grids)]
    table = pd.DataFrame(values, [f"{y:g}" for y in grid.ys], [f"{grid.x} {x:g}" for x in grid.xs])
    return tables.named(table, grid.y)


def _times_table(times: pd.DataFrame) -> pd.DataFrame:
    """Median ratios with their intervals; a column a number of groups."""
    if times.empty:
        return tables.named(pd.DataFrame(index=["none"]), "what")
    row = times["what"] + ", " + times["tables"] + ", optimism " + times["optimism"].map("{:.0f}".format)
    cell = [
        f"{m:.3g} ({a:.3g} to {b:.3g})" for m, a, b in zip(times["median"], times["low"], times["high"], strict=True)
    ]
    table = pd.DataFrame({"row": row, "groups": times["groups"], "cell": cell}).pivot(
        index="row", columns="groups", values="cell"
    )
    table.columns = pd.Index(
        [f"{groups:.0f}" if groups < 1e3 else f"{groups:.0e}".replace("e+0", "e") for groups in table.columns]
    )
    return tables.named(table, "what")


def findings(finals: pd.DataFrame, steps: pd.DataFrame, grids: pd.DataFrame) -> list[str]:
    """What each part of the adversary is worth, and how much its settings matter."""
    found = []
    lower = steps.assign(objective=-steps["final_objective"])
    for name in [name for name in VARIANTS if name != REFERENCE and name in set(finals["method"])]:
        accuracy = tables.verdicts(finals, "balanced_accuracy", name, REFERENCE)
        found.append(f"Balanced accuracy of {name} {accuracy}.")
        if name in set(steps["method"]):
            found.append(f"Lower robust objective after the last step: {name} {_compared(lower, name)}.")
    for grid in _seen(grids):
        values = cells(grid, grids)
        best = np.unravel_index(np.nanargmax(values), values.shape)
        neutral = values[:, 0] if grid.method != "absgd" else values[:, -1]
        near = np.mean(values >= np.nanmax(values) - 1)
        found.append(
            f"Grid of {grid.method}: from {np.nanmin(values):.1f} to {np.nanmax(values):.1f} %, the best at {grid.y} "
            f"{grid.ys[best[0]]:g} and {grid.x} {grid.xs[best[1]]:g}; {100 * near:.0f} % of the settings are within a "
            f"point of it. The best without an adversary: {np.nanmax(neutral):.1f} %."
        )
    watched = _odd_weight(finals).groupby("method", observed=True)[["odd_weight", "loss_ratio"]].mean()
    for name in [name for name in watched.index if name not in UNWEIGHTED]:
        row = watched.loc[name]
        found.append(
            f"At the end {name} weighs an odd example {row['odd_weight']:.2g} times the mean, and its weighted loss is "
            f"{row['loss_ratio']:.2g} of the plain one."
        )
    return found


def _compared(lower: pd.DataFrame, name: str) -> str:
    """Half a sentence on the objectives of `name` and of the reference, with both's settings and with its own."""
    rows = statistics.differences(lower, "objective", REFERENCE).loc[name]
    means = lower.groupby(["method", "problem"], observed=True)["final_objective"].mean()
    parts = []
    for problem, row in rows.iterrows():
        verdict = "no difference shown"
        if row["p"] < statistics.LEVEL:
            verdict = "lower" if row["mean"] > 0 else "higher"
        values = f"{means[name, problem]:.3g} against {means[REFERENCE, problem]:.3g}"
        parts.append(f"with {problem} {verdict} ({values}, p = {row['p']:.2g})")
    return "; ".join(parts)


def draw(finals: pd.DataFrame, steps: pd.DataFrame, grids: pd.DataFrame, times: pd.DataFrame, file: Path) -> None:
    """Grids and times above; what happens over the steps below."""
    protocol = finals.iloc[0]["protocol"]
    title = f"Ablations, {protocol['data']}, uc {protocol['uc']}, {protocol['seeds']} seeds"
    with plots.picture(file, title, nrows=2, ncols=4, figsize=(22, 10)) as (_, axes):
        for ax, grid in zip(axes[0], _seen(grids), strict=False):
            xs, ys = [f"{x:g}" for x in grid.xs], [f"{y:g}" for y in grid.ys]
            about = f"{grid.method}: balanced accuracy, %"
            plots.heat(ax, cells(grid, grids), xs, ys, x=grid.x, y=grid.y, title=about)
        for ax in axes[0, len(_seen(grids)) : 3]:
            ax.set_axis_off()
        _draw_times(axes[0, 3], times)
        names = [str(name) for name in finals["method"].cat.categories]
        at = np.arange(1, CHECKS + 1) * protocol["steps"] / CHECKS
        for ax, metric, label in (
            (axes[1, 0], "accuracies", "balanced accuracy on the test set"),
            (axes[1, 1], "objectives", "robust objective on the training set"),
        ):
            curves = {
                str(name): (at, np.mean(of_method[metric].tolist(), axis=0))
                for name, of_method in steps[steps["problem"] == OWN].groupby("method", observed=True)
            }
            plots.curves(ax, curves, x="step", y=label, title="Variants, each with its own settings", names=names)
        between = at - protocol["steps"] / CHECKS / 2
        weights, losses = {}, {}
        for name, of_method in finals.groupby("method", observed=True):
            found = np.array(of_method["class_weights"].tolist(), dtype=float)[:, :, 1]
            weights[str(name)] = (between, np.nanmean(found, axis=0))
            plain, weighted = np.array(of_method["losses"].tolist(), dtype=float).mean(0).T
            if name not in UNWEIGHTED:
                losses[str(name)] = (between, weighted / plain)
        axes[1, 2].set_yscale("log")
        label = "mean weight of an odd example (mean of all = 1)"
        plots.curves(axes[1, 2], weights, x="step", y=label, title="Weight of the minority", names=names)
        label = "weighted over plain loss of the batches"
        plots.curves(axes[1, 3], losses, x="step", y=label, title="Weighted and plain loss", names=names)


def _draw_times(ax: Any, times: pd.DataFrame) -> None:
    """A line for each table and optimism, over the number of groups."""
    found = times[(times["what"] == "MLP's step over AdamW's") & ~times["tables"].str.contains("no average")]
    curves = {
        f"{table}, optimism {optimism:.0f}": (of["groups"].to_numpy(), of["median"].to_numpy())
        for (table, optimism), of in found.sort_values("groups").groupby(["tables", "optimism"])
    }
    ax.set_xscale("log")
    if curves:
        plots.curves(ax, curves, x="number of weights", y="an MLP's step over AdamW's", title="Time (benchmark speed)")


EXPERIMENT = Experiment(
    "Ablations", "settings, variants and weights of the adversaries (ALSO, appendix)", PROTOCOLS, jobs, page
)
