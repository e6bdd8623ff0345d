"""The speed benchmark: its statistics, counting, verdicts and resume; nothing here depends on how fast anything is."""

import functools
import json
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.speed import bars, hlo, report, run
from benchmarks.speed.bars import BY_INTERVAL, MET, NO_BAR, NOT_MET
from benchmarks.speed.cases import PARTS, SMOKE, Case, Protocol, cases
from benchmarks.speed.figure import _squeeze, _stretch
from benchmarks.speed.timing import Effort, Program, in_turns, median_interval, summarize

QUIET = Console(quiet=True)


def test_the_interval_of_the_median_is_made_of_the_tabulated_order_statistics():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 31))
    assert median_interval(values) == (10, 21)  # n = 30: ranks 10 and 21
    assert median_interval(np.arange(1.0, 7)) == (1, 6)  # n = 6: the extremes
    assert all(math.isnan(end) for end in median_interval(np.arange(5.0)))


def test_the_interval_holds_the_median_as_often_as_it_says_on_skewed_data():
    samples = np.random.default_rng(0).exponential(size=(4000, 30))
    intervals = np.array([median_interval(sample) for sample in samples])
    covered = np.mean((intervals[:, 0] <= np.log(2)) & (np.log(2) <= intervals[:, 1]))
    assert 0.945 < covered < 0.97  # 0.957 by the binomial distribution


def test_a_summary_is_not_moved_by_a_few_absurd_pairs():
    summary = summarize([1.0] * 14 + [1.1] * 14 + [50.0, 60.0])
    assert summary.median == pytest.approx(1.1) and summary.high == pytest.approx(1.1) and summary.pairs == 30


def test_a_ratio_is_that_of_the_times_however_often_each_is_called():
    def sleeper(seconds):
        return lambda calls: time.sleep(calls * seconds)

    effort = Effort(pairs=6, max_pairs=6, seconds=0.0, block=0.01)
    alike = in_turns(sleeper(0.004), sleeper(0.008), effort)
    assert 1.2 < summarize(alike.ratios).median < 2.8 and alike.calls[0] == alike.calls[1]
    unlike = in_turns(sleeper(0.02), sleeper(0.001), effort)
    assert summarize(unlike.ratios).median < 0.3 and unlike.calls[0] < unlike.calls[1]


def test_programs_take_turns_a_b_b_a():
    order = []

    def named(name):
        return lambda calls: (order.append(name), time.sleep(0.001))

    in_turns(named("a"), named("b"), Effort(pairs=3, max_pairs=3, seconds=0.0, block=0.0001))
    assert "".join(order).endswith("abba" * 3)


def test_a_program_goes_round_its_batches_and_back_to_its_start():
    program = Program(lambda carry, batch: carry + batch, lambda: jnp.zeros(()), [1.0, 10.0])
    program(3)
    assert program.carry == 12
    program.reset()
    program(1)
    assert program.carry == 1


HLO = """
  %all-reduce.1 = f32[] all-reduce(%a), channel_id=1, to_apply=%add
  %all-reduce.2 = (f32[256,10]{1,0}, bf16[10]{0}) all-reduce(%b, %c), to_apply=%add
  %all-gather.3 = s32[256]{0} all-gather(%d), dimensions={0}
  %all-gather-start.4 = (f32[32]{0}, f32[256]{0}) all-gather-start(%e), dimensions={0}
  %all-gather-done.4 = f32[256]{0} all-gather-done(%all-gather-start.4)
  %fusion.5 = pred[8]{0} fusion(%all-reduce.1, %all-gather.3), kind=kLoop, calls=%computation
"""


def test_collectives_are_counted_by_kind_with_their_bytes():
    assert hlo.collectives(HLO) == {
        "all-reduce": {"count": 2, "bytes": 4 + 4 * 2560 + 2 * 10},
        "all-gather": {"count": 2, "bytes": 4 * 256 + 4 * 256},
    }
    assert hlo.collectives("%x = f32[4]{0} add(%all-reduce.1, %b)") == {}


def test_the_psum_of_a_compiled_program_is_found():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = {"in_specs": PartitionSpec("data"), "out_specs": PartitionSpec()}

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, **spec)
    def total(x):
        return jax.lax.psum(x, "data")

    x = jnp.arange(12, dtype=jnp.float32)
    assert hlo.collectives(total.lower(x).compile().as_text()) == {"all-reduce": {"count": 1, "bytes": 3 * 4}}


def line(name, ratios=(), *, part="a", workload="mlp", form="call", method="also", against="adamw", **more):
    case = {"part": part, "workload": workload, "form": form, "method": method, "against": against}
    tables = {"num_groups": None, "lazy": False, "average": True, "optimism": None, "against_groups": None}
    made = {"case": name, "settings_hash": name, "study": "s", "protocol": json.loads(json.dumps(PROTOCOL))}
    where = {"versions": {"jax": "1"}, "commit": "c", "cpus": 2, "time": "t", "devices": None}
    return case | tables | made | where | ({"ratios": list(ratios)} if ratios else {}) | more


PROTOCOL = {"smoke": False, "pairs": 30, "block": 0.02, "scan_steps": 16}


def around(median, half):
    """30 ratios with that median, whose interval reaches about `half` to both sides."""
    return (median + half * np.linspace(-3, 3, 30)).tolist()


LINES = [
    line("noise", around(1.004, 0.001), method="adamw"),
    line("reference", around(1.2, 0.01), method="optimistic_adam_v2", against="adam"),
    line("small", around(1.01, 0.001), num_groups=10, optimism=0),
    line("within", around(1.03, 0.03), num_groups=1000, optimism=0),
    line("broken", around(1.3, 0.01), num_groups=10**4, optimism=0),
    line("large", around(9.0, 0.01), num_groups=10**6, optimism=0),
    line("optimistic", around(1.22, 0.001), num_groups=10, optimism=1),
    line("optimistic broken", around(1.3, 0.001), num_groups=1000, optimism=1),
    line("lazy", around(1.07, 0.001), num_groups=10**8, optimism=0, lazy=True),
    line("lazy scan", around(1.07, 0.001), num_groups=10**8, optimism=0, lazy=True, form="scan"),
    line("flat", around(1.2, 0.001), num_groups=10**8, optimism=0, lazy=True, against="lazy", against_groups=10**5),
    line("plain", around(1.0, 0.001), method="rgd", against="adam"),
    line("dual", around(1.9, 0.01), part="b", workload="dual", against="copy", num_groups=10**6, optimism=0),
    line("dual o1", around(2.8, 0.01), part="b", workload="dual", against="copy", num_groups=10**6, optimism=1),
    line("dual o1 broken", around(2.8, 0.01), part="b", workload="dual", against="copy", num_groups=10**7, optimism=1),
    line("dual 1e7", around(1.5, 0.01), part="b", workload="dual", against="copy", num_groups=10**7, optimism=0),
    line("bytes", part="b", form="bytes", against="copy", num_groups=10**8, optimism=0, state_bytes=2**31),
    line("more", part="b", form="bytes", against="copy", num_groups=10**8, optimism=1, state_bytes=2**31 + 1),
    line("compile", around(1.4, 0.1), part="c", num_groups=10, optimism=1, peak_bytes=3, baseline_peak_bytes=2),
    line(
        "gathered",
        around(1.1, 0.1),
        part="d",
        devices=8,
        num_groups=10**5,
        optimism=0,
        global_batch=256,
        collectives={"all-reduce": {"count": 3, "bytes": 10**6 + 4 * 10**5}},
        baseline_collectives={"all-reduce": {"count": 2, "bytes": 10**6}},
    ),
    line("grid", around(0.2, 0.01), part="e", workload="grid", against="each", num_groups=2, optimism=1, grid=64),
    line("rule", around(1.9, 0.01), part="f", workload="batch", method="cvar", against="sort", batch=65_536),
    line("slow rule", around(2.9, 0.01), part="f", workload="batch", method="kl_cvar", against="sort", batch=65_536),
    line(
        "smooth", around(9.0, 0.1), part="f", workload="batch", method="spectral_risk_kl", against="sort", batch=65_536
    ),
    line(
        "import", around(0.02, 0.001), part="g", method="also_optax", against="optax", milliseconds=[20.0, 49.0, 90.0]
    ),
    line("slow import", around(0.06, 0.001), part="g", method="also_optax", against="optax", milliseconds=[51.0]),
]
EXPECTED = {
    "noise": NO_BAR,
    "reference": NO_BAR,
    "small": MET,
    "within": BY_INTERVAL,
    "broken": NOT_MET,
    "large": NO_BAR,
    "optimistic": MET,
    "optimistic broken": NOT_MET,
    "lazy": MET,
    "lazy scan": NOT_MET,
    "flat": NOT_MET,
    "plain": MET,
    "dual": MET,
    "dual o1": MET,
    "dual o1 broken": NOT_MET,
    "dual 1e7": MET,
    "bytes": MET,
    "more": NOT_MET,
    "compile": NO_BAR,
    "gathered": NOT_MET,
    "grid": MET,
    "rule": MET,
    "slow rule": NOT_MET,
    "smooth": MET,
    "import": MET,
    "slow import": NOT_MET,
}


def test_every_line_gets_the_verdict_that_its_bar_gives_it():
    assert {judged.line["case"]: judged.verdict for judged in bars.judge(LINES)} == EXPECTED


def test_the_report_names_what_is_not_met_and_what_failed(tmp_path):
    failed = line("sunk", num_groups=10, optimism=0, error="RuntimeError: no memory")
    file = tmp_path / "speed.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in [*LINES, failed]))
    assert main(["report", "--out", str(tmp_path)]) == 0
    page, picture = file.with_suffix(".md").read_text(), file.with_suffix(".png")
    assert picture.stat().st_size > 10_000
    verdicts = [verdict for verdict in EXPECTED.values() if verdict != NO_BAR]
    held = sum(verdict != NOT_MET for verdict in verdicts)
    assert f"{held} of {len(verdicts)} bars are met, 1 of them by the interval alone." in page
    for name, verdict in EXPECTED.items():
        assert (f"Not met: {name}, " in page) == (verdict == NOT_MET), name
    assert "Failed: sunk, RuntimeError: no memory." in page
    assert "0.4 % here" in page  # AdamW against itself
    for letter in PARTS:
        assert f"## {letter}. " in page
    (row,) = (row for row in page.splitlines() if "| 1e3 | 0 |" in row)
    assert "1.030" in row and "| 1.02 | met within the interval |" in row


def test_only_the_last_line_of_a_case_and_the_last_study_count():
    again = LINES[2] | {"ratios": around(1.5, 0.01)}
    assert report.of_study([LINES[2], again])[-1]["ratios"] == again["ratios"]
    assert report.of_study([LINES[2], LINES[3] | {"study": "other"}]) == [LINES[3] | {"study": "other"}]


def test_names_of_cases_are_theirs_alone_and_all_parts_have_some():
    for protocol in (Protocol(), SMOKE):
        found = cases(protocol, list(PARTS))
        assert len({case.name for case in found}) == len({case.hash(protocol) for case in found}) == len(found)
        assert {case.part for case in found} == set(PARTS)
    chosen = cases(Protocol(), ["a", "b"], ["scan/also/lazy/1e8", "bytes*o1"])
    assert {case.part for case in chosen} == {"a", "b"} and all(case.num_groups == 10**8 for case in chosen)


def test_the_scale_of_the_picture_has_an_inverse():
    ratios = np.array([0.3, 0.9, 1.0, 1.02, 1.1, 1.5, 40.0])
    np.testing.assert_allclose(_stretch(_squeeze(ratios)), ratios)
    assert np.all(np.diff(_squeeze(ratios)) > 0)


def test_finished_cases_are_skipped_failed_ones_are_not(tmp_path, monkeypatch):
    measured = []

    def measure(case: Case, protocol, on_pair):
        measured.append(case.name)
        if len(measured) == 1:
            raise RuntimeError("no room")
        return {"state_bytes": 1}

    monkeypatch.setattr(run.dual, "measure", measure)
    arguments = (SMOKE, ["b"], ["bytes/also/no-average"], tmp_path)
    file = run.run(*arguments, fresh=False, console=QUIET)
    first = measured[0]
    assert len(measured) == 2 and "no room" in file.read_text()
    run.run(*arguments, fresh=False, console=QUIET)
    assert measured[2:] == [first]
    run.run(*arguments, fresh=False, console=QUIET)
    assert len(measured) == 3
    run.run(*arguments, fresh=True, console=QUIET)
    assert len(measured) == 5 and "no room" not in file.read_text()


def test_a_smoke_run_of_a_few_cases_leaves_lines_a_page_and_a_picture(tmp_path):
    names = ("a/mlp/call/also/dense/10/o0", "b/*/call/*no-average/1e5/o1", "a/mlp/call/adamw", "f/*/cvar")
    chosen = ["--parts", "a,b,f", "--cases", ",".join(names)]
    assert main(["speed", "--smoke", "--out", str(tmp_path), *chosen]) == 0
    lines = [json.loads(entry) for entry in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and not any("error" in entry for entry in lines)
    assert all(np.all(np.array(entry["ratios"]) > 0) for entry in lines)
    assert "a smoke run" in (tmp_path / "speed.md").read_text() and (tmp_path / "speed.png").is_file()
