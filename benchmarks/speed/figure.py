"""The picture: what a step costs against the number of groups, and the dual update against a copy of its table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.speed import bars
from benchmarks.speed.bars import Judged
from benchmarks.speed.cases import DUAL_UPDATE, WHOLE_STEP

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

# Okabe and Ito's colours, told apart by the colour-blind; markers and dashes say the same again.
STYLES: dict[tuple[bool, int], dict[str, Any]] = {
    (False, 0): {"color": "#0072b2", "marker": "o", "linestyle": "-", "label": "dense, optimism 0"},
    (False, 1): {"color": "#56b4e9", "marker": "s", "linestyle": "--", "label": "dense, optimism 1"},
    (True, 0): {"color": "#d55e00", "marker": "D", "linestyle": "-", "label": "lazy, optimism 0"},
    (True, 1): {"color": "#e69f00", "marker": "^", "linestyle": "--", "label": "lazy, optimism 1"},
}
REFERENCE: dict[str, Any] = {"color": "#009e73", "linestyle": ":", "linewidth": 1.4}
BAR: dict[str, Any] = {"color": "#7f7f7f", "linewidth": 0.9}
PANELS = {
    ("mlp", "call"): "MLP, one step a call",
    ("mlp", "scan"): "MLP, many steps in a scan",
    ("transformer", "call"): "Transformer, one step a call",
    ("resnet", "call"): "ResNet-18, one step a call",
}
STEP_TICKS = (0.9, 1, 1.05, 1.1, 1.2, 1.5, 2, 5, 10, 20, 50, 100)
COPY_TICKS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 50, 100)
LINEAR = 0.1
"""Up to this excess over 1 the scale is linear, beyond it logarithmic: bars are percents, large tables many times."""


def draw(judged: Sequence[Judged], file: Path) -> None:
    """Draws the lines of one study into `file`."""
    rc: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 150}
    with plt.rc_context(rc):
        fig, axes = plt.subplots(2, 3, figsize=(14, 8), layout="constrained", sharex=True)
        fig.suptitle("Time of ALSO's training step over AdamW's, and of its dual update over a copy", fontweight="bold")
        places = [axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1]]
        for ax, ((workload, form), title) in zip(places, PANELS.items(), strict=True):
            ax.set_title(title, loc="left")
            _steps(ax, [j for j in judged if (j.line["workload"], j.line["form"]) == (workload, form)], form)
        _share_limits(places)
        for ax in axes[:, 0]:
            ax.set_ylabel("time over AdamW's")
        for ax in (*axes[1, :2], axes[0, 2]):
            ax.set_xlabel("G: groups, or examples with one weight each")
            ax.tick_params(labelbottom=True)
        axes[0, 2].set_title("The dual update alone", loc="left")
        _dual(axes[0, 2], judged)
        _legend(axes[1, 2])
        fig.savefig(file, metadata={"Software": None})
        plt.close(fig)


def _steps(ax: Any, judged: Sequence[Judged], form: str) -> None:
    judged = [j for j in judged if j.line["part"] == WHOLE_STEP and j.line["against"] != "lazy"]
    ax.set_xscale("log")
    ax.set_yscale("function", functions=(_squeeze, _stretch))
    ax.axhline(1, color="black", linewidth=0.8)
    for bar, dashes in ((bars.SMALL_STEP, (6, 2)), (bars.LAZY_STEP[form], (2, 2))):
        ax.axhline(bar, dashes=dashes, **BAR)
    for j in judged:
        if j.line["method"] == "optimistic_adam_v2":
            ax.axhline(j.value, **REFERENCE)
    _curves(ax, judged)
    ax.yaxis.set_major_locator(FixedLocator(STEP_TICKS))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _dual(ax: Any, judged: Sequence[Judged]) -> None:
    judged = [j for j in judged if j.line["part"] == DUAL_UPDATE and j.line["against"] == "copy" and j.summary]
    ax.set_yscale("log")
    ax.axhline(1, color="black", linewidth=0.8)
    ax.axhline(bars.DENSE_COPIES, dashes=(6, 2), **BAR)
    _curves(ax, judged)
    ax.yaxis.set_major_locator(FixedLocator(COPY_TICKS))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_ylabel("time over that of a copy of [G]")


def _curves(ax: Any, judged: Sequence[Judged]) -> None:
    """Median and interval against G; dense tables as they are by default, with their moving average."""
    for number, ((lazy, optimism), style) in enumerate(STYLES.items()):
        found = [
            j
            for j in judged
            if j.summary
            and j.line["num_groups"]
            and (j.line["lazy"], j.line["optimism"]) == (lazy, optimism)
            and (lazy or j.line["average"])
        ]
        found.sort(key=lambda j: j.line["num_groups"])
        x = [j.line["num_groups"] * 1.12 ** (number - 1.5) for j in found]  # beside each other
        y = np.array([j.value for j in found])
        ends = np.array([(j.summary.low, j.summary.high) for j in found if j.summary]).reshape(-1, 2).T
        arms = np.nan_to_num(np.abs(ends - y))
        ax.errorbar(x, y, arms, markersize=5, linewidth=1.3, elinewidth=0.9, capsize=2, **style)


def _share_limits(axes: Sequence[Any]) -> None:
    low = min(0.95, *(ax.dataLim.y0 for ax in axes))
    high = max(1.2, *(ax.dataLim.y1 for ax in axes))
    for ax in axes:
        ax.set_ylim(_stretch(_squeeze(low) - 0.02), _stretch(_squeeze(high) + 0.04))


def _squeeze(ratio: Any) -> Any:
    """Excess over 1: linear up to `LINEAR`, logarithmic beyond."""
    excess = np.asarray(ratio, dtype=float) - 1
    far = LINEAR * (1 + np.log(np.maximum(np.abs(excess), LINEAR) / LINEAR))
    return np.where(np.abs(excess) <= LINEAR, excess, np.sign(excess) * far)


def _stretch(place: Any) -> Any:
    """The inverse of :func:`_squeeze`."""
    place = np.asarray(place, dtype=float)
    far = LINEAR * np.exp(np.maximum(np.abs(place), LINEAR) / LINEAR - 1)
    return 1 + np.where(np.abs(place) <= LINEAR, place, np.sign(place) * far)


def _legend(ax: Any) -> None:
    ax.axis("off")
    handles = [plt.Line2D([], [], **style) for style in STYLES.values()]
    small, lazy = bars.SMALL_STEP, bars.LAZY_STEP
    words = f"bar for G up to {bars.SMALL:.0e}, optimism 0: {small:g} (copies: {bars.DENSE_COPIES:g})".replace(
        "e+0", "e"
    )
    handles += [
        plt.Line2D(
            [], [], **REFERENCE, label="optax.optimistic_adam_v2 over optax.adam:\nwhat optimism costs by itself"
        ),
        plt.Line2D([], [], dashes=(6, 2), **BAR, label=words),
        plt.Line2D(
            [], [], dashes=(2, 2), **BAR, label=f"bar for lazy: {lazy['call']:g} a call, {lazy['scan']:g} in a scan"
        ),
    ]
    ax.legend(handles=handles, loc="center left", frameon=False, fontsize=10.5, labelspacing=0.9)
    ax.text(
        0.03,
        0.03,
        "Medians of pairs taken in turns, with the 95 % interval of the median.\n"
        f"Linear up to {1 + LINEAR:g}, logarithmic beyond.",
        transform=ax.transAxes,
        fontsize=9.5,
    )
