"""Every page as a reader sees it: nothing fails, nothing comes from elsewhere, nothing is wider than the screen."""

import pytest

from tests.site.conftest import pages_of

WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}

HOW_MUCH_TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"

FORMULAS = """async () => {
    const formulas = [...document.querySelectorAll('.math')];
    if (formulas.length > 0) await window.MathJax.startup.promise;
    const shown = formulas.filter(formula => formula.querySelector('mjx-container'));
    return [formulas.length, shown.length, document.querySelectorAll('mjx-merror, [data-mjx-error]').length];
}"""
"""How many formulas a page has, how many are set, and how many errors are among them."""


@pytest.fixture
def page(browser, address):
    """A tab whose complaints are kept in `page.complaints`."""
    with browser.new_context(viewport=WIDE) as context:
        page = context.new_page()
        page.complaints = []

        def complain(what):
            page.complaints.append(f"{page.url.removeprefix(address)}: {what}")

        def see_request(request):
            if not request.url.startswith((f"{address}/", "data:", "blob:")):
                complain(f"asks for {request.url}")

        page.on("request", see_request)
        page.on("requestfailed", lambda request: complain(f"did not get {request.url}"))
        page.on("response", lambda answer: answer.status < 400 or complain(f"{answer.status} for {answer.url}"))
        page.on("console", lambda message: message.type == "error" and complain(message.text))
        page.on("pageerror", lambda error: complain(str(error)))
        yield page


def test_every_page_renders(site, address, page):
    names = [file.relative_to(site).as_posix() for file in pages_of(site)]
    assert len(names) > 50
    formulas_of = {}
    for name in names:
        page.set_viewport_size(WIDE)
        page.goto(f"{address}/{name}")
        formulas, shown, errors = page.evaluate(FORMULAS)
        formulas_of[name] = formulas
        if shown < formulas or errors:
            page.complaints.append(f"{name}: of {formulas} formulas {shown} are shown, with {errors} errors")
        for size in (WIDE, PHONE):
            page.set_viewport_size(size)
            if (excess := page.evaluate(HOW_MUCH_TOO_WIDE)) > 0:
                page.complaints.append(f"{name}: {excess} pixels too wide for {size['width']}")
    assert not page.complaints, "\n".join(page.complaints)
    assert formulas_of["methods.html"] > 20 and formulas_of["notebooks/02_convergence.html"] > 0


@pytest.mark.parametrize("words", ["reweight_by_cvar", "state_shardings", "effective_groups"])
def test_search_finds_a_name(address, page, words):
    page.goto(f"{address}/search.html?q={words}")
    results = page.locator("#search-results li a")
    results.first.wait_for()
    found = results.evaluate_all("links => links.map(link => link.getAttribute('href'))")
    expected = "diagnostics" if words == "effective_groups" else words
    assert any(expected in href for href in found), found
    assert not page.complaints, "\n".join(page.complaints)
