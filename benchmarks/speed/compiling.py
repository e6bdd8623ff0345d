"""Part c: how long a training step compiles, and the memory that it holds at once, against the baseline's.

Memory is what XLA plans for the compiled step: arguments, outputs and temporaries, less what outputs share with donated
arguments. States are shapes here, so no table is made.
"""

import time
from collections.abc import Callable

import jax
import numpy as np
from jax.stages import Lowered

from benchmarks import records
from benchmarks.speed.cases import Case, Protocol
from benchmarks.speed.optimizers import Optimizer, build
from benchmarks.speed.steps import workload_of
from benchmarks.speed.timing import Turns
from benchmarks.speed.workloads import Workload, train_step


def measure(case: Case, protocol: Protocol, on_pair: Callable[[float], object]) -> records.Line:
    """The line of `case`."""
    workload = workload_of(case, protocol)
    first, second = build(case.against), build(case.method, **case.settings)
    memory = {"peak_bytes": peak_bytes(workload, second), "baseline_peak_bytes": peak_bytes(workload, first)}
    ratios = []
    for number in range(protocol.compile_pairs):
        a, b, b_again, a_again = (_compile_seconds(workload, o) for o in (first, second, second, first))
        ratios.append((b + b_again) / (a + a_again))
        on_pair((number + 1) / protocol.compile_pairs)
    return Turns(ratios, (1, 1)).line() | memory


def lower(workload: Workload, optimizer: Optimizer) -> Lowered:
    """One training step, lowered for shapes alone."""
    batch = workload.inputs(np.random.default_rng(0))
    if optimizer.num_groups is not None:
        batch["groups"] = np.zeros(workload.batch, np.int32)
    params = jax.eval_shape(workload.init)
    opt_state = jax.eval_shape(optimizer.tx.init, params)
    return jax.jit(train_step(workload, optimizer), donate_argnums=(0, 1)).lower(params, opt_state, batch)


def peak_bytes(workload: Workload, optimizer: Optimizer) -> int | None:
    """Bytes of arguments, outputs and temporaries; None where the platform does not say."""
    memory = lower(workload, optimizer).compile().memory_analysis()
    if memory is None:
        return None
    parts = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
    return int(sum(parts) - memory.alias_size_in_bytes)


def _compile_seconds(workload: Workload, optimizer: Optimizer) -> float:
    """Of tracing, lowering and compiling, with nothing kept from before."""
    jax.clear_caches()
    started = time.perf_counter()
    lower(workload, optimizer).compile()
    return time.perf_counter() - started
