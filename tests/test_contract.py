"""What every rule and every ready-made optimizer promises: one row each, the same tests for all."""

import functools
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
from flax import nnx, serialization

import also_optax
from also_optax._read import find_rule_state
from also_optax._whole_batch import WholeBatchState
from tests import problems


class Row(NamedTuple):
    """A transformation under contract: `make(**hyperparams)`, with scalars that may be traced or scheduled.

    A variant is another setting of a rule that has a row of its own: it is left to the nightly profile.
    """

    make: Callable[..., optax.GradientTransformationExtraArgs]
    hyperparams: dict[str, float]
    groups: bool = False
    variant: bool = False


def _also_rule(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    return also_optax.reweight_by_also(
        problems.NUM_GROUPS, prior=problems.PRIOR, group_frequencies=problems.FREQUENCIES, **hyperparams
    )


def _also(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    hyperparams = {"learning_rate": 0.02, "num_groups": problems.NUM_GROUPS, "prior": problems.PRIOR} | hyperparams
    return also_optax.also(**hyperparams)


def by_scores(make: Any) -> Any:
    """`make` in the form that otherwise begins at fifty thousand groups."""

    def make_by_scores(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("also_optax.rules.also.LARGEST_TABLES", 0)
            return make(lazy=False, **hyperparams)

    return make_by_scores


def _exponentiated_gradient(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    return also_optax.reweight_by_exponentiated_gradient(problems.NUM_GROUPS, prior=problems.PRIOR, **hyperparams)


def _group_dro(make: Any) -> Any:
    """`make` with the small groups' adjustment."""
    return functools.partial(make, num_groups=problems.NUM_GROUPS, group_counts=10 * problems.FREQUENCIES)


def _spectral_risk(r: Any, **settings: Any) -> optax.GradientTransformationExtraArgs:
    return also_optax.reweight_by_spectral_risk(also_optax.spectra.extremile(r), **settings)


ALSO = {"dual_learning_rate": 0.3, "kl_penalty": 0.5}
GROUP_DRO = {"step_size": 0.2, "adjustment": 2.0}
ABSGD = {"temperature": 3.0, "averaging_rate": 0.4}
TILTED = {"t": 0.3, "averaging_rate": 0.4}
RULES = {
    "also": Row(_also_rule, ALSO, groups=True),
    "also_without_optimism": Row(functools.partial(_also_rule, optimism=0), ALSO, groups=True, variant=True),
    "also_by_sums": Row(
        functools.partial(also_optax.reweight_by_also, problems.NUM_GROUPS), ALSO, groups=True, variant=True
    ),
    "also_drawn_by_pi": Row(  # gently: these batches are not drawn from pi, and 1/pi of a vanishing group explodes
        functools.partial(also_optax.reweight_by_also, problems.NUM_GROUPS, group_frequencies="pi"),
        {"dual_learning_rate": 0.01, "kl_penalty": 0.5},
        groups=True,
        variant=True,
    ),
    "also_without_average": Row(functools.partial(_also_rule, average_decay=None), ALSO, groups=True, variant=True),
    "also_lookahead": Row(functools.partial(_also_rule, lookahead=True), ALSO, groups=True),
    "also_lazy": Row(functools.partial(_also_rule, lazy=True), ALSO, groups=True),
    "also_by_scores": Row(by_scores(_also_rule), ALSO, groups=True, variant=True),
    "also_in_a_ball": Row(_also_rule, {"dual_learning_rate": 0.3, "radius": 0.1}, groups=True, variant=True),
    "also_with_adam": Row(functools.partial(_also_rule, dual_adam=True), ALSO, groups=True, variant=True),
    "also_above_a_floor": Row(_also_rule, ALSO | {"min_weight": 0.4}, groups=True, variant=True),
    "absgd": Row(also_optax.reweight_by_absgd, ABSGD),
    "absgd_in_a_ball": Row(also_optax.reweight_by_absgd, {"radius": 0.2, "averaging_rate": 0.4}, variant=True),
    "absgd_for_label_noise": Row(
        also_optax.reweight_by_absgd, {"temperature": -2.0, "averaging_rate": 0.4}, variant=True
    ),
    "rgd": Row(also_optax.reweight_by_rgd, {"clip": 2.0}),
    "rgd_chi2": Row(
        functools.partial(also_optax.reweight_by_rgd, divergence=also_optax.divergences.chi2),
        {"clip": 2.0},
        variant=True,
    ),
    "group_dro": Row(_group_dro(also_optax.reweight_by_group_dro), GROUP_DRO, groups=True),
    "doremi": Row(
        functools.partial(also_optax.reweight_by_doremi, problems.NUM_GROUPS, prior=problems.PRIOR),
        {"step_size": 0.3, "smoothing": 0.01},
        groups=True,
    ),
    "exponentiated_gradient": Row(_exponentiated_gradient, {"step_size": 0.1}, groups=True),
    "exponentiated_gradient_lazy": Row(
        functools.partial(_exponentiated_gradient, lazy=True), {"step_size": 0.1}, groups=True, variant=True
    ),
    "tilted": Row(also_optax.reweight_by_tilted, TILTED, variant=True),
    "tilted_groups": Row(
        functools.partial(
            also_optax.reweight_by_tilted, num_groups=problems.NUM_GROUPS, group_frequencies=problems.FREQUENCIES
        ),
        TILTED,
        groups=True,
    ),
    "cvar": Row(also_optax.reweight_by_cvar, {"alpha": 0.4}),
    "kl_cvar": Row(also_optax.reweight_by_kl_cvar, {"alpha": 0.4, "penalty": 2.0}, variant=True),
    "chi2_penalty": Row(also_optax.reweight_by_chi2, {"penalty": 3.0}, variant=True),
    "chi2_ball": Row(also_optax.reweight_by_chi2, {"radius": 0.4}),
    "spectral_risk": Row(_spectral_risk, {"r": 2.5}),
    "spectral_risk_chi2": Row(
        functools.partial(_spectral_risk, smoothing="chi2"), {"r": 2.5, "penalty": 0.5}, variant=True
    ),
    "spectral_risk_kl": Row(
        functools.partial(_spectral_risk, smoothing="kl"), {"r": 2.5, "penalty": 0.5}, variant=True
    ),
}
OPTIMIZERS = {
    "also": Row(_also, ALSO, groups=True),
    "also_lookahead": Row(functools.partial(_also, lookahead=True), ALSO, groups=True),
    "also_lazy": Row(functools.partial(_also, lazy=True), ALSO, groups=True, variant=True),
    "absgd": Row(functools.partial(also_optax.absgd, 0.01), ABSGD),
    "abadam": Row(functools.partial(also_optax.abadam, 0.02), ABSGD, variant=True),
    "rgd": Row(functools.partial(also_optax.rgd, 0.02), {"clip": 2.0}),
    "group_dro_optimizer": Row(_group_dro(functools.partial(also_optax.group_dro, 0.01)), GROUP_DRO, groups=True),
    "tilted_optimizer": Row(functools.partial(also_optax.tilted, 0.02), TILTED, variant=True),
    "cvar": Row(functools.partial(also_optax.cvar, 0.02), {"alpha": 0.4}),
}
STACKED = problems.batches(steps=6)

pytestmark = pytest.mark.usefixtures("references_of_zero")


def each(rows: dict[str, Row]) -> pytest.MarkDecorator:
    """All rows; variants are for the nightly profile."""
    marks = {name: [pytest.mark.slow] * row.variant for name, row in rows.items()}
    return pytest.mark.parametrize("row", [pytest.param(rows[name], id=name, marks=marks[name]) for name in rows])


rules, optimizers = each(RULES), each(OPTIMIZERS)


def with_sgd(row: Row, **hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    return optax.chain(row.make(**(row.hyperparams | hyperparams)), optax.sgd(0.01))


@functools.cache
def _trained(name: str, rows: str) -> Any:
    tx = with_sgd(RULES[name]) if rows == "rules" else OPTIMIZERS[name].make(**OPTIMIZERS[name].hyperparams)
    return problems.train(tx, STACKED)


def trained_rule(row: Row) -> Any:
    """Parameters and state of the rule with SGD after STACKED; the reference of most equalities."""
    return _trained(next(name for name, other in RULES.items() if other is row), "rules")


def trained_optimizer(row: Row) -> Any:
    """The same of a ready-made optimizer."""
    return _trained(next(name for name, other in OPTIMIZERS.items() if other is row), "optimizers")


def assert_same(actual: Any, expected: Any, rtol: float | None = None) -> None:
    rtol = rtol or 50 * float(jnp.finfo(jnp.result_type(float)).eps)
    chex.assert_trees_all_close(problems.outside(actual), problems.outside(expected), rtol=rtol, atol=rtol)


def assert_finite(tree: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and "max_loss" not in jax.tree_util.keystr(path):
            assert np.isfinite(leaf).all(), (jax.tree_util.keystr(path), leaf)


# --- The rule alone -------------------------------------------------------------------------------------------------


@rules
def test_a_rule_leaves_the_updates_alone(row):
    tx = row.make(**row.hyperparams)
    grads = {"w": jnp.array([1.0, jnp.nan, 3.0]), "b": jnp.array(2.0)}
    batch = problems.batch_at(STACKED, 0)
    updates, _ = tx.update(grads, tx.init(None), losses=batch.y**2, groups=batch.groups)
    assert updates is grads


@rules
def test_the_adversary_moves_or_says_that_it_is_stateless(row):
    before = row.make(**row.hyperparams).init(None)
    _, (after, *_) = trained_rule(row)
    assert int(after.step) == len(STACKED.x)
    batch = problems.batch_at(STACKED, 0)
    weights = [also_optax.example_weights(state, batch.y**2, batch.groups) for state in (before, after)]
    stateless = isinstance(after, also_optax.RgdState | WholeBatchState)
    drawn_by_pi = getattr(after, "log_frequencies", 0) is None
    assert np.allclose(*weights) == (stateless or drawn_by_pi)


@rules
def test_init_needs_no_parameters(row):
    abstract = jax.eval_shape(row.make(**row.hyperparams).init, jax.ShapeDtypeStruct((3,), jnp.float32))
    concrete = row.make(**row.hyperparams).init(jax.ShapeDtypeStruct((3,), jnp.float32))
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, concrete)


@rules
def test_the_state_holds_strong_arrays_of_their_own(row):
    state = row.make(**row.hyperparams).init(None)
    leaves = jax.tree.leaves(state)
    for leaf in leaves:
        assert isinstance(leaf, jax.Array) and leaf.size > 0 and not leaf.weak_type
        assert leaf.dtype in (jnp.int32, jnp.result_type(float))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@rules
def test_statistics_of_nothing_merge_to_no_change(row):
    _, (state, *_) = trained_rule(row)
    batch = problems.batch_at(STACKED, 1)
    seen = also_optax.observe(state, batch.y**2, batch.groups)
    nothing = also_optax.observe(state, batch.y**2, batch.groups, where=jnp.zeros(8, bool))
    for merged in (also_optax.merge(seen, nothing), also_optax.merge(nothing, seen)):
        assert_same(told(state, merged), told(state, seen))


@rules
def test_merged_statistics_are_those_of_both(row):
    _, (state, *_) = trained_rule(row)
    batch = problems.batch_at(STACKED, 1)
    parts = [also_optax.observe(state, batch.y[part] ** 2, batch.groups[part]) for part in (slice(3), slice(3, 8))]
    whole = also_optax.observe(state, batch.y**2, batch.groups)
    assert_same(told(state, also_optax.merge(*parts)), told(state, whole))


def told(state: Any, statistics: Any) -> Any:
    """What statistics say to a rule; those that list the examples may list them differently."""
    told = (statistics.count, statistics.rejected, state.advance(statistics))
    return told if hasattr(statistics, "ids") else (*told, statistics)


@rules
def test_weights_follow_the_shape_of_the_losses(row):
    _, opt_state = trained_rule(row)
    rng = np.random.default_rng(1)
    losses, groups = jnp.asarray(rng.random((4, 5)), float), jnp.array([0, 2, 1, -1])
    weights = also_optax.example_weights(opt_state, losses, groups)
    repeated = jnp.broadcast_to(groups[:, None], losses.shape)
    assert weights.shape == losses.shape and not weights[3].any()
    assert_same(weights, also_optax.example_weights(opt_state, losses, repeated))
    assert_same(weights.ravel(), also_optax.example_weights(opt_state, losses.ravel(), repeated.ravel()))
    masked_row = also_optax.example_weights(opt_state, losses, jnp.abs(groups), where=groups >= 0)
    assert_same(weights, masked_row)


@rules
def test_no_gradient_flows_through_the_weights(row):
    _, opt_state = trained_rule(row)
    losses, groups = jnp.array([0.5, 1.5, 3.0]), jnp.array([0, 1, 2])
    gradient = jax.grad(lambda losses: also_optax.reweight(opt_state, losses, groups)[0])(losses)
    assert_same(gradient, also_optax.example_weights(opt_state, losses, groups) / 3)


# --- Faults ---------------------------------------------------------------------------------------------------------


@rules
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_loss_that_is_not_finite_has_no_part_and_is_counted(row, bad):
    tx = with_sgd(row)
    _, opt_state = trained_rule(row)
    losses, groups = jnp.array([0.5, 1.5, 3.0, bad]), jnp.array([0, 1, 2, 1])
    loss, rw = also_optax.reweight(opt_state, losses, groups)
    without, rw_without = also_optax.reweight(opt_state, losses[:3], groups[:3])
    assert rw.weights[3] == 0
    assert_same((loss, rw.weights[:3]), (without, rw_without.weights))
    grads = problems.init_params()
    updated = [tx.update(grads, opt_state, grads, **r.extra_args)[1] for r in (rw, rw_without)]
    (dirty, clean) = (find_rule_state(state) for state in updated)
    assert int(dirty.rejected) == int(clean.rejected) + 1
    assert_same(dirty._replace(rejected=clean.rejected), clean)
    assert_finite(dirty)


@rules
def test_padding_has_no_part_and_is_not_counted(row):
    _, (state, *_) = trained_rule(row)
    tx = row.make(**row.hyperparams)
    losses, groups = jnp.array([0.5, 1.5, jnp.nan, 1e30, 7.0]), jnp.array([0, 1, -1, 2, -5])
    where = jnp.array([True, True, True, False, True])
    _, padded = tx.update(None, state, losses=losses, groups=groups, where=where)
    _, clean = tx.update(None, state, losses=losses[:2], groups=groups[:2])
    assert_same(padded, clean)


@pytest.mark.parametrize("name", [name for name, row in RULES.items() if row.groups])
def test_an_id_beyond_the_groups_has_no_part_and_is_counted(name):
    row = RULES[name]
    _, (state, *_) = trained_rule(row)
    tx = row.make(**row.hyperparams)
    losses, groups = jnp.array([0.5, 1.5, 2.5]), jnp.array([0, 1, problems.NUM_GROUPS])
    assert also_optax.example_weights(state, losses, groups)[2] == 0
    _, dirty = tx.update(None, state, losses=losses, groups=groups)
    _, clean = tx.update(None, state, losses=losses[:2], groups=groups[:2])
    assert_same(dirty, clean._replace(rejected=clean.rejected + 1))


@pytest.mark.parametrize(("dtype", "num_groups"), [("uint8", 300), ("uint8", 256), ("int8", 200), ("uint16", 70_000)])
def test_ids_of_a_narrow_dtype_count_though_the_number_of_groups_does_not_fit_it(dtype, num_groups):
    state = also_optax.reweight_by_also(num_groups).init(None)
    ids = np.array([0, 100, 127, np.iinfo(dtype).max], dtype)
    weights = also_optax.example_weights(state, jnp.ones(4), ids)
    assert (weights == 1).all()


@rules
def test_losses_above_max_loss_are_rejected(row):
    tx = row.make(**row.hyperparams, max_loss=5.0)
    state = tx.init(None)
    losses, groups = jnp.array([5.0, 5.0, 5.1]), jnp.array([0, 1, 2])
    assert (also_optax.example_weights(state, losses, groups) == 0).tolist() == [False, False, True]
    _, state = tx.update(None, state, losses=losses, groups=groups)
    assert int(state.rejected) == 1


@rules
def test_a_batch_that_says_nothing_moves_nothing(row):
    tx = row.make(**row.hyperparams)
    _, (state, *_) = trained_rule(row)
    losses, groups = jnp.array([jnp.nan, 1.0]), jnp.array([0, -1])
    loss, rw = also_optax.reweight(state, losses, groups)
    _, after = tx.update(None, state, **rw.extra_args)
    assert loss == 0 and not rw.weights.any()
    assert_same(after, state._replace(rejected=state.rejected + 1))


@rules
@pytest.mark.parametrize("huge", [1e4, 1e30, -1e30])
def test_huge_finite_losses_leave_a_finite_state(row, huge):
    tx = row.make(**row.hyperparams)
    state = tx.init(None)
    for _ in range(3):
        for losses in ([huge, 1.0, 0.5], [huge, huge, -huge], [0.3, 0.2, 0.1]):
            losses, groups = jnp.array(losses), jnp.array([0, 1, 2])
            loss, rw = also_optax.reweight(state, losses, groups)
            _, state = tx.update(None, state, **rw.extra_args)
            assert_finite((loss, rw.weights, state))
            assert_finite(also_optax.diagnostics(state))


@rules
def test_a_step_passes_debug_nans(row):
    with jax.debug_nans(True):
        tx = row.make(**row.hyperparams)
        losses, groups = jnp.array([0.5, 1.5, 3.0]), jnp.array([0, 1, -1])
        for state in (tx.init(None), tx.update(None, tx.init(None), losses=losses, groups=groups)[1]):
            _, rw = also_optax.reweight(state, losses, groups)
            tx.update(None, state, **rw.extra_args)
            also_optax.diagnostics(state)


@optimizers
def test_apply_if_finite_keeps_parameters_and_adversary(row):
    tx = optax.apply_if_finite(row.make(**row.hyperparams), 3)
    params = problems.init_params()
    opt_state = tx.init(params)
    step = jax.jit(functools.partial(problems.train_step, tx))
    params, opt_state = step(params, opt_state, problems.batch_at(STACKED, 0))
    poison = problems.batch_at(STACKED, 1)
    poison = poison._replace(x=poison.x.at[0, 0].set(jnp.inf), where=jnp.ones(8, bool))
    frozen, frozen_state = step(params, opt_state, poison)
    assert_same(frozen, params)
    assert_same(find_rule_state(frozen_state), find_rule_state(opt_state))
    params, opt_state = step(frozen, frozen_state, problems.batch_at(STACKED, 2))
    assert_finite((params, opt_state))
    assert not np.allclose(params["w"], frozen["w"])


# --- JAX ------------------------------------------------------------------------------------------------------------


@optimizers
def test_one_compilation_and_a_stable_state_under_donation(row):
    tx = row.make(**row.hyperparams)
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, batch):
        traces.append(1)
        return problems.train_step(tx, params, opt_state, batch)

    params = problems.init_params()
    opt_state = jax.jit(tx.init)(params)
    avals = jax.tree.map(jax.typeof, opt_state)
    for t in range(len(STACKED.x)):
        params, opt_state = step(params, opt_state, problems.batch_at(STACKED, t))
        assert jax.tree.map(jax.typeof, opt_state) == avals
    assert len(traces) == 1
    assert_same((params, opt_state), trained_optimizer(row), rtol=1e-5)


@rules
def test_jit_equals_eager(row):
    tx = with_sgd(row)
    params = problems.init_params()
    opt_state = tx.init(params)
    for t in range(2):
        params, opt_state = problems.train_step(tx, params, opt_state, problems.batch_at(STACKED, t))
    assert_same((params, opt_state), problems.train(tx, jax.tree.map(lambda leaf: leaf[:2], STACKED)), rtol=1e-5)


@optimizers
def test_a_grid_of_hyperparameters_trains_under_one_vmap(row):
    grid = {name: jnp.array([value, 2 * value, 0.7 * value]) for name, value in row.hyperparams.items()}
    if "averaging_rate" in grid:
        grid["averaging_rate"] = jnp.array([0.4, 1.0, 0.1])
    together = jax.vmap(lambda point: problems.train(row.make(**point), STACKED))(grid)
    for i in range(3):
        alone = problems.train(row.make(**{name: float(values[i]) for name, values in grid.items()}), STACKED)
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=2e-5)


@rules
def test_constant_schedules_are_numbers(row):
    scheduled = {name: optax.constant_schedule(value) for name, value in row.hyperparams.items()}
    assert_same(problems.train(with_sgd(row, **scheduled), STACKED), trained_rule(row))


@rules
def test_read_and_write_side_see_the_same_value_of_a_schedule(row):
    """Switching by schedule at step 3 is training with one value for 3 steps and with the other from there."""
    # What optimism lends in a step of a lazy rule is at the next step's rate, which only a schedule knows beforehand.
    fixed = {"optimism": 0} if isinstance(row.make(**row.hyperparams).init(None), also_optax.AlsoScoresState) else {}
    changed = {name: value / 2 for name, value in row.hyperparams.items()}
    switched = {
        name: optax.join_schedules(
            [optax.constant_schedule(value), optax.constant_schedule(changed[name])], boundaries=[3]
        )
        for name, value in row.hyperparams.items()
    }
    by_schedule = problems.train(with_sgd(row, **switched, **fixed), STACKED)
    params, opt_state = problems.train(with_sgd(row, **fixed), jax.tree.map(lambda leaf: leaf[:3], STACKED))
    tx = with_sgd(row, **changed, **fixed)
    hyperparams = find_rule_state(tx.init(params)).hyperparams
    opt_state = (opt_state[0]._replace(hyperparams=hyperparams), *opt_state[1:])
    for t in range(3, len(STACKED.x)):
        params, opt_state = problems.train_step(tx, params, opt_state, problems.batch_at(STACKED, t))
    assert_same((params, opt_state), by_schedule, rtol=1e-5)


# --- Inside optax and flax ------------------------------------------------------------------------------------------


@rules
def test_a_rule_may_stand_anywhere_in_a_chain(row):
    rule = row.make(**row.hyperparams)
    expected, _ = trained_rule(row)
    for tx in (
        optax.chain(optax.sgd(0.01), rule),
        optax.chain(optax.chain(optax.identity(), rule), optax.scale(0.1), optax.scale(-0.1)),
        optax.named_chain(("first", optax.scale(-0.01)), ("rule", rule)),
    ):
        assert_same(problems.train(tx, STACKED)[0], expected, rtol=1e-5)


@rules
def test_unknown_extra_args_are_ignored(row):
    tx = row.make(**row.hyperparams)
    batch = problems.batch_at(STACKED, 0)
    arguments = {"losses": batch.y**2, "groups": batch.groups}
    _, plain = tx.update(None, tx.init(None), **arguments)
    _, noisy = tx.update(None, tx.init(None), value=1.0, grad="?", **arguments)
    assert_same(plain, noisy)


@optimizers
def test_inject_hyperparams_changes_nothing(row):
    name = next(name for name, other in OPTIMIZERS.items() if other is row)
    also = {"num_groups": problems.NUM_GROUPS, "lookahead": False, "lazy": None}
    public = {
        "also": (_injectable_also, also | {"lookahead": False}),
        "also_lookahead": (_injectable_also, also | {"lookahead": True}),
        "also_lazy": (_injectable_also, also | {"lazy": True}),
        "absgd": (also_optax.absgd, {"learning_rate": 0.01}),
        "abadam": (also_optax.abadam, {"learning_rate": 0.02}),
        "rgd": (also_optax.rgd, {"learning_rate": 0.02}),
        "group_dro_optimizer": (
            also_optax.group_dro,
            {"learning_rate": 0.01, "num_groups": problems.NUM_GROUPS, "group_counts": 10 * problems.FREQUENCIES},
        ),
        "tilted_optimizer": (also_optax.tilted, {"learning_rate": 0.02}),
        "cvar": (also_optax.cvar, {"learning_rate": 0.02}),
    }
    factory, fixed = public[name]
    static = [argument for argument in ("num_groups", "lookahead", "lazy") if argument in fixed]
    tx = optax.inject_hyperparams(factory, static_args=static)(**fixed, **row.hyperparams)
    params, opt_state = problems.train(tx, STACKED)
    expected, expected_state = trained_optimizer(row)
    assert_same(params, expected, rtol=1e-5)
    rule, expected_rule = find_rule_state(opt_state), find_rule_state(expected_state)
    assert_same(rule.step, expected_rule.step)
    assert_same(rule.hyperparams, expected_rule.hyperparams, rtol=1e-6)


def _injectable_also(
    dual_learning_rate,
    kl_penalty,
    num_groups,
    lookahead,
    lazy,
    learning_rate=0.02,
    optimism=1.0,
):
    return also_optax.also(
        learning_rate,
        num_groups,
        dual_learning_rate=dual_learning_rate,
        kl_penalty=kl_penalty,
        optimism=optimism,
        prior=problems.PRIOR,
        lookahead=lookahead,
        lazy=lazy,
    )


@optimizers
def test_wrappers_of_optax_keep_the_adversary(row):
    expected_params, expected_state = trained_optimizer(row)
    expected = find_rule_state(expected_state)
    expected_point = also_optax.eval_params(expected_state, expected_params)
    plain = row.make(**row.hyperparams)
    mask = {"w": True, "b": True}
    for tx in (
        optax.masked(plain, mask),
        optax.apply_if_finite(plain, 2),
        optax.partition({"all": plain}, {"w": "all", "b": "all"}),
        optax.GradientTransformationExtraArgs(optax.MultiSteps(plain, 1).init, optax.MultiSteps(plain, 1).update),
    ):
        params, opt_state = problems.train(tx, STACKED)
        assert_same(find_rule_state(opt_state), expected, rtol=1e-5)
        assert_same(also_optax.eval_params(opt_state, params), expected_point, rtol=1e-5)


@optimizers
def test_schedule_free_trains(row):
    tx = optax.contrib.schedule_free(row.make(**row.hyperparams), 0.02)
    params, opt_state = problems.train(tx, STACKED)
    assert int(find_rule_state(opt_state).step) == len(STACKED.x)
    assert_finite((params, optax.contrib.schedule_free_eval_params(opt_state, params)))


@optimizers
def test_nnx_optimizer_trains(row):
    class Model(nnx.Module):
        def __init__(self):
            self.w, self.b = (nnx.Param(leaf) for leaf in (problems.init_params()["w"], problems.init_params()["b"]))

    model = Model()
    optimizer = nnx.Optimizer(model, row.make(**row.hyperparams), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        def loss_fn(model):
            losses = problems.losses_of({"w": model.w[...], "b": model.b[...]}, batch)
            return also_optax.reweight(optimizer.opt_state, losses, batch.groups, where=batch.where)

        (_, rw), grads = nnx.value_and_grad(loss_fn, has_aux=True)(model)
        optimizer.update(model, grads, **rw.extra_args)

    for t in range(len(STACKED.x)):
        step(model, optimizer, problems.batch_at(STACKED, t))
    expected, _ = trained_optimizer(row)
    assert_same({"w": model.w[...], "b": model.b[...]}, expected, rtol=1e-5)
    if row.groups:
        assert also_optax.group_weights(optimizer.opt_state).shape == (problems.NUM_GROUPS,)


@optimizers
def test_tree_map_params_reaches_the_moments_and_not_the_adversary(row):
    tx = row.make(**row.hyperparams)
    opt_state = tx.init(problems.init_params())
    marked = optax.tree_map_params(tx, lambda leaf: leaf + 1, opt_state)
    assert_same(find_rule_state(marked), find_rule_state(opt_state))


@optimizers
def test_checkpoints_keep_the_adversary(row, tmp_path):
    _, opt_state = trained_optimizer(row)
    from_bytes = serialization.from_bytes(opt_state, serialization.to_bytes(opt_state))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", opt_state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: opt_state))
    pickled = pickle.loads(pickle.dumps(opt_state))
    losses, groups = jnp.array([0.5, 1.5, 3.0]), jnp.array([0, 1, 2])
    expected = also_optax.example_weights(opt_state, losses, groups)
    for state in (from_bytes, restored, pickled):
        assert (also_optax.example_weights(state, losses, groups) == expected).all()


# --- Precision ------------------------------------------------------------------------------------------------------


@optimizers
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters_keep_their_dtype_and_the_adversary_its_own(row, dtype):
    params, opt_state = problems.train(row.make(**row.hyperparams), STACKED, problems.init_params(dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    state = find_rule_state(opt_state)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype(jnp.int32), jnp.dtype(jnp.result_type(float))}
    full = find_rule_state(trained_optimizer(row)[1])
    if row.groups:
        np.testing.assert_allclose(state.group_weights(), full.group_weights(), atol=0.05)


@rules
def test_statistics_of_half_precision_losses_are_added_up_in_full(row):
    state = row.make(**row.hyperparams).init(None)
    groups = jnp.zeros(1000, jnp.int32)
    seen = also_optax.observe(state, jnp.ones(1000, jnp.bfloat16), groups)
    assert_same(seen, also_optax.observe(state, jnp.ones(1000), groups), rtol=1e-6)
    assert seen.count == 1000
