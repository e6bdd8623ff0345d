"""Two toys of which the answer is known: RGD's regression with rare directions, ABSGD's boundary in the plane.

Every rule has its best learning rate of one grid, chosen on other seeds than those that are reported.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pandas as pd

import also_optax
from benchmarks import plots, statistics, tables
from benchmarks.experiment import Experiment, Page
from benchmarks.jobs import Job
from benchmarks.records import Line, rounded
from benchmarks.search import FIRST_TUNING_SEED
from benchmarks.toys import boundary, regression
from benchmarks.toys.boundary import Weighting
from benchmarks.toys.descent import Rule
from benchmarks.toys.regression import Regression

RULES: dict[str, tuple[str, Rule]] = {
    "sgd": ("plain SGD", None),
    "rgd, T = 1": ("RGD with the KL divergence, clipped at its default", also_optax.reweight_by_rgd(clip=1.0)),
    "rgd, T = 3": ("RGD, clipped later", also_optax.reweight_by_rgd(clip=3.0)),
    "rgd, T = 10": ("RGD, clipped late", also_optax.reweight_by_rgd(clip=10.0)),
}


def absgd(temperature: float) -> Rule:
    """ABSGD's weights of a whole batch."""
    return also_optax.reweight_by_absgd(temperature=temperature, averaging_rate=1.0)


WEIGHTINGS = {
    "plain": Weighting("all examples alike"),
    "static": Weighting("inverse class frequencies", balanced=True),
    "absgd, lambda = 1": Weighting("ABSGD", absgd(1.0)),
    "absgd, lambda = 5": Weighting("ABSGD, milder", absgd(5.0)),
    "rgd, T = 1": Weighting("RGD with the KL divergence", also_optax.reweight_by_rgd(clip=1.0)),
    "rgd, T = 10": Weighting("RGD, clipped late", also_optax.reweight_by_rgd(clip=10.0)),
    "focal": Weighting(
        "focal loss, gamma = 2", loss=functools.partial(optax.sigmoid_focal_loss, gamma=2.0, alpha=None)
    ),
}
CHOICES: dict[str, Callable[[Regression, np.ndarray], np.ndarray]] = {
    "mean loss": regression.expected_loss,
    "mean error": lambda sizes, errors: errors.mean(-1),
}
"""What the learning rate of the regression is chosen by: the loss that is trained, or all directions alike."""
REACHED = 0.1


@dataclass(frozen=True)
class Protocol:
    """The sizes.

    Attributes:
      seeds: that are reported; as many others choose the learning rate.
      rates: learning rates in a grid.
      steps: of the regression.
      chance: that an example of the regression is of the rare directions.
      counts: points of the two classes in the plane.
      degrees: that the boundary starts turned away from the best.
      after: steps after which boundaries are compared.
      rules: at most so many of each toy.
      version: raised when results are no longer comparable.
    """

    seeds: int = 30
    rates: int = 24
    steps: int = 2000
    chance: float = 0.02
    counts: tuple[int, int] = (1000, 20)
    degrees: float = 60.0
    after: tuple[int, ...] = (1, 5, 20)
    rules: int = 100
    version: int = 2

    @property
    def regression(self) -> Regression:
        """The first toy."""
        return Regression(chance=self.chance, steps=self.steps)

    @property
    def regression_rates(self) -> np.ndarray:
        """Learning rates of the first toy."""
        return np.geomspace(0.01, 0.6, self.rates)

    @property
    def boundary_rates(self) -> np.ndarray:
        """Learning rates of the second toy: with a rare class weighed up or not, they differ by its frequency."""
        return np.geomspace(0.02, 100.0, self.rates)

    @property
    def every_seed(self) -> np.ndarray:
        """Seeds to choose by, then those to report."""
        seeds = np.arange(self.seeds)
        return np.concatenate([FIRST_TUNING_SEED + seeds, seeds])


PROTOCOLS = {
    "full": Protocol(),
    "quick": Protocol(seeds=10, rates=12, steps=1000),
    "smoke": Protocol(seeds=2, rates=2, steps=50, rules=2),
}


def jobs(protocol: Protocol) -> Iterator[Job]:
    """A job a rule."""
    for name in list(RULES)[: protocol.rules]:
        yield Job(f"regression {name}", {"toy": "regression", "rule": name}, 1, _regression(protocol, name))
    for name in list(WEIGHTINGS)[: protocol.rules]:
        yield Job(f"boundary {name}", {"toy": "boundary", "rule": name}, 0.3, _boundary(protocol, name))


def _regression(protocol: Protocol, name: str) -> Callable[..., list[Line]]:
    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        rates, sizes = protocol.regression_rates, protocol.regression
        tuning, found = np.split(regression.errors(sizes, RULES[name][1], rates, protocol.every_seed), 2, axis=1)
        made: list[Line] = [
            {
                "kind": "rate",
                "method": name,
                "problem": f"rate {rate:.2g}",
                "learning_rate": rounded(rate),
                "steps_needed": [_reached(sizes, rare) for rare in of_rate[..., 1]],
            }
            for rate, of_rate in zip(rates, found, strict=True)
        ]
        for by, cost in CHOICES.items():
            k = _lowest(cost(sizes, tuning[:, :, -1]))
            made += [
                {
                    "kind": "regression",
                    "method": name,
                    "problem": by,
                    "seed": seed,
                    "learning_rate": rounded(rates[k]),
                    "at_its_edge": k in (0, len(rates) - 1),
                    "frequent": rounded(errors[:, 0]),
                    "rare": rounded(errors[:, 1]),
                    "steps_needed": [_reached(sizes, errors[:, 1])],
                }
                for seed, errors in enumerate(found[k])
            ]
        return made

    return work


def _after(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"


def _lowest(costs: np.ndarray) -> int:
    """The learning rate whose mean cost ``[R, S]`` is the lowest; what is not finite is the worst."""
    return int(np.argmin(np.nan_to_num(costs.mean(1), nan=np.inf, posinf=np.inf)))


def _reached(sizes: Regression, errors: np.ndarray) -> int | None:
    """Steps until the error is below a tenth of what it was at the start; None where it never is."""
    below = np.flatnonzero(errors < REACHED)
    return int((below[0] + 1) * sizes.steps // sizes.records) if len(below) else None


def _boundary(protocol: Protocol, name: str) -> Callable[..., list[Line]]:
    def work(lines: Sequence[Line], on_progress: Callable[[float], None]) -> list[Line]:
        rates, steps = protocol.boundary_rates, max(protocol.after)
        every = boundary.train(WEIGHTINGS[name], rates, protocol.every_seed, protocol.counts, steps, protocol.degrees)
        tuning, found = np.split(every, 2, axis=1)
        made = []
        for after in protocol.after:
            k = _lowest(-boundary.balanced_accuracy(tuning[:, :, after]))
            for seed, at in enumerate(found[k, :, after]):
                made.append(
                    {
                        "kind": "boundary",
                        "method": name,
                        "problem": _after(after),
                        "seed": seed,
                        "learning_rate": rounded(rates[k]),
                        "at_its_edge": k in (0, len(rates) - 1),
                        "boundary": rounded(at),
                        "angle": rounded(boundary.angle(at)),
                        "balanced_accuracy": rounded(boundary.balanced_accuracy(at), 7),
                    }
                )
        return made

    return work


def page(lines: pd.DataFrame) -> Page:
    """Tables, findings and the picture."""
    protocol = Protocol(**_frozen(lines.iloc[-1]["protocol"]))
    best = _ordered(lines[lines["kind"] == "regression"], RULES)
    same = _ordered(lines[lines["kind"] == "rate"], RULES)
    boundaries = _ordered(lines[lines["kind"] == "boundary"], WEIGHTINGS)
    best = best.assign(
        final_rare=[values[-1] for values in best["rare"]],
        final_frequent=[values[-1] for values in best["frequent"]],
    )
    ideal = boundary.balanced_accuracy(np.append(boundary.BEST, 0.0))
    shown = {
        "Regression: error in the rare directions at the end": tables.scores(best, "final_rare", tables.plain),
        "Regression: error in the frequent directions at the end": tables.scores(best, "final_frequent", tables.plain),
        f"Regression: steps until the error in the rare directions is below {REACHED:g}": _needed(best),
        "Regression: the same at the same learning rate": _needed(same),
        "Boundary: degrees from the best one": tables.scores(boundaries, "angle", _degrees),
        "Boundary: balanced accuracy, %": tables.scores(boundaries, "balanced_accuracy"),
        "Learning rates chosen": _rates(pd.concat([best, boundaries])),
        "Rules": _about(),
    }
    sizes = protocol.regression
    return Page(
        intro=(
            f"**Regression** (RGD's example). Of {2 * sizes.directions} directions half are rare: an example has "
            f"Gaussian entries in the frequent half, or with a chance of {sizes.chance:g} in the rare half, and 0 in "
            f"the other. SGD on fresh batches of {sizes.batch}, {sizes.steps} steps; the error in each direction "
            "starts at 1. Each rule has its best learning rate of one grid of "
            f"{protocol.rates}, by its mean loss at the end, as a user would choose, or by its mean error over all "
            "directions, which only a toy can know.",
            f"**Boundary** (ABSGD's example). {protocol.counts[0]} points of one Gaussian class, {protocol.counts[1]} "
            f"of another; gradient descent on all of them from a boundary turned by {protocol.degrees:g} degrees from "
            f"the best, whose balanced accuracy is {100 * ideal:.1f} %. Each weighting has its best learning rate of "
            f"one grid of {protocol.rates}, for each number of steps, by the balanced accuracy, which is exact.",
            f"{protocol.seeds} seeds, the same for all rules; learning rates are chosen on as many others. Mean ± half "
            "of the 95 % interval; p-values are of paired t-tests, Holm-corrected.",
        ),
        findings=findings(best, same, boundaries),
        tables=shown,
        draw=functools.partial(draw, best, boundaries, protocol),
    )


def _frozen(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings out of JSON, with tuples for its lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def _ordered(lines: pd.DataFrame, names: Any) -> pd.DataFrame:
    problems = list(dict.fromkeys(lines["problem"]))
    return lines.assign(
        method=pd.Categorical(lines["method"], [n for n in names if n in set(lines["method"])], ordered=True),
        problem=pd.Categorical(lines["problem"], problems, ordered=True),
    ).sort_values(["method", "problem", "seed"])


def _degrees(mean: float, half: float) -> str:
    return f"{mean:.1f}" + ("" if np.isnan(half) else f" ±{half:.1f}")


def _needed(lines: pd.DataFrame) -> pd.DataFrame:
    """Median steps over seeds, with the number of seeds that got there where not all did."""

    def cell(values: pd.Series) -> str:
        there = values.notna()
        median = f"{_median(values):.0f}".replace("inf", "never")
        return median if there.all() else f"{median} ({there.sum()} of {len(values)})"

    every = lines.explode("steps_needed").astype({"steps_needed": float})
    found = every.groupby(["method", "problem"], observed=True)["steps_needed"].apply(cell)
    return tables.named(found.unstack("problem"))


def _median(steps: pd.Series) -> float:
    """Of seeds, those that never got there being last."""
    return float(steps.fillna(np.inf).quantile(0.5, interpolation="higher"))


def _rates(lines: pd.DataFrame) -> pd.DataFrame:
    text = [
        f"{rate:.3g}" + (" (at the edge)" if edge else "")
        for rate, edge in zip(lines["learning_rate"], lines["at_its_edge"], strict=True)
    ]
    found = lines.assign(method=lines["kind"] + ": " + lines["method"].astype(str), text=text)
    return tables.named(
        found.groupby(["method", "problem"], observed=True, sort=False)["text"].first().unstack("problem", sort=False)
    )


def _about() -> pd.DataFrame:
    about = {f"regression: {name}": what for name, (what, _) in RULES.items()}
    about |= {f"boundary: {name}": weighting.about for name, weighting in WEIGHTINGS.items()}
    return tables.named(pd.DataFrame({"what": about.values()}, index=list(about)), "rule")


def findings(best: pd.DataFrame, same: pd.DataFrame, boundaries: pd.DataFrame) -> list[str]:
    """Whether each claim reproduces."""
    found = []
    for name in best["method"].cat.categories[1:]:
        for by in best["problem"].unique():
            of_choice = best[best["problem"] == by]
            parts = [_lower(of_choice, f"final_{where}", name, where) for where in ("rare", "frequent")]
            found.append(f"Regression, learning rates chosen by the {by}, {name} against sgd: {'; '.join(parts)}.")
        found.append(_faster(same, name))
    for name in boundaries["method"].cat.categories[1:]:
        against = [
            tables.verdicts(boundaries, "balanced_accuracy", name, other)
            for other in ("plain", "static")
            if other != name
        ]
        found.append(f"Boundary, balanced accuracy of {name} {', '.join(against)}.")
    return found


def _lower(lines: pd.DataFrame, metric: str, name: str, where: str) -> str:
    """Half a sentence: whether an error of `name` is below that of SGD, and both."""
    row = statistics.differences(lines, metric, "sgd").loc[name].iloc[0]
    means = lines.groupby("method", observed=True)[metric].mean()
    sure = "lower" if row["mean"] < 0 else "higher"
    verdict = f"{sure} error" if row["p"] < statistics.LEVEL else "no difference shown"
    return f"{verdict} in the {where} directions ({means[name]:.2g} against {means['sgd']:.2g}, p = {row['p']:.2g})"


def _faster(same: pd.DataFrame, name: str) -> str:
    """How much earlier a rule gets to the rare directions than SGD with the same learning rate."""
    every = same.explode("steps_needed").astype({"steps_needed": float})
    needed = every.pivot_table(index="problem", columns="method", values="steps_needed", aggfunc=_median, observed=True)
    if name not in needed or "sgd" not in needed:
        return f"Regression at the same learning rate: {name} and sgd do not both get there."
    ratio = (needed["sgd"] / needed[name]).replace([0, np.inf], np.nan).dropna()
    if ratio.empty:
        return f"Regression at the same learning rate: {name} and sgd do not both get there."
    return (
        f"Regression at the same learning rate: {name} gets the error in the rare directions below {REACHED:g} in "
        f"{1 / ratio.max():.2f} to {1 / ratio.min():.2f} of sgd's steps, at the {len(ratio)} learning rates at which "
        "both do."
    )


def draw(best: pd.DataFrame, boundaries: pd.DataFrame, protocol: Protocol, file: Path) -> None:
    """Errors over steps, and boundaries after the first and the last number of steps."""
    sizes, after = protocol.regression, (protocol.after[0], protocol.after[-1])
    title = f"Exact toys, {protocol.seeds} seeds"
    with plots.picture(file, title, ncols=3, figsize=(16, 6.5)) as (fig, (left, *others)):
        at = np.arange(1, sizes.records + 1) * sizes.steps / sizes.records
        by_loss = best[best["problem"] == "mean loss"].groupby("method", observed=True)
        curves = {str(name): (at, np.mean(of_rule["rare"].tolist(), axis=0)) for name, of_rule in by_loss}
        left.set_yscale("log")
        title = "a. Regression, rates chosen by the mean loss"
        plots.curves(left, curves, x="step", y="mean squared error in the rare directions", title=title)
        for ax, steps, mark in zip(others, after, "bc", strict=True):
            _draw_boundaries(ax, boundaries, protocol, steps)
            ax.set_title(f"{mark}. Boundary after {_after(steps)}, first seed", loc="left")
        fig.legend(*others[0].get_legend_handles_labels(), loc="outside lower right", ncols=6, fontsize=9)


def _draw_boundaries(ax: Any, boundaries: pd.DataFrame, protocol: Protocol, after: int) -> None:
    points, classes = boundary.sample(0, protocol.counts)
    ax.scatter(*points[classes == 0].T, s=6, color="#c8c8c8", label=f"{protocol.counts[0]} of the frequent class")
    rare = points[classes == 1].T
    ax.scatter(*rare, s=28, color="white", edgecolor="black", zorder=3, label=f"{protocol.counts[1]} of the rare class")
    seen = boundaries[(boundaries["problem"] == _after(after)) & (boundaries["seed"] == 0)]
    looks = {"plain": plots.KNOWN["sgd"]} | plots.styles([str(name) for name in seen["method"] if name != "plain"])
    _draw_line(ax, np.append(boundary.BEST, 0.0), "best", {"color": "black", "linewidth": 3})
    start = boundary.start(0, protocol.degrees)
    _draw_line(ax, start, "start", {"color": "black", "linewidth": 1.2, "linestyle": ":"})
    for name, found in zip(seen["method"], seen["boundary"], strict=True):
        _draw_line(ax, np.array(found), str(name), looks[str(name)] | {"markersize": 6, "linewidth": 1.3})
    ax.set(xlim=(-4, 4), ylim=(-4, 4), box_aspect=1, xlabel="first feature", ylabel="second feature")


def _draw_line(ax: Any, found: np.ndarray, name: str, look: dict[str, Any]) -> None:
    """The line where ``w x + b`` is 0, along its own direction."""
    normal, offset = found[:2], found[2]
    foot = -offset * normal / (normal @ normal)
    along = np.array([-normal[1], normal[0]]) / np.linalg.norm(normal)
    ends = foot + np.linspace(-6, 6, 13)[:, None] * along
    ax.plot(*ends.T, label=name, markevery=2, **look)


EXPERIMENT = Experiment(
    "Exact toys", "RGD's regression with rare directions, ABSGD's boundary in the plane", PROTOCOLS, jobs, page
)
