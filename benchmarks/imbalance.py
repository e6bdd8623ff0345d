"""Class imbalance, after section 6.1 of the ALSO paper (arXiv 2508.16734): even against odd, the odd thinned.

Images of ten classes; the target is the parity of the class. In training the odd classes are thinned by a factor
`uc`; the test set is balanced. Settings are chosen for each method and `uc` on a validation set that is thinned like
the training set, which is what a user would have: by the mean over seeds of the balanced accuracy there, then by the
class-balanced cross-entropy. The test set has no part in it, and models are taken after the last step.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import data, metrics, records
from benchmarks.methods import METHODS, TrainingSet
from benchmarks.models import MODELS
from benchmarks.training import Pool, Task, Trained, logits_of, train

VERSION = 2
"""To be raised when results are no longer comparable to older lines."""


@dataclass(frozen=True)
class Protocol:
    """The sizes of a study; with the method's grid, all that decides a result.

    Attributes:
      data: the name of a data set.
      model: the name of a network.
      seeds: how many; each decides split, thinning, initial weights and batches, alike for all methods.
      uc: the factors by which the odd classes are thinned.
      steps: of the optimizer.
      batch: its size.
      test_per_class: images of each of the ten classes in the test set.
      pool_per_class: at most so many of each for training and validation, before thinning.
      smoke: whether the sizes are those of :func:`smoke`.
      version: of the protocol.
    """

    data: str = "digits"
    model: str = "mlp"
    seeds: int = 10
    uc: tuple[int, ...] = (5, 10, 20, 30)
    steps: int = 600
    batch: int = 64
    test_per_class: int = 50
    pool_per_class: int = 100_000
    smoke: bool = False
    version: int = VERSION


PROTOCOLS = {
    "digits": Protocol(),
    "mnist-5k": Protocol("mnist-5k", seeds=5, test_per_class=100),
    "fashion-mnist": Protocol(
        "fashion-mnist", "cnn", seeds=3, uc=(5, 30), test_per_class=200, pool_per_class=1500, steps=1000
    ),
}


def smoke(protocol: Protocol) -> Protocol:
    """The same, so small that it only shows that everything runs."""
    small = replace(protocol, seeds=2, uc=(5, 30), steps=20, batch=32, smoke=True)
    return replace(small, test_per_class=20, pool_per_class=120)


def run(protocol: Protocol, methods: Sequence[str], out: Path, *, fresh: bool, console: Console) -> Path:
    """Trains what is not yet in the results file, and returns that file.

    Args:
      protocol: the sizes.
      methods: names in `METHODS`.
      out: the folder of results.
      fresh: whether to drop what the file has of these methods first.
      console: where the progress bar goes.
    """
    file = out / f"imbalance-{protocol.data}.jsonl"
    lines = records.read(file)
    if fresh:
        lines = [line for line in lines if line["method"] not in methods]
        records.write(file, lines)
    done = [line["settings_hash"] for line in lines]
    todo = [name for name in methods if done.count(_settings_hash(protocol, name)) < protocol.seeds * len(protocol.uc)]
    if skipped := [name for name in methods if name not in todo]:
        console.print(f"Already in {file}: {', '.join(skipped)}. (--fresh trains them again.)")
    if todo:
        _train_all(protocol, todo, file, console)
    return file


def _train_all(protocol: Protocol, methods: Sequence[str], file: Path, console: Console) -> None:
    dataset = data.load(protocol.data)
    study = _Study(protocol, dataset)
    together: dict[str, list[str]] = {}  # the method that trains -> the methods that are read off its runs
    for name in methods:
        together.setdefault(METHODS[name].trains_as or name, []).append(name)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TaskProgressColumn())
    times = (TextColumn("passed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, speed_estimate_period=600) as progress:
        chunks = protocol.steps // study.task.chunk
        bar = progress.add_task("", total=len(together) * chunks)
        for trains, names in together.items():
            progress.update(bar, description=" + ".join(names))
            trained = train(
                study.task, METHODS[trains], study.pool, study.training_sets, study.seeds, lambda: progress.advance(bar)
            )
            for name in names:
                records.append(file, study.lines(name, trained))


class _Study:
    """The arrays of one protocol: runs are all pairs of a factor and a seed, padded to one size."""

    def __init__(self, protocol: Protocol, dataset: data.Dataset) -> None:
        self.protocol, self.dataset, self.provenance = protocol, dataset, records.provenance()
        self.runs = [(uc, seed) for uc in protocol.uc for seed in range(protocol.seeds)]
        self.seeds = np.array([seed for _, seed in self.runs])
        self.targets = dataset.classes % 2
        splits = [split(dataset, protocol, uc, seed) for uc, seed in self.runs]
        self.train_rows, self.validation_rows, test_rows = zip(*splits, strict=True)
        self.test_rows = np.stack(test_rows)
        self.class_counts = np.array([np.bincount(self.targets[rows], minlength=2) for rows in self.train_rows])
        rows, real = _padded(self.train_rows)
        self.training_sets = TrainingSet(
            jnp.array(rows), jnp.array(np.where(real, self.targets[rows], -1)), jnp.array(self.class_counts)
        )
        self.pool = Pool(
            jnp.array(dataset.features), jnp.float32(dataset.scale), jnp.array(self.targets, dtype=jnp.float32)
        )
        chunk = max(size for size in range(1, max(1, protocol.steps // 20) + 1) if protocol.steps % size == 0)
        self.task = Task(MODELS[protocol.model](), protocol.batch, protocol.steps, chunk)

    def lines(self, name: str, trained: Trained) -> list[records.Line]:
        """The lines of the method called `name`, one a run."""
        grid = METHODS[name].grid
        validation = self._logits(name, trained, _padded(self.validation_rows)[0])
        test = self._logits(name, trained, self.test_rows)
        scores = np.array(
            [
                [metrics.on_validation(self.targets[rows], logits[: len(rows)]) for logits in of_run]
                for rows, of_run in zip(self.validation_rows, validation, strict=True)
            ]
        )
        factors = np.array([uc for uc, _ in self.runs])
        lines = []
        for r, (uc, seed) in enumerate(self.runs):
            h = metrics.choose(scores[factors == uc])
            line = {
                "experiment": "imbalance",
                "method": name,
                "uc": uc,
                "seed": seed,
                **metrics.on_test(self.dataset.classes[self.test_rows[r]], test[r, h]),
                "setting": grid[h],
                "grid": grid,
                "validation": _rounded(scores[r]),
                "train_class_counts": self.class_counts[r].tolist(),
                "validation_class_counts": np.bincount(self.targets[self.validation_rows[r]]).tolist(),
                "test_size": self.test_rows.shape[1],
                "minority_weight": _rounded(trained.class_weights[:, r, h, 1]),
                "chunk": self.task.chunk,
                "seconds": round(trained.seconds, 3),
                "compile_seconds": round(trained.compile_seconds, 3),
                "protocol": asdict(self.protocol),
                "study": study_of(self.protocol),
                "settings_hash": _settings_hash(self.protocol, name),
                "source": self.dataset.source,
                **self.provenance,
            }
            lines.append(line)
        return lines

    def _logits(self, name: str, trained: Trained, rows: np.ndarray) -> np.ndarray:
        logits = np.asarray(logits_of(self.task, self.pool, trained.params, jnp.array(rows)))
        if METHODS[name].corrects_prior:
            logits = logits - np.log(self.class_counts[:, 1] / self.class_counts[:, 0])[:, None, None]
        return logits


def split(dataset: data.Dataset, protocol: Protocol, uc: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows for training (sorted by parity), validation and test.

    The test set has the same number of each of the ten classes and is the same for all `uc`; the odd classes left by a
    larger `uc` are among those left by a smaller one. A third of what is left after thinning is for validation.
    """
    rng = np.random.default_rng(seed)
    training, validation, test = [], [], []
    for c in np.unique(dataset.classes):
        rows = rng.permutation(np.flatnonzero(dataset.classes == c))
        official = np.ones(len(rows), bool) if dataset.test_only is None else dataset.test_only[rows]
        test.append(rows[official][: protocol.test_per_class])
        rest = rows[protocol.test_per_class :] if dataset.test_only is None else rows[~official]
        rest = rest[: protocol.pool_per_class]
        kept = rest[: max(2, round(len(rest) / uc))] if c % 2 else rest
        held_out = max(1, len(kept) // 3)
        validation.append(kept[:held_out])
        training.append(kept[held_out:])
    rows = np.concatenate(training)
    rows = rows[np.argsort(dataset.classes[rows] % 2, kind="stable")]
    return rows, np.concatenate(validation), np.concatenate(test)


def _padded(rows: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of rows as one matrix, filled up with row 0, and which entries are real."""
    rows = list(rows)
    real = np.arange(max(map(len, rows))) < np.array([[len(r)] for r in rows])
    matrix = np.zeros(real.shape, dtype=int)
    matrix[real] = np.concatenate(rows)
    return matrix, real


def _rounded(values: np.ndarray) -> Any:
    """Nested lists of short numbers; what is not finite becomes None, which JSON knows."""
    if values.ndim:
        return [_rounded(value) for value in values]
    return float(f"{values:.5g}") if np.isfinite(values) else None


def study_of(protocol: Protocol) -> str:
    """A short name for `protocol`, in every line of it: tables are made of lines of one study."""
    return records.hash_of(asdict(protocol))


def _settings_hash(protocol: Protocol, name: str) -> str:
    return records.hash_of(asdict(protocol) | {"method": name, "grid": METHODS[name].grid})
