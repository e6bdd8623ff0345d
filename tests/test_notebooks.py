"""Every notebook runs, asserts its own claim at its end, and has been built from the source as it stands."""

import json
import os
import subprocess
import sys

import pytest

from tests import pages

NOTEBOOKS = sorted((pages.ROOT / "notebooks").glob("*.py"))
SMALL = {"ALSO_OPTAX_NOTEBOOKS": "small", "MPLBACKEND": "Agg", "PYTHONPATH": str(pages.ROOT)}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_a_notebook_runs(path):
    """In a process of its own: some choose JAX's devices or precision, which can be done once."""
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, env=os.environ | SMALL, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@every_notebook
def test_a_built_notebook_is_of_its_source_and_shows_a_picture(path):
    source = path.read_text()
    built = json.loads(path.with_suffix(".ipynb").read_text())
    cells = [cell for cell in built["cells"] if cell["cell_type"] == "code"]
    assert cells and all("".join(cell["source"]) in source for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])


def test_every_notebook_is_listed_and_every_link_leads_somewhere():
    listed = pages.ROOT / "notebooks" / "README.md"
    for path in NOTEBOOKS:
        assert f"({path.stem}.ipynb)" in listed.read_text(), path.stem
    for page in (listed, *NOTEBOOKS):
        pages.assert_links_lead_somewhere(page)
