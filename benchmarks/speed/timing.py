"""Two programs in turns, and what their ratio is.

A *pair* is A B B A, each a block of calls that is waited for at its end; its ratio is the time of both blocks of B over
that of both of A, so that a steady drift of the machine, and what the first block leaves in the caches for the second,
cancel. Of all pairs the median counts, with the interval of the median that holds whatever their distribution is.
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

LEVEL = 0.95
ALIKE = 4.0
"""Programs whose times differ by less than this factor are called equally often in a block."""


class Program:
    """A compiled function that is called again and again on its own results, as a training loop does.

    Args:
      function: ``function(carry, batch) -> carry``; the carry may be donated.
      start: makes the first carry, in fresh buffers.
      batches: taken round and round.
      wait: whether to wait for every call (a must for programs on several fake devices) or only for the last one.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        start: Callable[[], Any],
        batches: Sequence[Any],
        *,
        wait: bool = False,
    ) -> None:
        self.function, self.start, self.batches, self.wait = function, start, batches, wait
        self.reset()

    def reset(self) -> None:
        """Back to the first carry and the first batch."""
        self.carry = None  # freed before the new one is made
        self.carry = self.start()
        self._rotation = itertools.cycle(self.batches)

    def __call__(self, calls: int) -> None:
        """Calls the function `calls` times and waits for the result."""
        for _ in range(calls):
            self.carry = self.function(self.carry, next(self._rotation))
            if self.wait:
                jax.block_until_ready(self.carry)
        jax.block_until_ready(self.carry)


class Effort(NamedTuple):
    """How long to measure.

    Attributes:
      pairs: at least so many.
      max_pairs: at most so many.
      seconds: for the pairs of one ratio, where `pairs` and `max_pairs` leave the choice.
      block: seconds that each of the four blocks of a pair lasts at least.
    """

    pairs: int
    max_pairs: int
    seconds: float
    block: float


class Turns(NamedTuple):
    """What was measured.

    Attributes:
      ratios: time of B over time of A, call by call, one number a pair.
      calls: how often A and B were called in a block.
    """

    ratios: list[float]
    calls: tuple[int, int]

    def line(self) -> dict[str, Any]:
        """For a JSON line."""
        return {"ratios": [float(f"{ratio:.5g}") for ratio in self.ratios], "calls": list(self.calls)}


class Summary(NamedTuple):
    """A ratio.

    Attributes:
      median: of the pairs.
      low: lower end of the 95 % interval of the median.
      high: upper end.
      spread: 10 % and 90 % quantiles of the pairs.
      pairs: how many.
    """

    median: float
    low: float
    high: float
    spread: tuple[float, float]
    pairs: int


def summarize(ratios: Sequence[float]) -> Summary:
    """Median, interval and spread of `ratios`."""
    values = np.asarray(ratios, dtype=float)
    low, high = median_interval(values)
    tenth, ninetieth = np.quantile(values, [0.1, 0.9])
    return Summary(float(np.median(values)), low, high, (float(tenth), float(ninetieth)), len(values))


def median_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The order statistics that hold the median with a chance of at least `level`, whatever the distribution.

    Below 6 values there are none at 95 %: then NaN.
    """
    count, tail = len(values), (1 - level) / 2
    rank = int(stats.binom.ppf(tail, count, 0.5))  # of the lower end, from 1
    while rank > 0 and stats.binom.cdf(rank - 1, count, 0.5) > tail:
        rank -= 1
    if rank < 1:
        return math.nan, math.nan
    ordered = np.sort(values)
    return float(ordered[rank - 1]), float(ordered[count - rank])


def in_turns(
    first: Callable[[int], object],
    second: Callable[[int], object],
    effort: Effort,
    on_pair: Callable[[float], object] = lambda fraction: None,
) -> Turns:
    """The time of `second` over that of `first`, in turns.

    Args:
      first: A; ``first(calls)`` returns when all is done.
      second: B, likewise.
      effort: how long.
      on_pair: told the part done, for a progress bar.
    """
    for program in (first, second):
        program(1)  # compiles
        program(1)  # finds its buffers
    calls, seconds = _blocks(first, second, effort.block)
    count = int(np.clip(effort.seconds / (2 * sum(seconds)), effort.pairs, effort.max_pairs))
    ratios = []
    gc.collect()
    gc.disable()
    try:
        for number in range(count):
            a, b, b_again, a_again = (
                _seconds(program, n) / n
                for program, n in zip((first, second, second, first), (*calls, *calls[::-1]), strict=True)
            )
            ratios.append((b + b_again) / (a + a_again))
            on_pair((number + 1) / count)
    finally:
        gc.enable()
    return Turns(ratios, calls)


def _blocks(
    first: Callable[[int], object], second: Callable[[int], object], block: float
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Calls a block, and how many seconds a block takes, of both programs."""
    a, b = (_seconds_a_call(program, block) for program in (first, second))
    if max(a, b) < ALIKE * min(a, b):
        calls = math.ceil(block / min(a, b))
        return (calls, calls), (calls * a, calls * b)
    many = (math.ceil(block / a), math.ceil(block / b))
    return many, (many[0] * a, many[1] * b)


def _seconds_a_call(program: Callable[[int], object], block: float) -> float:
    calls = 1
    while (seconds := _seconds(program, calls)) < block:
        calls *= 2
    return seconds / calls


def _seconds(program: Callable[[int], object], calls: int) -> float:
    started = time.perf_counter()
    program(calls)
    return time.perf_counter() - started
