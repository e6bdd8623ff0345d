"""Part a: a whole training step, forward to apply, against the same step with the optimizer it replaces."""

from collections.abc import Callable

from benchmarks import records
from benchmarks.speed.cases import Case, Protocol
from benchmarks.speed.optimizers import build
from benchmarks.speed.timing import Program, in_turns
from benchmarks.speed.workloads import TINY, WORKLOADS, Workload, program


def workload_of(case: Case, protocol: Protocol) -> Workload:
    """The network of `case`, tiny in a smoke run."""
    return (TINY if protocol.smoke else WORKLOADS)[case.workload]


class WholeSteps:
    """Measures cases of whole steps; keeps the baselines of one workload and form, which are compiled once."""

    def __init__(self) -> None:
        self._baselines: dict[tuple[str, str, str], Program] = {}

    def measure(self, case: Case, protocol: Protocol, on_pair: Callable[[float], object]) -> records.Line:
        """The line of `case`."""
        steps = protocol.scan_steps if case.form == "scan" else None
        workload = workload_of(case, protocol)
        first = self._baseline(case, protocol, workload, steps)
        second = program(workload, build(case.method, **case.settings), protocol.id_batches, steps)
        return in_turns(first, second, protocol.effort, on_pair).line()

    def _baseline(self, case: Case, protocol: Protocol, workload: Workload, steps: int | None) -> Program:
        if case.against == "lazy":  # too large to keep
            optimizer = build("also", case.against_groups, **case.table_settings)
            return program(workload, optimizer, protocol.id_batches, steps)
        key = (case.workload, case.form, case.against)
        self._baselines = {kept: found for kept, found in self._baselines.items() if kept[:2] == key[:2]}
        if key in self._baselines:
            self._baselines[key].reset()
        else:
            self._baselines[key] = program(workload, build(case.against), protocol.id_batches, steps)
        return self._baselines[key]
