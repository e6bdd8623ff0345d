"""Markdown pages whose Python blocks run from top to bottom, in one namespace."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def run(path: Path) -> dict[str, Any]:
    """What the blocks of a page leave behind; an error names the page's own line."""
    text = path.read_text()
    namespace: dict[str, Any] = {"__name__": path.stem}
    blocks = list(BLOCKS.finditer(text))
    assert blocks, f"{path.name} has no Python"
    for block in blocks:
        lines_above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_above + block[1], str(path), "exec"), namespace)
    return namespace


def assert_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), (path.name, target)
