"""What holds for every batch, mask and setting that there is: found out by many examples.

Each rule is one program for all examples of a shape, with hyperparameters that are traced. The gate looks at about 500
examples, the nightly profile at more than 10,000 over all variants, shapes and dtypes.
"""

from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from also_optax import _read
from also_optax._whole_batch import WholeBatchState
from tests import problems
from tests.faults import plays
from tests.faults.plays import SIZE, STEPS, Play
from tests.rows import RULES, rules

SHAPE = (STEPS, SIZE)
IN_THE_GATE, BY_NIGHT = 42, 120  # of each rule; by night of each rule in each form
FORMS = ("row", "tokens", "bfloat16", "float16")
DTYPES = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

RANGES: dict[str, tuple[float, float]] = {
    "dual_learning_rate": (0, 100),
    "kl_penalty": (0, 100),
    "min_weight": (0, 0.9),
    "radius": (0, 3),
    "averaging_rate": (0.01, 1),
    "clip": (1e-3, 1e4),
    "step_size": (0, 100),
    "adjustment": (0, 100),
    "smoothing": (0, 1),
    "t": (-10, 10),
    "alpha": (0.01, 1),
    "penalty": (0, 1e4),
    "r": (1, 20),
}
"""Of hyperparameters by name; the temperature has either sign, and is not 0."""
TEMPERATURES = st.one_of(st.floats(1e-3, 1e4), st.floats(-1e4, -1e-3)).map(np.float32)

usual = st.floats(-10, 10, width=32)
wild = st.floats(width=32)
wild_and_usual = st.one_of(usual, wild, st.sampled_from([1e30, -1e30, 3.4e38, 1e-45, 0.0]).map(np.float32))


class Case(NamedTuple):
    """An example: what is played, by which settings, and in which other order."""

    play: Play
    hyperparams: dict[str, Any]
    order: np.ndarray


@st.composite
def cases(draw: Any, row: Any, losses: Any = wild_and_usual) -> Case:
    hyperparams = {}
    for name in row.hyperparams:
        lowest, highest = RANGES.get(name, (0, 0))
        of_range = st.floats(lowest, highest).map(np.float32)
        hyperparams[name] = draw(TEMPERATURES if name == "temperature" else of_range)
    play = Play(
        draw(arrays.arrays(np.float32, SHAPE, elements=losses)),
        draw(arrays.arrays(np.int32, SHAPE, elements=st.integers(-2, problems.NUM_GROUPS))),
        draw(arrays.arrays(bool, SHAPE, elements=st.booleans(), fill=st.just(True))),
    )
    return Case(play, hyperparams, np.array(draw(st.permutations(range(SIZE)))))


def examples(number: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def name_of(row: Any) -> str:
    return next(name for name, other in RULES.items() if other is row)


def formed(play: Play, form: str) -> Play:
    """The play as token losses, or in half precision."""
    if form == "tokens":
        return play.tokens()
    if form in DTYPES:
        with np.errstate(over="ignore"):
            return play._replace(losses=play.losses.astype(DTYPES[form]))
    return play


def check_play(row: Any, case: Case, form: str = "row") -> None:
    """All that holds whatever the losses."""
    play = formed(case.play, form)
    _, seen = plays.after(name_of(row), play, case.hyperparams)
    plays.assert_finite(seen)
    valid = play.valid(row.rule.num_groups)
    assert (seen.weights >= 0).all()
    assert not seen.weights[~valid].any()
    assert not seen.loss[~valid.reshape(STEPS, -1).any(axis=1)].any()
    if seen.group_weights is not None:
        assert (seen.group_weights >= 0).all()
        np.testing.assert_allclose(seen.group_weights.sum(axis=1), 1, rtol=0, atol=1e-5)
    for name in ("kl", "gap"):
        assert (seen.diagnostics.get(name, np.zeros(1)) >= 0).all(), name
    if "effective_groups" in seen.diagnostics:
        effective = seen.diagnostics["effective_groups"]
        assert (effective >= 1 - 1e-5).all() and (effective <= problems.NUM_GROUPS * (1 + 1e-5)).all()
    if "average_weights" in seen.diagnostics:
        np.testing.assert_allclose(seen.diagnostics["average_weights"].sum(axis=1), 1, rtol=0, atol=1e-5)


def check_usual(row: Any, case: Case) -> None:
    """What holds of losses that are not so far apart that rounding decides."""
    name, play = name_of(row), case.play
    state, seen = plays.after(name, play)
    permuted = Play(*(part[:, case.order] for part in play))
    _, other = plays.after(name, permuted)
    np.testing.assert_allclose(other.weights, seen.weights[:, case.order], rtol=2e-3, atol=2e-4)
    if seen.group_weights is not None:
        np.testing.assert_allclose(other.group_weights, seen.group_weights, rtol=1e-3, atol=1e-5)
    if isinstance(state, WholeBatchState):
        valid = play.valid(None)
        counts = valid.sum(axis=1)
        np.testing.assert_allclose(seen.weights.sum(axis=1), counts, rtol=1e-4, atol=1e-4)


@rules
def test_every_play_leaves_finite_states_and_weights_of_what_counts_alone(row):
    @examples(IN_THE_GATE - 12)
    @hypothesis.given(case=cases(row))
    def holds(case):
        check_play(row, case)

    holds()


@rules
def test_the_order_of_a_batch_does_not_matter_and_whole_batches_keep_their_mean(row):
    @examples(12)
    @hypothesis.given(case=cases(row, usual))
    def holds(case):
        check_usual(row, case)

    holds()


@rules
def test_merging_is_associative(row):
    state = row.rule.trained_rule

    @jax.jit
    def merged(losses, groups, where):
        cuts = (slice(3), slice(3, 5), slice(5, SIZE))
        first, second, third = (row.rule.observe(state, losses[cut], groups[cut], where[cut]) for cut in cuts)
        left = _read.merge(_read.merge(first, second), third)
        right = _read.merge(first, _read.merge(second, third))
        return [(of.count, of.rejected, state.advance(of)) for of in (left, right)]

    @examples(12)
    @hypothesis.given(case=cases(row, usual))
    def holds(case):
        left, right = merged(*(jnp.asarray(part[0]) for part in case.play))
        row.rule.expect_same(left, right, "merged", rtol=1e-3)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", RULES)
def test_by_night_every_form_of_play_of_every_variant(name, form):
    row = RULES[name]

    @examples(BY_NIGHT)
    @hypothesis.given(case=cases(row))
    def holds(case):
        check_play(row, case, form)

    holds()
