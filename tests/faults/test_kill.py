"""A run that is killed at any moment and goes on from its last checkpoint is the run that was never killed."""

import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.faults._lives import Kill, Life, live

pytest.importorskip("grain", reason="the extra `test` has it")

EVERY = 8
"""Steps from one kill to the next."""

LONGEST_SAVE = 0.08
LONGEST_RESTORE = 0.2
"""Seconds, about, so that kills fall all over them."""


def kills(count: int, seed: int) -> list[Kill]:
    """As many random moments of a run in their order: in a step, right after a save begins, while it is restored."""
    rng = np.random.default_rng(seed)
    delays = {"step": 0.01, "save": LONGEST_SAVE, "restore": LONGEST_RESTORE}
    chosen = []
    for number in range(1, count + 1):
        word = str(rng.choice(list(delays), p=[0.4, 0.45, 0.15]))
        step = 0 if word == "restore" else number * EVERY - int(rng.integers(EVERY))
        chosen.append(Kill(word, step, rng.uniform(0, delays[word])))
    return chosen


def fell_in_a_save(life: Life, folder: Path) -> bool:
    """Whether a process died after a save began and before the checkpoint was there."""
    begun = life.last("save")
    return begun is not None and not (folder / "checkpoints" / str(begun)).is_dir()


def compare(folder: Path, expected: Path) -> None:
    """Metrics to the letter; parameters, adversary and the position in the data to the bit."""
    assert (folder / "metrics.jsonl").read_text().splitlines() == (expected / "metrics.jsonl").read_text().splitlines()
    with np.load(folder / "end.npz") as found, np.load(expected / "end.npz") as straight:
        assert found.files == straight.files
        for name in found.files:
            assert found[name].dtype == straight[name].dtype
            assert found[name].tobytes() == straight[name].tobytes(), name


@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(count, tmp_path):
    folders = {name: tmp_path / name for name in ("straight", "killed", "compiled")}
    for folder in folders.values():
        folder.mkdir()
    job = {"steps": (count + 1) * EVERY + 1}
    straight = live(job | {"folder": str(folders["straight"])}, folders["compiled"])
    assert straight.code == 0, (folders["straight"] / "log.txt").read_text()

    moments = Counter()
    for kill in kills(count, seed=1):
        life = live(job | {"folder": str(folders["killed"])}, folders["compiled"], kill)
        assert life.code == -signal.SIGKILL, (kill, life, (folders["killed"] / "log.txt").read_text())
        moments[life.said[-1][0]] += 1
        moments["in a save"] += fell_in_a_save(life, folders["killed"])
    last = live(job | {"folder": str(folders["killed"])}, folders["compiled"])
    assert last.code == 0, (folders["killed"] / "log.txt").read_text()
    assert last.said[0][1] > 0, "the last process started anew"
    sys.stdout.write(f"{count} kills, by what was said last, and those in a save: {dict(moments)}\n")
    assert moments["in a save"] >= count // 5
    compare(folders["killed"], folders["straight"])
