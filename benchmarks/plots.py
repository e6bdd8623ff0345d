"""What the pictures share: a look that is told apart in grey and by the colour-blind, and labels that do not touch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from benchmarks import statistics

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LOOK: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 120}
# Okabe and Ito's colours; markers and dashes say the same again. Baselines are dashed, ALSO is red and orange.
COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#8c6d31", "#5e3c99", "#b2182b", "#4d4d4d")
MARKERS = "^vX<>sPhd*"
KNOWN: dict[str, dict[str, Any]] = {
    "adamw": {"color": "#7f7f7f", "marker": "o", "linestyle": "--"},
    "sgd": {"color": "#7f7f7f", "marker": "o", "linestyle": "--"},
    "static": {"color": "#0072b2", "marker": "^", "linestyle": "--"},
    "also-examples": {"color": "#d55e00", "marker": "D", "linestyle": "-"},
    "also-classes": {"color": "#e69f00", "marker": "P", "linestyle": "-"},
    "also-groups": {"color": "#e69f00", "marker": "P", "linestyle": "-"},
}


def styles(names: list[str]) -> dict[str, dict[str, Any]]:
    """A style for each name: colour, marker and dashes; none has the colour or the marker of a known one."""
    others = [name for name in names if name not in KNOWN]
    taken = {value for name in names if name in KNOWN for value in KNOWN[name].values()}
    colours = [colour for colour in COLOURS if colour not in taken]
    markers = [marker for marker in MARKERS if marker not in taken]
    made = {
        name: {
            "color": colours[k % len(colours)],
            "marker": markers[k % len(markers)],
            "linestyle": ("-", "--", ":")[k // len(colours) % 3],
        }
        for k, name in enumerate(others)
    }
    return {name: KNOWN.get(name) or made[name] for name in names}


@contextmanager
def picture(file: Path, title: str, **arguments: Any) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes, as ``plt.subplots(**arguments)`` gives them, saved to `file` at the end."""
    with plt.rc_context(LOOK):
        fig, axes = plt.subplots(layout="constrained", **arguments)
        fig.suptitle(title, fontweight="bold")
        yield fig, axes
        fig.savefig(file, metadata={"Software": None})
        plt.close(fig)


def dots(ax: Any, lines: pd.DataFrame, metric: str, *, scale: float = 100.0, label: str, title: str = "") -> None:
    """A dot with its interval for each method, a marker a problem, sorted by the mean over problems."""
    problems = list(dict.fromkeys(lines["problem"]))
    means = lines.groupby(["method", "problem"], observed=True)[metric].mean().groupby("method", observed=True).mean()
    names = list(means.sort_values().index)
    looks = styles(problems)
    for k, problem in enumerate(problems):
        of_problem = lines[lines["problem"] == problem]
        offset = 0.5 * (k - (len(problems) - 1) / 2) / max(1, len(problems))
        found = [
            statistics.interval(of_problem.loc[of_problem["method"] == name, metric].dropna().to_numpy())
            if (of_problem["method"] == name).any()
            else (np.nan, np.nan)
            for name in names
        ]
        mean, half = scale * np.array(found).T
        look = looks[problem] | {"linestyle": "none"}
        y = np.arange(len(names)) + offset
        ax.errorbar(mean, y, xerr=np.nan_to_num(half), label=problem, markersize=5, elinewidth=0.9, **look)
    ax.set_yticks(range(len(names)), names)
    for tick, name in zip(ax.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name.startswith("also") else "normal")
    ax.grid(axis="y", linewidth=0.3)
    ax.set_xlabel(label)
    ax.set_title(title, loc="left")
    ax.legend(fontsize=8, loc="best")


def gaps(ax: Any, lines: pd.DataFrame, metric: str, pairs: Sequence[tuple[str, str]], *, label: str) -> None:
    """:func:`dots` of what the first of each pair has over the second at the same seed, around a line at 0."""
    found = statistics.gaps(lines, metric, pairs)
    ax.axvline(0, color="black", linewidth=0.8)
    named = found.assign(method=found["method"] + " over " + found["baseline"])
    dots(ax, named, "gap", label=label, title="Paired differences")


def heat(ax: Any, values: np.ndarray, xs: Sequence[str], ys: Sequence[str], *, x: str, y: str, title: str = "") -> None:
    """Values ``[Y, X]`` as shades of grey, darker is higher, each with its number; the lowest fifth is white.

    The shades span at least 1, so that no contrast is made of nothing.
    """
    high = np.nanmax(values)
    low = min(np.nanquantile(values, 0.2), high - 1)
    ax.imshow(values, cmap="Greys", vmin=low - 0.2 * (high - low), vmax=high + 0.2 * (high - low), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > (low + high) / 2 else "black"
        ax.text(column, row, "-" if np.isnan(value) else f"{value:.1f}", ha="center", va="center", color=color)
    ax.set_xticks(range(len(xs)), xs)
    ax.set_yticks(range(len(ys)), ys)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, loc="left")


def legend_below(ax: Any, columns: int) -> None:
    """The legend of `ax` under it, where it hides nothing."""
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=columns, frameon=False)


def curves(
    ax: Any,
    found: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    x: str,
    y: str,
    title: str = "",
    names: Sequence[str] | None = None,
) -> None:
    """A line for each name, from its ``(x, y)``, named at its right end; `names` are those of all panels alike."""
    looks = styles(list(names or found))
    ends = {}
    for name, (at, values) in found.items():
        ax.plot(at, values, markersize=5, linewidth=1.5, markevery=max(1, len(at) // 5), **looks[name])
        finite = np.flatnonzero(np.isfinite(values))
        if len(finite):
            ends[name] = float(values[finite[-1]])
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, loc="left")
    label_ends(ax, ends, max(at[-1] for at, _ in found.values()), looks)


def label_ends(ax: Any, ends: Mapping[str, float], x: float, looks: Mapping[str, Mapping[str, Any]]) -> None:
    """Names at the right ends of the lines, pushed apart until they do not touch, each led to its line."""
    ax.autoscale_view()  # what was plotted counts only when the picture is drawn, which is too late for the places
    to_axes = ax.transData + ax.transAxes.inverted()
    order = sorted(ends, key=lambda name: ends[name])
    wanted = np.array([to_axes.transform((x, ends[name]))[1] for name in order])
    start = float(to_axes.transform((x, 1))[0])
    for name, y, place in zip(order, wanted, spread(wanted, gap=0.055), strict=True):
        color = looks[name]["color"]
        lead = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        ax.annotate(
            name,
            xy=(start + 0.005, y),
            xytext=(start + 0.06, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=color,
            va="center",
            fontsize=8,
            fontweight="bold" if name.startswith("also") else "normal",
            arrowprops=lead,
            annotation_clip=False,
        )


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """The places nearest to `wanted` (sorted) that are `gap` apart: groups that touch are centred on their mean."""
    groups: list[list[float]] = []
    for place in wanted:
        groups.append([place])
        while len(groups) > 1 and _bottom(groups[-1], gap) - _top(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return np.concatenate([np.mean(group) + gap * (np.arange(len(group)) - (len(group) - 1) / 2) for group in groups])


def _top(group: list[float], gap: float) -> float:
    return float(np.mean(group)) + gap * (len(group) - 1) / 2


def _bottom(group: list[float], gap: float) -> float:
    return float(np.mean(group)) - gap * (len(group) - 1) / 2
