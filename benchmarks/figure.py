"""The picture: accuracy against imbalance, and where the weight goes during training."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from scipy import stats

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Okabe and Ito's colours, told apart by the colour-blind; markers and dashes say the same again. Baselines are dashed.
STYLES: dict[str, dict[str, Any]] = {
    "adamw": {"color": "#7f7f7f", "marker": "o", "linestyle": "--"},
    "adamw-prior": {"color": "#000000", "marker": "s", "linestyle": "--"},
    "static": {"color": "#0072b2", "marker": "^", "linestyle": "--"},
    "upsampling": {"color": "#56b4e9", "marker": "v", "linestyle": "--"},
    "also-examples": {"color": "#d55e00", "marker": "D", "linestyle": "-"},
    "also-classes": {"color": "#e69f00", "marker": "P", "linestyle": "-"},
    "absgd": {"color": "#009e73", "marker": "X", "linestyle": "-"},
    "abadam": {"color": "#cc79a7", "marker": "<", "linestyle": "-"},
    "rgd": {"color": "#8c6d31", "marker": ">", "linestyle": "-"},
}
DODGE = 0.045
"""How far apart the points of two methods at the same uc are drawn."""


def draw(lines: pd.DataFrame, file: Path) -> None:
    """Draws the lines of one study into `file`."""
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150}):
        fig, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained", width_ratios=(1.25, 1))
        protocol = lines.iloc[0]["protocol"]
        fig.suptitle(f"Odd classes thinned by uc, {protocol['data']}, {protocol['seeds']} seeds", fontweight="bold")
        _accuracy(left, lines)
        _weights(right, lines)
        fig.savefig(file, metadata={"Software": None})
        plt.close(fig)


def _accuracy(ax: Any, lines: pd.DataFrame) -> None:
    factors = sorted(lines["uc"].unique())
    names = list(lines["method"].cat.categories)
    ends = {}
    for k, name in enumerate(names):
        groups = lines[lines["method"] == name].groupby("uc")["balanced_accuracy"]
        mean, count = groups.mean().reindex(factors), groups.count().reindex(factors)
        half = stats.t.ppf(0.975, np.maximum(count - 1, 1)) * groups.sem().reindex(factors)
        x = np.arange(len(factors)) + DODGE * (k - (len(names) - 1) / 2)
        ax.errorbar(x, mean, half.fillna(0), markersize=5, linewidth=1.3, elinewidth=0.9, **STYLES[name])
        ends[name] = float(mean.iloc[-1])
    ax.set_xticks(range(len(factors)), [str(uc) for uc in factors])
    ax.set_xlabel("uc: how many times fewer odd examples in training")
    ax.set_ylabel("balanced accuracy on the balanced test set")
    ax.set_title("Accuracy (mean, 95 % interval over seeds)", loc="left")
    _label_ends(ax, ends, len(factors) - 1 + DODGE * len(names) / 2)


def _weights(ax: Any, lines: pd.DataFrame) -> None:
    worst = lines[lines["uc"] == lines["uc"].max()]
    ax.set_yscale("log")
    ends = {}
    for name in worst["method"].cat.categories:
        found = worst[worst["method"] == name]
        curves = np.array(found["minority_weight"].tolist(), dtype=float)
        drawn = np.isfinite(curves)  # no odd example at all in a chunk of steps leaves a gap
        curve = np.where(drawn, curves, 0).sum(axis=0) / np.maximum(drawn.sum(axis=0), 1)
        curve[~drawn.any(axis=0)] = np.nan
        steps = (np.arange(len(curve)) + 0.5) * found["chunk"].iloc[0]
        every = max(1, len(curve) // 5)
        ax.plot(steps, curve, markersize=5, linewidth=1.6, markevery=every, **STYLES[name])
        ends[name] = float(curve[np.isfinite(curve)][-1])
    ax.set_xlabel("step")
    ax.set_ylabel("mean weight of an odd example (mean of all = 1)")
    ax.set_title(f"Weight of the minority at uc = {worst['uc'].max()}", loc="left")
    low, high = (factor * limit for factor, limit in zip((0.7, 1.5), ax.get_ylim(), strict=True))
    ax.set_ylim(low, high)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= t <= high]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.minorticks_off()
    _label_ends(ax, ends, ax.get_xlim()[1])


def _label_ends(ax: Any, ends: dict[str, float], x: float) -> None:
    """Names at the right ends of the lines, pushed apart until they do not touch, each led to its line."""
    to_axes = ax.transData + ax.transAxes.inverted()
    order = sorted(ends, key=lambda name: ends[name])
    wanted = np.array([to_axes.transform((x, ends[name]))[1] for name in order])
    places = _spread(wanted, gap=0.055)
    start = float(to_axes.transform((x, 1))[0])
    for name, y, place in zip(order, wanted, places, strict=True):
        color = STYLES[name]["color"]
        ax.annotate(
            name,
            xy=(start + 0.005, y),
            xytext=(start + 0.06, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=color,
            va="center",
            fontweight="bold" if name.startswith("also") else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "linewidth": 0.7,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )


def _spread(wanted: np.ndarray, gap: float) -> np.ndarray:
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
