"""The directive ``gallery``: a card for each notebook, with the first picture of its stored outputs."""

import base64
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).resolve().parent.parent
NOTEBOOKS = DOCS.parent / "notebooks"
PICTURES = DOCS / "_gallery"
ROW = re.compile(r"^\| \[(\w+)\]\(\w+\.ipynb\) \| (.*) \|$", re.MULTILINE)

CARD = """
:::{{grid-item-card}} {title}
:link: notebooks/{name}
:link-type: doc
:img-top: _gallery/{name}.png
:img-alt: {title}

{text}
:::
"""


class Entry(NamedTuple):
    """What a card shows of a notebook.

    Attributes:
      name: of its file, without the suffix.
      title: its first heading.
      picture: its first picture, PNG.
      text: what `notebooks/README.md` says of it.
    """

    name: str
    title: str
    picture: bytes
    text: str


def entries() -> list[Entry]:
    """The notebooks that `notebooks/README.md` lists, in its order."""
    return [_entry(name, text) for name, text in ROW.findall((NOTEBOOKS / "README.md").read_text())]


def _entry(name: str, text: str) -> Entry:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    title = next(cell.source for cell in notebook.cells if cell.cell_type == "markdown").splitlines()[0]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    picture = next(output.data["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    return Entry(name, title.lstrip("# "), base64.b64decode(picture), text[0].upper() + text[1:])


class Gallery(SphinxDirective):
    """A grid of cards."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the grid."""
        cards = []
        for entry in entries():
            self.env.note_dependency(str(NOTEBOOKS / f"{entry.name}.ipynb"))
            cards.append(CARD.format(**entry._asdict()))
        return self.parse_text_to_nodes("::::{grid} 1 2 2 3\n:gutter: 3\n" + "".join(cards) + "::::\n")


def write_pictures(app: Sphinx) -> None:
    """Sphinx looks for pictures among its sources, so they are put there before it reads."""
    del app
    PICTURES.mkdir(exist_ok=True)
    for entry in entries():
        (PICTURES / f"{entry.name}.png").write_bytes(entry.picture)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("gallery", Gallery)
    app.connect("builder-inited", write_pictures)
    return {"parallel_read_safe": True}
