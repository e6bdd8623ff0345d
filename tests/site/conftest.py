"""The built site, served on this machine alone, and a browser that looks at it."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = ROOT / "docs" / "_build" / "html"
BUILD = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(SITE)]


def pages_of(site):
    """The pages of the site; what a theme keeps beside its scripts is none."""
    return sorted(file for file in site.rglob("*.html") if "_static" not in file.parts)


@pytest.fixture(scope="session")
def site():
    """The folder of the site, built with every warning an error."""
    shutil.rmtree(SITE.parent, ignore_errors=True)  # pages of names that are no more, too
    shutil.rmtree(ROOT / "docs" / "api", ignore_errors=True)
    built = subprocess.run([sys.executable, *BUILD], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return SITE


@pytest.fixture(scope="session")
def address(site):
    """Where the site is served."""
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; without one these tests are skipped, but not in CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        message = "no Chromium here to look at the site with: `apt-get install chromium` (as root) installs one"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass
