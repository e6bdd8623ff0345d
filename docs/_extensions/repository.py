"""Pages of the repository on the site: copied to where Sphinx looks, their links made right for where they are shown.

README and its like are included by pages of the site, notebooks and results are copied beside them. A link in a page is
relative to where the file is in the repository; each is turned here into one relative to where it is on the site.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent

INCLUDED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/SCALING.md": "scaling.md",
    "notebooks/README.md": "gallery.md",
}
"""Files of the repository, and the page of the site that shows them."""

COPIED = {"notebooks": "*.ipynb", "benchmarks/results": "*.md"}
"""Folders of the repository, and which of their files are pages; on the site a folder has the last part of its name."""

LINK = re.compile(r"\]\((?![a-z]+:|#|/)([^)#\s]+)((?:#[^)\s]*)?)\)")


def copy_pages(app: Sphinx) -> None:
    """Copies with the times of the files, by which Sphinx knows what has changed."""
    del app
    for folder, pages in COPIED.items():
        copies = DOCS / Path(folder).name
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()
        for page in (ROOT / folder).glob(pages):
            shutil.copy2(page, copies)


def shown(file: Path) -> Path:
    """Where a file of the repository is on the site; one that is no page stays where it is, to be downloaded."""
    name = file.relative_to(ROOT).as_posix()
    if name in INCLUDED:
        return DOCS / INCLUDED[name]
    for folder, pages in COPIED.items():
        if file.parent == ROOT / folder and file.match(pages):
            return DOCS / Path(folder).name / file.name
    return file


def origin(page: Path) -> Path:
    """The file of the repository that a page of the site is a copy of, or the page itself."""
    for folder in COPIED:
        if page.parent == DOCS / Path(folder).name:
            return ROOT / folder / page.name
    return page


def relinked(text: str, file: Path, page: Path) -> str:
    """`text` of a file of the repository, with links that are right on the page that shows it."""

    def on_page(link: re.Match[str]) -> str:
        target, anchor = Path(os.path.normpath(file.parent / link[1])), link[2]
        if not target.is_relative_to(ROOT) or not target.exists():
            return link[0]
        return f"]({Path(os.path.relpath(shown(target), page.parent)).as_posix()}{anchor})"

    return LINK.sub(on_page, text)


def relink_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """The event of a page that is read."""
    page = Path(app.env.doc2path(docname))
    content[0] = relinked(content[0], origin(page), page)


def relink_included(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """The event of a file that a page includes; such pages are all at the top of the site."""
    del app, docname
    file = Path(os.path.normpath(DOCS / path))
    content[0] = relinked(content[0], file, DOCS / "index.md")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", copy_pages)
    app.connect("source-read", relink_page)
    app.connect("include-read", relink_included)
    return {"parallel_read_safe": True}
