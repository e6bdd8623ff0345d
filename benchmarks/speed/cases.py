"""Which ratios are measured, and at what sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from typing import Any

from benchmarks import records
from benchmarks.speed.optimizers import BASELINES
from benchmarks.speed.timing import Effort

VERSION = 1
"""To be raised when results are no longer comparable to older lines."""

PARTS = {
    "a": "whole training step",
    "b": "the dual update alone",
    "c": "compile time and peak memory",
    "d": "several devices",
    "e": "a grid of hyperparameters at once",
    "f": "rules of a whole batch",
    "g": "the import",
}
WHOLE_STEP, DUAL_UPDATE, COMPILING, DEVICES, SWEEP, BATCH_RULES, IMPORTING = PARTS
WHOLE_BATCH_RULES = (
    "cvar",
    "kl_cvar",
    "chi2_penalty",
    "chi2_ball",
    "spectral_risk",
    "spectral_risk_chi2",
    "spectral_risk_kl",
    "superquantile_chi2",
    "superquantile_kl",
)
OTHERS = [method for method in BASELINES if method != "also"]


@dataclass(frozen=True)
class Protocol:
    """The sizes of a study.

    Attributes:
      pairs, max_pairs, seconds, block: see :class:`benchmarks.speed.timing.Effort`.
      scan_steps: of training in one call, in the form with a `lax.scan`.
      id_batches: how many batches of random ids before they repeat.
      dense_groups, lazy_groups: G of the whole step of the MLP.
      few_dense, few_lazy: G of the whole step of the other networks.
      no_average_from: from this G on, dense tables are also measured without the moving average of the losses.
      flat: two sizes n between which a lazy step should not slow down.
      dual_groups: G of the dual update alone; the largest is also the one of the state's bytes.
      compile_dense, compile_lazy: G of the steps that are compiled for time and memory.
      compile_pairs: pairs of compilations, and of imports.
      devices: how many fake devices.
      device_groups, device_lazy: G of `also` there, replicated and lazy.
      grid_side, grid_steps: the grid of hyperparameters is square; steps of each training.
      rule_batch: losses that a rule of a whole batch weighs.
      smoke: whether the sizes are those of `SMOKE`.
      version: of the protocol.
    """

    pairs: int = 30
    max_pairs: int = 120
    seconds: float = 3.0
    block: float = 0.02
    scan_steps: int = 16
    id_batches: int = 64
    dense_groups: tuple[int, ...] = (2, 10, 10**3, 10**4, 10**5, 10**6, 10**7)
    lazy_groups: tuple[int, ...] = (10**3, 10**5, 10**6, 10**7, 10**8)
    few_dense: tuple[int, ...] = (10, 10**4)
    few_lazy: tuple[int, ...] = (10**5, 10**8)
    no_average_from: int = 10**6
    flat: tuple[int, int] = (10**5, 10**8)
    dual_groups: tuple[int, ...] = (10**6, 10**7, 10**8)
    compile_dense: tuple[int, ...] = (10, 10**5)
    compile_lazy: tuple[int, ...] = (10**5, 10**8)
    compile_pairs: int = 8
    devices: tuple[int, ...] = (1, 2, 4, 8)
    device_groups: int = 10
    device_lazy: int = 10**5
    grid_side: int = 8
    grid_steps: int = 100
    rule_batch: int = 65_536
    smoke: bool = False
    version: int = VERSION

    @property
    def effort(self) -> Effort:
        """How long to measure a ratio of times."""
        return Effort(self.pairs, self.max_pairs, self.seconds, self.block)

    @property
    def study(self) -> str:
        """A short name, in every line: tables are made of lines of one study."""
        return records.hash_of(self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The sizes, but for those that only some cases have and carry themselves: the others stay comparable."""
        return {name: value for name, value in asdict(self).items() if name != "rule_batch"}


SMOKE = Protocol(
    pairs=6,
    max_pairs=6,
    seconds=0.0,
    block=0.001,
    scan_steps=2,
    id_batches=4,
    dense_groups=(10,),
    lazy_groups=(10**4,),
    few_dense=(10,),
    few_lazy=(),
    flat=(10**3, 10**5),
    dual_groups=(10**5,),
    compile_dense=(10,),
    compile_lazy=(),
    compile_pairs=1,
    devices=(2,),
    device_lazy=10**4,
    grid_side=2,
    grid_steps=2,
    rule_batch=256,
    smoke=True,
)
"""Everything, so small that it only shows that all of it runs."""


@dataclass(frozen=True)
class Case:
    """One ratio (or size): what is measured, against what.

    Attributes:
      part: a letter of `PARTS`.
      workload: a name in `WORKLOADS`, `dual`, `grid`, `batch` or `import`.
      form: `call` (one step a call), `scan`, or `bytes` for what is counted and not timed.
      method: an optimizer, `also` with the settings below, one of `WHOLE_BATCH_RULES`, or a package.
      against: what it is measured against: an optimizer, `copy`, `lazy` (the same at `against_groups`), `each`,
        `sort` or a package.
      num_groups: G.
      lazy: whether only the batch's entries of the tables are touched.
      average: whether a moving average of the losses is kept.
      optimism: alpha.
      against_groups: G of the other side, where it has one.
      devices: how many.
      batch: losses that a rule of a whole batch weighs.
    """

    part: str
    workload: str
    form: str
    method: str
    against: str
    num_groups: int | None = None
    lazy: bool = False
    average: bool = True
    optimism: int | None = None
    against_groups: int | None = None
    devices: int | None = None
    batch: int | None = None
    name: str = field(init=False, default="")

    def __post_init__(self) -> None:
        mode = self.mode.replace("dense, ", "").replace(" ", "-")
        optimism = None if self.optimism is None else f"o{self.optimism}"
        size = None if self.num_groups is None else size_name(self.num_groups)
        devices = None if self.devices is None else f"{self.devices}devices"
        against = "flat" if self.against == "lazy" else None
        parts = (self.part, self.workload, self.form, devices, self.method, mode, size, optimism, against)
        object.__setattr__(self, "name", "/".join(part for part in parts if part))

    @property
    def mode(self) -> str:
        """How the tables are kept, in words; nothing for a method without."""
        if self.num_groups is None:
            return ""
        return "lazy" if self.lazy else "dense" if self.average else "dense, no average"

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of :func:`benchmarks.speed.optimizers.build` beside the method."""
        if self.num_groups is None:
            return {}
        return {"num_groups": self.num_groups, **self.table_settings}

    @property
    def table_settings(self) -> dict[str, Any]:
        """How the tables are kept."""
        return {"lazy": self.lazy, "average": self.average, "optimism": self.optimism}

    def hash(self, protocol: Protocol) -> str:
        """Equal for equal cases of equal protocols."""
        own = {name: value for name, value in asdict(self).items() if name != "batch" or value is not None}
        return records.hash_of(protocol.settings | own)

    @property
    def weight(self) -> float:
        """About how many seconds it takes at full size, for the bar that shows the time left; a guess."""
        if self.form == "bytes":
            return 0.1
        tables = 4e-7 * self.num_groups if self.num_groups and not self.lazy else 0
        base = {"resnet": 50, "transformer": 15, "grid": 30}.get(self.workload, 10)
        return base + tables * (30 if self.part == DUAL_UPDATE else 10)


def size_name(size: int) -> str:
    """``10``, ``1e5``, ``150000``."""
    exponent = len(str(size)) - 1
    return f"1e{exponent}" if exponent > 2 and size == 10**exponent else str(size)


def cases(protocol: Protocol, parts: Sequence[str], patterns: Sequence[str] = ()) -> list[Case]:
    """The cases of `parts` whose name holds one of `patterns` (with ``*`` and ``?``); no pattern is all."""
    makers = {
        WHOLE_STEP: _steps,
        DUAL_UPDATE: _dual,
        COMPILING: _compiling,
        DEVICES: _devices,
        SWEEP: _sweep,
        BATCH_RULES: _batch_rules,
        IMPORTING: _importing,
    }
    found = [case for part in parts for case in makers[part](protocol)]
    return [case for case in found if not patterns or any(fnmatch(case.name, f"*{p}*") for p in patterns)]


def _tables(sizes: Sequence[int], lazy_sizes: Sequence[int], no_average_from: int) -> Iterator[dict[str, Any]]:
    """All ways of keeping tables of the given sizes, by optimism."""
    for optimism in (0, 1):
        for size in sizes:
            yield {"num_groups": size, "optimism": optimism}
            if size >= no_average_from:
                yield {"num_groups": size, "optimism": optimism, "average": False}
        for size in lazy_sizes:
            yield {"num_groups": size, "optimism": optimism, "lazy": True, "average": False}


def _steps(protocol: Protocol) -> Iterator[Case]:
    for workload, form in (("mlp", "call"), ("mlp", "scan"), ("transformer", "call"), ("resnet", "call")):
        light = protocol.smoke and (workload, form) != ("mlp", "call")  # compiling takes its time
        for method in () if light else OTHERS:
            yield Case(WHOLE_STEP, workload, form, method, BASELINES[method])
        sizes = (protocol.few_dense, protocol.few_lazy)
        if workload == "mlp":
            sizes = (protocol.dense_groups, protocol.lazy_groups)
        for tables in _tables(*sizes, protocol.no_average_from):
            if not light or tables["optimism"] == 1:
                yield Case(WHOLE_STEP, workload, form, "also", "adamw", **tables)
        if workload == "mlp" and not light:
            yield from _flat(protocol, WHOLE_STEP, workload, form)


def _flat(protocol: Protocol, part: str, workload: str, form: str) -> Iterator[Case]:
    """The lazy form at the larger size against itself at the smaller."""
    small, large = protocol.flat
    for optimism in (0, 1):
        settings: dict[str, Any] = {"lazy": True, "average": False, "optimism": optimism}
        yield Case(part, workload, form, "also", "lazy", large, against_groups=small, **settings)


def _dual(protocol: Protocol) -> Iterator[Case]:
    for tables in _tables(protocol.dual_groups, protocol.dual_groups, 0):
        yield Case(DUAL_UPDATE, "dual", "call", "also", "copy", **tables)
        if tables["num_groups"] == max(protocol.dual_groups):
            yield Case(DUAL_UPDATE, "dual", "bytes", "also", "copy", **tables)
    yield from _flat(protocol, DUAL_UPDATE, "dual", "call")


def _compiling(protocol: Protocol) -> Iterator[Case]:
    for method in () if protocol.smoke else OTHERS:
        yield Case(COMPILING, "mlp", "call", method, BASELINES[method])
    for tables in _tables(protocol.compile_dense, protocol.compile_lazy, no_average_from=10**9):
        if not protocol.smoke or tables["optimism"] == 1:
            yield Case(COMPILING, "mlp", "call", "also", "adamw", **tables)


def _devices(protocol: Protocol) -> Iterator[Case]:
    tables: list[dict[str, Any]] = [
        {"num_groups": protocol.device_groups, "optimism": 0},
        {"num_groups": protocol.device_lazy, "optimism": 0, "lazy": True, "average": False},
    ]
    for devices in protocol.devices:
        for method in () if protocol.smoke else ("adamw", "absgd", "rgd"):
            yield Case(DEVICES, "mlp", "scan", method, BASELINES[method], devices=devices)
        for settings in tables:
            yield Case(DEVICES, "mlp", "scan", "also", "adamw", devices=devices, **settings)


def _sweep(protocol: Protocol) -> Iterator[Case]:
    del protocol
    yield Case(SWEEP, "grid", "call", "also", "each", num_groups=2, optimism=1)


def _batch_rules(protocol: Protocol) -> Iterator[Case]:
    for method in WHOLE_BATCH_RULES:
        yield Case(BATCH_RULES, "batch", "call", method, "sort", batch=protocol.rule_batch)


def _importing(protocol: Protocol) -> Iterator[Case]:
    del protocol
    yield Case(IMPORTING, "import", "call", "also_optax", "optax")
