"""Tables and verdicts from the JSON lines, on the terminal and as Markdown. Nothing is measured here."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmarks import records
from benchmarks.report import NoResultsError, Rendered, bullets, where
from benchmarks.speed import bars, figure
from benchmarks.speed.bars import BY_INTERVAL, NO_BAR, NOT_MET, Judged
from benchmarks.speed.cases import (
    BATCH_RULES,
    COMPILING,
    DEVICES,
    DUAL_UPDATE,
    IMPORTING,
    PARTS,
    SWEEP,
    WHOLE_STEP,
    size_name,
)
from benchmarks.speed.workloads import TINY, WORKLOADS
from benchmarks.tables import for_markdown

MEBI = 2**20
ASIDE = ["10 % to 90 %", "pairs", "its collectives"]
"""Columns of the page that the terminal goes without."""
FORMS = {"call": "one step a call", "scan": "{steps} steps a call, in a `lax.scan`"}


class Titled(NamedTuple):
    """A table of one part."""

    part: str
    title: str
    table: pd.DataFrame


def render(file: Path, study: str | None = None) -> Rendered:
    """The page of one study in `file`; None is that of the last line.

    Raises:
      NoResultsError: if there are no lines.
    """
    lines = of_study(records.read(file), study)
    judged = bars.judge(lines)
    if not judged:
        raise NoResultsError(f"no results in {file}")
    found = list(tables(judged))
    shown = {f"{part}. {title}": table.drop(columns=ASIDE, errors="ignore") for part, title, table in found}
    text = markdown(lines, judged, found, file)
    return Rendered(text, sentences(lines, judged), shown, lambda picture: figure.draw(judged, picture))


def of_study(lines: Sequence[records.Line], study: str | None = None) -> list[records.Line]:
    """The last line of each case of `study` (None: of the study of the last line), by part."""
    lines = [line for line in lines if line["study"] == (study or lines[-1]["study"])]
    last = {line["settings_hash"]: line for line in lines}
    return sorted(last.values(), key=lambda line: list(PARTS).index(line["part"]))


def sentences(lines: Sequence[records.Line], judged: Sequence[Judged]) -> list[str]:
    """How many promises hold, which do not, and what noise alone gives."""
    verdicts = [found.verdict for found in judged if found.verdict != NO_BAR]
    held = len([verdict for verdict in verdicts if verdict != NOT_MET])
    found = [f"{held} of {len(verdicts)} bars are met, {verdicts.count(BY_INTERVAL)} of them by the interval alone."]
    found += [f"Not met: {j.line['case']}, {_of_bar(j)}." for j in judged if j.verdict == NOT_MET]
    found += [f"Failed: {line['case']}, {line['error']}." for line in lines if "error" in line]
    found += list(_ranges(judged))
    same = [abs(j.value - 1) for j in judged if j.line["method"] == j.line["against"] and j.line["part"] == WHOLE_STEP]
    if same:
        found.append(
            f"Two copies of AdamW's own step differ by up to {100 * max(same):.1f} % here: that much is noise."
        )
    return found


def _ranges(judged: Sequence[Judged]) -> Iterator[str]:
    """Sentences: what a whole step of ALSO costs, in the forms that it chooses by itself (those that have a bar)."""
    steps = [
        j
        for j in judged
        if (j.line["part"], j.line["method"]) == (WHOLE_STEP, "also") and j.bar is not None and not _is_flat(j)
    ]
    for workload in dict.fromkeys(j.line["workload"] for j in steps):
        parts = []
        for optimism in (0, 1):
            of_kind = [j for j in steps if (j.line["workload"], j.line["optimism"]) == (workload, optimism)]
            if of_kind:
                medians, groups = [j.value for j in of_kind], [j.line["num_groups"] for j in of_kind]
                parts.append(
                    f"{min(medians):.2f} to {max(medians):.2f} with optimism {optimism} "
                    f"(G from {size_name(min(groups))} to {size_name(max(groups))})"
                )
        protocol = steps[0].line["protocol"]
        about = (TINY if protocol["smoke"] else WORKLOADS)[workload].about
        yield f"A whole step of ALSO over AdamW's, medians, {about}: {'; '.join(parts)}."


def tables(judged: Sequence[Judged]) -> Iterator[Titled]:
    """All tables."""
    steps = [j for j in judged if j.line["part"] == WHOLE_STEP]
    for workload, form in dict.fromkeys((j.line["workload"], j.line["form"]) for j in steps):
        rows = [j for j in steps if (j.line["workload"], j.line["form"]) == (workload, form) and not _is_flat(j)]
        if rows:
            protocol = rows[0].line["protocol"]
            about = (TINY if protocol["smoke"] else WORKLOADS)[workload].about
            title = f"{about}; {FORMS[form].format(steps=protocol['scan_steps'])}: time of the step"
            yield Titled(WHOLE_STEP, title, _table(rows, _AGAINST | _RATIO, "method", _name))
    for part in (WHOLE_STEP, DUAL_UPDATE):
        rows = [j for j in judged if j.line["part"] == part]
        if copies := [j for j in rows if part == DUAL_UPDATE and not _is_flat(j) and j.summary]:
            yield Titled(
                part, "Time of the update over that of a copy of [G] floats", _table(copies, _RATIO, "tables", _mode)
            )
        if flat := [j for j in rows if _is_flat(j)]:
            what = "the whole step" if part == WHOLE_STEP else "the dual update alone"
            yield Titled(part, f"Lazy, large n over small n: {what}", _table(flat, _FLAT, "form", _form))
        if sizes := [j for j in rows if "state_bytes" in j.line]:
            yield Titled(part, "Bytes of the adversary's state", _table(sizes, _SIZES, "tables", _mode))
    if rows := [j for j in judged if j.line["part"] == COMPILING]:
        title = "Time to compile a step, and the memory that it holds at once, over the baseline's"
        yield Titled(COMPILING, title, _table(rows, _AGAINST | _COMPILED, "method", _name))
    if rows := [j for j in judged if j.line["part"] == DEVICES]:
        title = "Collectives of a step with a masked mean, and its time over the baseline's on as many devices"
        yield Titled(DEVICES, title, _table(rows, _COLLECTIVES, "method", _name))
    if rows := [j for j in judged if j.line["part"] == SWEEP]:
        title = "Trained at once under `vmap`, over one after another"
        yield Titled(SWEEP, title, _table(rows, _RATIO, "grid", lambda j: f"{j.line['grid']} pairs"))
    if rows := [j for j in judged if j.line["part"] == BATCH_RULES]:
        title = "Time of the weights of a batch over that of `jnp.sort` of its losses"
        yield Titled(BATCH_RULES, title, _table(rows, _SORTED, "rule", _name))
    if rows := [j for j in judged if j.line["part"] == IMPORTING]:
        title = "CPU time of an import behind that of optax, and over it"
        yield Titled(IMPORTING, title, _table(rows, _IMPORTED, "package", _name))


def markdown(lines: Sequence[records.Line], judged: Sequence[Judged], found: Sequence[Titled], file: Path) -> str:
    """The page."""
    protocol = lines[0]["protocol"]
    paragraphs = [
        "# What the adversary costs" + (" (a smoke run: these figures say nothing)" if protocol["smoke"] else ""),
        "Generated by `python -m benchmarks report` from the lines of "
        f"[{file.name}]({file.name}); do not edit. Picture: [{file.stem}.png]({file.stem}.png).",
        "Every figure is a ratio of two compiled programs that took turns in one process, A B B A: the median over "
        "pairs, the 95 % interval of the median (order statistics), and the 10 % and 90 % quantiles of the pairs. "
        f"At least {protocol['pairs']} pairs, blocks of at least {1000 * protocol['block']:g} ms. "
        "A bar is met where the lower end of the interval meets it; *within the interval* says that the median does "
        "not. With optimism, the bar of a whole step is that without, times what `optax.optimistic_adam_v2` costs over "
        "`optax.adam` in the same table.",
        bullets(sentences(lines, judged)),
    ]
    parts = dict.fromkeys(part for part, _, _ in found)
    for part in parts:
        paragraphs.append(f"## {part}. {PARTS[part][0].upper()}{PARTS[part][1:]}")
        if part in NOTES:
            paragraphs.append(NOTES[part])
        for title, table in ((title, table) for of, title, table in found if of == part):
            paragraphs += [f"### {title}", for_markdown(table)]
    arguments = " --smoke" if protocol["smoke"] else ""
    paragraphs += ["## To repeat", f"`python -m benchmarks speed{arguments}`", where(pd.DataFrame(lines))]
    return "\n\n".join(paragraphs) + "\n"


NOTES = {
    WHOLE_STEP: "Forward, backward, update and apply, parameters and state donated, ids drawn anew for every step.",
    DUAL_UPDATE: "State donated, 256 losses and ids. With optimism the bar is the ratio without, plus one copy.",
    COMPILING: "Caches cleared before every compilation. Memory is arguments, outputs and temporaries less what is "
    "shared, as XLA plans it; the last column is what the step holds beside the baseline's.",
    DEVICES: "Fake devices on one machine: the collectives are those of a real one, the times show extra work but say "
    "nothing about scaling. The bar is for bytes: at most "
    f"{bars.PAIR_BYTES} an example of the global batch beside the baseline's, which leaves no room for tables.",
    BATCH_RULES: "`example_weights` of losses drawn from an exponential distribution. A smoothed spectral risk is an "
    "isotonic regression, whose bar is higher.",
    IMPORTING: "Each in a fresh process, with Python's garbage collected in between: what optax and JAX make brings a "
    "full collection near, which else falls into whatever is imported next.",
}


Column = Callable[[Judged], str]


def _table(rows: Sequence[Judged], columns: dict[str, Column], index: str, name: Column) -> pd.DataFrame:
    table = pd.DataFrame([{key: column(j) for key, column in columns.items()} for j in rows])
    table.index = pd.Index([name(j) for j in rows], name=index)
    return table.loc[:, (table != "").any()]


def _name(judged: Judged) -> str:
    mode = _mode(judged)
    return f"{judged.line['method']}, {mode}" if mode else str(judged.line["method"])


def _mode(judged: Judged) -> str:
    line = judged.line
    if line["num_groups"] is None:
        return ""
    return "lazy" if line["lazy"] else "dense" if line["average"] else "dense, no average"


def _against(judged: Judged) -> str:
    return str(judged.line["against"])


def _form(judged: Judged) -> str:
    return FORMS[judged.line["form"]].format(steps=judged.line["protocol"]["scan_steps"])


def _is_flat(judged: Judged) -> bool:
    return bool(judged.line["against"] == "lazy")


def _size(judged: Judged) -> str:
    return "" if judged.line["num_groups"] is None else size_name(judged.line["num_groups"])


def _optimism(judged: Judged) -> str:
    return "" if judged.line["optimism"] is None else str(judged.line["optimism"])


def _ratio(judged: Judged) -> str:
    return "" if judged.summary is None else f"{judged.summary.median:.3f}"


def _interval(judged: Judged) -> str:
    if judged.summary is None or math.isnan(judged.summary.low):
        return ""
    return f"{judged.summary.low:.3f} to {judged.summary.high:.3f}"


def _spread(judged: Judged) -> str:
    return "" if judged.summary is None else "{:.3f} to {:.3f}".format(*judged.summary.spread)


def _pairs(judged: Judged) -> str:
    return "" if judged.summary is None else str(judged.summary.pairs)


def _bar(judged: Judged) -> str:
    return "" if judged.bar is None else f"{judged.bar:.3f}".rstrip("0").rstrip(".")


def _verdict(judged: Judged) -> str:
    return f"**{NOT_MET}**" if judged.verdict == NOT_MET else judged.verdict


def _of_bar(judged: Judged) -> str:
    if judged.line["part"] == DEVICES or "state_bytes" in judged.line:
        return f"{judged.value:.0f} bytes of {judged.bar:.0f}"
    if judged.line["part"] == IMPORTING:
        return f"{judged.value:.1f} ms of {judged.bar}"
    return f"{_ratio(judged)} ({_interval(judged)}) of {_bar(judged)}"


def _memory_ratio(judged: Judged) -> str:
    own, other = judged.line["peak_bytes"], judged.line["baseline_peak_bytes"]
    return "" if own is None or other is None else f"{own / other:.3f}"


def _memory_beyond(judged: Judged) -> str:
    own, other = judged.line["peak_bytes"], judged.line["baseline_peak_bytes"]
    return "" if own is None or other is None else f"{(own - other) / MEBI:.2f} MiB"


def _collectives(name: str) -> Column:
    def column(judged: Judged) -> str:
        kinds = judged.line[name].items()
        return ", ".join(f"{kind['count']} {key} ({kind['bytes']} B)" for key, kind in kinds) or "none"

    return column


_AGAINST: dict[str, Column] = {"against": _against}
_WHICH: dict[str, Column] = {"G": _size, "optimism": _optimism}
_RATIO: dict[str, Column] = {
    **_WHICH,
    "ratio": _ratio,
    "interval": _interval,
    "10 % to 90 %": _spread,
    "pairs": _pairs,
    "bar": _bar,
    "verdict": _verdict,
}
_SORTED: dict[str, Column] = {"losses": lambda j: str(j.line["batch"]), **_RATIO}
_IMPORTED: dict[str, Column] = {
    "milliseconds": lambda j: f"{j.value:.1f}",
    "bar": _bar,
    "verdict": _verdict,
    "over": _against,
    **{name: column for name, column in _RATIO.items() if name not in ("bar", "verdict")},
}
_FLAT: dict[str, Column] = {
    "large": _size,
    "small": lambda j: size_name(j.line["against_groups"]),
    **{name: column for name, column in _RATIO.items() if name != "G"},
}
_SIZES: dict[str, Column] = {
    **_WHICH,
    "state": lambda j: f"{j.value / MEBI:.1f} MiB",
    "bar": lambda j: f"{bars.STATE_BYTES / MEBI:.0f} MiB",
    "verdict": _verdict,
}
_COMPILED: dict[str, Column] = {
    **_WHICH,
    "compile ratio": _ratio,
    "interval": _interval,
    "10 % to 90 %": _spread,
    "pairs": _pairs,
    "memory ratio": _memory_ratio,
    "memory beyond": _memory_beyond,
}
_COLLECTIVES: dict[str, Column] = {
    "devices": lambda j: str(j.line["devices"]),
    "G": _size,
    "collectives": _collectives("collectives"),
    "against": _against,
    "its collectives": _collectives("baseline_collectives"),
    "extra bytes": lambda j: f"{j.value:.0f}",
    "bar": lambda j: f"{j.bar:.0f}",
    "verdict": _verdict,
    "time ratio": _ratio,
    "interval": _interval,
}
