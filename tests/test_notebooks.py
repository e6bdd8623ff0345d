"""Every notebook runs, and asserts its own claim at its end."""

import runpy
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_has_been_built(path):
    matplotlib.use("Agg")
    runpy.run_path(str(path))
    assert path.with_suffix(".ipynb").exists()
