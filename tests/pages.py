"""Markdown pages whose Python blocks run from top to bottom, as one module."""

import re
import sys
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def run(path: Path) -> dict[str, Any]:
    """What the blocks of a page leave behind; an error names the page's own line."""
    text = path.read_text()
    module = types.ModuleType(f"page_{path.stem}")
    sys.modules[module.__name__] = module  # where pickle and dataclasses look for what the page defines
    for block in found_in(text):
        lines_above = text.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_above + block[1], str(path), "exec"), vars(module))
    return vars(module)


def found_in(text: str) -> list[re.Match[str]]:
    """The blocks of Python."""
    blocks = list(BLOCKS.finditer(text))
    assert blocks, "there is no Python on the page"
    return blocks


def assert_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), (path.name, target)
