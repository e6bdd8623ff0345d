"""Every notebook runs, asserts its own claim at its end, and has been built from the source as it stands."""

import json
import runpy
from pathlib import Path

import matplotlib
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    matplotlib.use("Agg")
    runpy.run_path(str(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_built_notebook_is_of_its_source_and_shows_a_picture(path):
    source = path.read_text()
    built = json.loads(path.with_suffix(".ipynb").read_text())
    cells = [cell for cell in built["cells"] if cell["cell_type"] == "code"]
    assert cells and all("".join(cell["source"]) in source for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
