"""`python -m benchmarks.data [NAME ...]`: fetches data, all of it by default, and says what is in it."""

import argparse
import logging

import numpy as np
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table as RichTable

from benchmarks.data import LOADERS, TABLES, DataError, load, load_table


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description="Fetches data and describes it.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join([*LOADERS, *TABLES])} (default: all)")
    names = parser.parse_args().names or [*LOADERS, *TABLES]
    if wrong := [name for name in names if name not in LOADERS and name not in TABLES]:
        parser.error(f"no data called {', '.join(wrong)}; see --help")
    console = Console()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    shown = RichTable("data", "rows", "columns", "target", "groups", "source")
    failed = False
    for name in names:
        try:
            shown.add_row(name, *(_of_images(name) if name in LOADERS else _of_table(name)))
        except DataError as error:
            failed = True
            console.print(f"{name}: {error}", style="red", markup=False)
    console.print(shown)
    return int(failed)


def _of_images(name: str) -> tuple[str, ...]:
    data = load(name)
    pixels, classes = int(np.prod(data.features.shape[1:])), len(np.unique(data.classes))
    return str(len(data.classes)), f"{pixels} pixels", f"{classes} classes", "", data.source


def _of_table(name: str) -> tuple[str, ...]:
    table = load_table(name)
    columns = f"{len(table.numeric_names)} numbers, {len(table.categorical_names)} categories"
    if table.task == "binary":
        target = f"{table.target_name}: {table.target.mean():.1%}"
    else:
        target = f"{table.target_name}: {table.target.mean():.4g}, standard deviation {table.target.std():.4g}"
    of_group = [] if table.groups is None else zip(table.group_names, np.bincount(table.groups), strict=True)
    groups = ", ".join(f"{group} {size}" for group, size in of_group)
    return str(len(table.target)), columns, target, groups, table.source


if __name__ == "__main__":
    raise SystemExit(main())
