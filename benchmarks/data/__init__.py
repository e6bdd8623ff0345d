"""Real data: fetched and checked, loaded as images or as tables, split and made into features for training."""

from benchmarks.data.fetch import DataError, cache_folder
from benchmarks.data.images import LOADERS, Dataset, cifar, load
from benchmarks.data.preparation import Prepared, Split, prepare, split
from benchmarks.data.tables import IMBALANCED, TABLES, Table, load_table

__all__ = [
    "IMBALANCED",
    "LOADERS",
    "TABLES",
    "DataError",
    "Dataset",
    "Prepared",
    "Split",
    "Table",
    "cache_folder",
    "cifar",
    "load",
    "load_table",
    "prepare",
    "split",
]
