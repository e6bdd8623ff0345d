"""What was promised of each ratio, and whether it holds.

A ratio meets its bar where the lower end of its 95 % interval does: noise alone should not break a promise. Where the
median does not, the verdict says so.

Optimism has a price of its own, which optax's own optimistic optimizer pays too. So with ``optimism=1`` a whole step
may cost what it may cost without, times what `optax.optimistic_adam_v2` costs over `optax.adam` in the same workload.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from benchmarks.speed.cases import BATCH_RULES, DEVICES, DUAL_UPDATE, SWEEP, WHOLE_STEP
from benchmarks.speed.timing import Summary, summarize

Line = dict[str, Any]

SMALL = 10**4
"""G up to which a dense table is small."""
SMALL_STEP = 1.02
LAZY_STEP = {"call": 1.08, "scan": 1.05}
FLAT = {WHOLE_STEP: 1.1, DUAL_UPDATE: 3.0}
DENSE_COPIES = 2.0
OPTIMISM_COPIES = 1.0
STATE_BYTES = 2 * 2**30
PAIR_BYTES = 64
"""Bytes an example of the global batch that collectives may move beside those of the baseline; tables may not."""
GRID = 1.0
IMPORT_MILLISECONDS = 50
SORTS = 2.0
"""Times a sort of the batch that the weights of a rule of a whole batch may take."""
SMOOTHED_SORTS = 20.0
"""The same of a smoothed spectral risk, which is an isotonic regression."""

SMOOTHED = ("risk_chi2", "risk_kl", "superquantile_chi2", "superquantile_kl")

MET, BY_INTERVAL, NOT_MET, NO_BAR = "met", "met within the interval", "NOT MET", ""


class Judged(NamedTuple):
    """A line and what it is worth.

    Attributes:
      line: as measured.
      summary: of its ratios; None where it has none.
      value: what is held against the bar: the median, or a size.
      bar: the most that it may be; None without a promise.
      verdict: one of `MET`, `BY_INTERVAL`, `NOT_MET`, `NO_BAR`.
    """

    line: Line
    summary: Summary | None
    value: float
    bar: float | None
    verdict: str


def judge(lines: Iterable[Line]) -> list[Judged]:
    """All `lines` that did not fail, in their order."""
    lines = [line for line in lines if "error" not in line]
    return [_judge(line, lines) for line in lines]


def _judge(line: Line, lines: Sequence[Line]) -> Judged:
    summary = summarize(line["ratios"]) if "ratios" in line else None
    if "state_bytes" in line:
        size = line["state_bytes"]
        return Judged(line, summary, size, STATE_BYTES, MET if size <= STATE_BYTES else NOT_MET)
    if line["part"] == DEVICES:
        extra, bar = extra_bytes(line), PAIR_BYTES * line["global_batch"]
        return Judged(line, summary, extra, bar, MET if extra <= bar else NOT_MET)
    if "milliseconds" in line:
        took = statistics.median(line["milliseconds"])
        return Judged(line, summary, took, IMPORT_MILLISECONDS, MET if took <= IMPORT_MILLISECONDS else NOT_MET)
    assert summary is not None  # noqa: S101 (all other lines are of ratios)
    bar_of_time = _bar(line, lines)
    return Judged(line, summary, summary.median, bar_of_time, _verdict(summary, bar_of_time))


def _verdict(summary: Summary, bar: float | None) -> str:
    if bar is None:
        return NO_BAR
    if summary.median <= bar:
        return MET
    return BY_INTERVAL if summary.low <= bar else NOT_MET


def extra_bytes(line: Line) -> int:
    """Bytes of the collectives of a step beyond those of the baseline's."""
    sums = [sum(kind["bytes"] for kind in line[name].values()) for name in ("collectives", "baseline_collectives")]
    return int(sums[0] - sums[1])


def _bar(line: Line, lines: Sequence[Line]) -> float | None:
    if line["against"] == "lazy":
        return FLAT[line["part"]]
    if line["part"] == WHOLE_STEP:
        return _bar_of_step(line, lines)
    if line["part"] == DUAL_UPDATE:
        return _bar_of_dual(line, lines)
    if line["part"] == BATCH_RULES:
        return SMOOTHED_SORTS if line["method"].endswith(SMOOTHED) else SORTS
    return GRID if line["part"] == SWEEP else None


def _bar_of_step(line: Line, lines: Sequence[Line]) -> float | None:
    if line["method"] in ("adamw", "optimistic_adam_v2"):
        return None
    if line["num_groups"] is None:
        return SMALL_STEP
    if not line["lazy"] and line["num_groups"] > SMALL:
        return None
    bar = LAZY_STEP[line["form"]] if line["lazy"] else SMALL_STEP
    if not line["optimism"]:
        return bar
    reference = _median(lines, line, ("part", "workload", "form"), method="optimistic_adam_v2")
    return None if math.isnan(reference) else bar * reference


def _bar_of_dual(line: Line, lines: Sequence[Line]) -> float | None:
    if line["lazy"]:
        return None
    if not line["optimism"]:
        return DENSE_COPIES
    same = ("part", "workload", "form", "method", "num_groups", "lazy", "average", "against")
    without = _median(lines, line, same, optimism=0)
    return None if math.isnan(without) else without + OPTIMISM_COPIES


def _median(lines: Sequence[Line], like: Line, names: Sequence[str], **values: Any) -> float:
    """The median ratio of the line that is as `like` in `names` and has `values`; NaN where there is none."""
    wanted = {name: like[name] for name in names} | values
    for line in lines:
        if "ratios" in line and all(line[name] == value for name, value in wanted.items()):
            return summarize(line["ratios"]).median
    return math.nan
