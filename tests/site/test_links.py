"""Every link on the site leads somewhere; those that leave it are not followed, only read."""

import html.parser
import urllib.parse

from tests.site.conftest import pages_of


class Page(html.parser.HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, file):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(file.read_text())

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("id", "name"):
                self.anchors.add(value)
            elif name in ("href", "src"):
                self.links.append(value)


def test_every_link_leads_somewhere(site):
    pages = {file: Page(file) for file in pages_of(site)}
    assert len(pages) > 50
    broken = [
        f"{file.relative_to(site)}: {link}"
        for file, page in pages.items()
        for link in page.links
        if not leads_somewhere(link, file, pages)
    ]
    assert not broken, "\n".join(broken)


def leads_somewhere(link, file, pages):
    """Whether a link of the page `file` is to a file of the site and to an anchor in it, or well-formed and outside."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return parts.scheme == "https" and "." in parts.netloc and " " not in link
    target = (file.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else file
    if target not in pages:
        return target.is_file()
    return parts.fragment in ("", *pages[target].anchors)


def test_a_broken_link_is_seen(site):
    pages = {file: Page(file) for file in site.glob("*.html")}
    home = site / "index.html"
    assert leads_somewhere("methods.html", home, pages) and leads_somewhere("https://arxiv.org/abs/1", home, pages)
    for link in ("nowhere.html", "methods.html#nowhere", "#nowhere", "http://arxiv.org", "https://arxiv"):
        assert not leads_somewhere(link, home, pages), link
