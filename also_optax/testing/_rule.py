"""What every rule promises: of its state, its statistics, its weights, and of batches with faults."""

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from also_optax import _read
from also_optax._base import is_rule_state
from also_optax._diagnostics import diagnostics
from also_optax._read import find_rule_state
from also_optax.testing import _problem
from also_optax.testing._candidate import FEW, STEPS, Candidate, Check, expect, expect_finite, promise

LOSSES = np.array([0.5, 1.5, 3.0])
MEMBERS = "`step`, `rejected`, `hyperparams`, `num_groups`, `observe`, `advance`, `weigh` and `diagnostics`"


def _few() -> jax.Array:
    return jnp.asarray(LOSSES, float)


def _squares(batch: _problem.Batch) -> jax.Array:
    return batch.y**2


def _partly_nan(batch: _problem.Batch) -> jax.Array:
    """Losses of which one of the first three and two of the others cannot be used."""
    return _squares(batch).at[jnp.array([1, 3, 6])].set(jnp.nan)


# --- State and statistics -------------------------------------------------------------------------------------------


@promise(f"make the state a NamedTuple with {MEMBERS}, `hyperparams` with `max_loss` among them.")
def the_read_side_finds_one_state(candidate: Candidate) -> None:
    """`init` returns a state that meets `also_optax.base.RuleState`, alone."""
    state = candidate.made().init(None)
    expect(is_rule_state(state), f"a state of type {type(state).__name__} without some of {MEMBERS}.")
    find_rule_state(candidate.optimizer().init(_problem.init_params()))
    expect(hasattr(state.hyperparams, "max_loss"), "no `max_loss` among the hyperparameters.")


@promise("return the updates as they came; a rule moves only its state.")
def a_rule_leaves_the_updates_alone(candidate: Candidate) -> None:
    """The very updates come back, whatever is in them."""
    tx = candidate.made()
    batch = _problem.batch_at(candidate.batches, 0)
    grads = {"w": jnp.array([1.0, jnp.nan, 3.0]), "b": jnp.array(2.0)}
    arguments = {"losses": _squares(batch), "groups": batch.groups, "reference_losses": jnp.zeros_like(batch.y)}
    updates, _ = tx.update(grads, tx.init(None), **arguments)
    expect(updates is grads, "other updates.")


@promise("let `advance` move what `weigh` reads, or say `memory=False` of a rule that weighs each batch by itself.")
def the_adversary_moves_or_says_that_it_has_no_memory(candidate: Candidate) -> None:
    """The weights of a batch change with what was seen before, unless the rule has no memory, and steps are counted."""
    before, after = candidate.made().init(None), candidate.trained_rule
    expect(int(after.step) == STEPS, f"`step` is {after.step} after {STEPS} batches.")
    batch = _problem.batch_at(candidate.batches, 0)
    first, last = (candidate.weights(state, _squares(batch), batch.groups) for state in (before, after))
    changed = not np.allclose(first, last)
    expect(changed == candidate.memory, f"weights {first} before and {last} after {STEPS} batches.")


@promise("use nothing of `params` in `init`.")
def init_needs_no_parameters(candidate: Candidate) -> None:
    """`init` works on shapes alone, and gives the same state when it is traced."""
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    traced, concrete = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        for state in (jax.eval_shape(candidate.made().init, shape), candidate.made().init(shape))
    )
    expect(traced == concrete, f"{traced} where it is traced, and {concrete} where it is not.")


@promise(
    "make every leaf with `jnp.zeros(shape, dtype)` or `jnp.array(value, dtype)`, int32 or the default float; give no "
    "array to two leaves, and no Python number to any."
)
def the_state_holds_strong_arrays_of_their_own(candidate: Candidate) -> None:
    """Leaves are arrays that can be donated and saved: not empty, not weakly typed, none shared."""
    leaves = jax.tree.leaves_with_path(candidate.made().init(None))
    owners: dict[int, str] = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        expect(isinstance(leaf, jax.Array), f"{name} is a {type(leaf).__name__}.")
        expect(leaf.size > 0, f"{name} has shape {leaf.shape}.")
        expect(not leaf.weak_type, f"{name} is weakly typed.")
        expect(leaf.dtype in (jnp.int32, jnp.result_type(float)), f"{name} has dtype {leaf.dtype}.")
        owner = owners.setdefault(leaf.unsafe_buffer_pointer(), name)
        expect(owner == name, f"{owner} and {name} are one array.")


@promise("let pickle find the state's type by its name in its module, or give it a `__reduce__`.")
def a_state_survives_pickling(candidate: Candidate) -> None:
    """A pickled state weighs as before."""
    state = candidate.trained_rule
    again = pickle.loads(pickle.dumps(state))
    weights = [candidate.weights(of, _few(), candidate.few_ids) for of in (state, again)]
    expect((weights[0] == weights[1]).all(), f"weights {weights[1]} and not {weights[0]}.")


@promise("make statistics of no examples such that `merge` leaves the others as they are: sums of 0, not means.")
def statistics_of_nothing_merge_to_no_change(candidate: Candidate) -> None:
    """Merging with the statistics of a batch that is all padding changes nothing, from either side."""
    state, batch = candidate.trained_rule, _problem.batch_at(candidate.batches, 1)
    seen = candidate.observe(state, _squares(batch), batch.groups)
    nothing = candidate.observe(state, _squares(batch), batch.groups, jnp.zeros_like(batch.where))
    for merged in (_read.merge(seen, nothing), _read.merge(nothing, seen)):
        candidate.expect_same(_what_it_says(state, merged), _what_it_says(state, seen), "merged with nothing")


@promise("keep sums and counts in the statistics, and divide in `advance` and `weigh`: a mean of means is no mean.")
def merged_statistics_are_those_of_both(candidate: Candidate) -> None:
    """Statistics of parts of different size merge, in any order, to those of the whole."""
    state, batch = candidate.trained_rule, _problem.batch_at(candidate.batches, 1)
    losses = _partly_nan(batch)
    first, second = (candidate.observe(state, losses[part], batch.groups[part]) for part in (slice(3), slice(3, 8)))
    whole = _what_it_says(state, candidate.observe(state, losses, batch.groups))
    for merged in (_read.merge(first, second), _read.merge(second, first)):
        candidate.expect_same(_what_it_says(state, merged), whole, "merged")


@promise("let `pool` do over a mapped axis what `merge` does with two: `jax.lax.psum` of sums, `pmax` of peaks.")
def pooled_statistics_are_those_of_all(candidate: Candidate) -> None:
    """Statistics of shards, pooled over a mapped axis, are those of the whole batch, on every shard."""
    state, batch = candidate.trained_rule, _problem.batch_at(candidate.batches, 1)
    losses = _partly_nan(batch)

    def of_shard(losses: jax.Array, groups: jax.Array) -> Any:
        statistics = candidate.observe(state, losses, groups).pool("shards")
        return statistics.count, statistics.rejected, state.advance(statistics)

    shards = (part.reshape(2, -1) for part in (losses, batch.groups))
    pooled = jax.jit(jax.vmap(of_shard, axis_name="shards"))(*shards)
    whole = candidate.observe(state, losses, batch.groups)
    for shard in range(2):
        mine = jax.tree.map(lambda leaf, shard=shard: leaf[shard], pooled)
        candidate.expect_same(mine, (whole.count, whole.rejected, state.advance(whole)), f"on shard {shard}")


def _what_it_says(state: Any, statistics: Any) -> Any:
    """What statistics say to a rule; those that list the examples may list them differently."""
    said = (statistics.count, statistics.rejected, state.advance(statistics))
    return said if hasattr(statistics, "ids") else (*said, statistics)


@promise("return from `diagnostics` a flat dict of arrays, `rejected` among them.")
def diagnostics_are_named_arrays(candidate: Candidate) -> None:
    """Diagnostics are finite arrays by name, before the first step and after the last."""
    for state in (candidate.made().init(None), candidate.trained_rule):
        found = diagnostics(state)
        expect(isinstance(found, dict) and "rejected" in found, f"{found!r}.")
        expect(all(isinstance(value, jax.Array) for value in found.values()), f"{found!r}.")
        expect_finite(found, "diagnostics")


# --- Weights --------------------------------------------------------------------------------------------------------


@promise("clip exponents before `exp`, divide by nothing that can be 0, and normalise in logs.")
def weights_are_finite_and_not_negative(candidate: Candidate) -> None:
    """Weights are finite and at least 0, and those of the groups, if it has them, sum to 1."""
    for t in range(STEPS):
        batch = _problem.batch_at(candidate.batches, t)
        weights = candidate.weights(candidate.trained_rule, _squares(batch), batch.groups, batch.where)
        expect(jnp.isfinite(weights).all() and (weights >= 0).all(), f"weights {weights}.")
    if hasattr(candidate.trained_rule, "group_weights"):
        pi = candidate.trained_rule.group_weights()
        expect(pi.shape == (candidate.num_groups,), f"weights of groups of shape {pi.shape}.")
        expect((pi >= 0).all() and abs(pi.sum() - 1) < 1e-5, f"weights of groups {pi}, which sum to {pi.sum()}.")


@promise("return weights of the shape of `examples.losses`: `also_optax.base.at_examples` does that for a table.")
def weights_follow_the_shape_of_the_losses(candidate: Candidate) -> None:
    """Losses ``[B, T]`` with an id for each row weigh as the same losses in a row; a negative id and a mask are one."""
    state = candidate.trained_rule
    losses = jnp.asarray(np.random.default_rng(1).random((4, 5)), float)
    groups = jnp.array([0, 2, 1, -1]) % jnp.int32(candidate.num_groups or 3)
    groups = groups.at[3].set(-1)
    weights = candidate.weights(state, losses, groups)
    expect(weights.shape == losses.shape, f"weights of shape {weights.shape} for losses of shape {losses.shape}.")
    expect(not weights[3].any(), f"weights {weights[3]} of a row with a negative id.")
    repeated = jnp.broadcast_to(groups[:, None], losses.shape)
    same = candidate.expect_same
    same(weights, candidate.weights(state, losses, repeated), "an id for each row, an id for each entry")
    same(weights.ravel(), candidate.weights(state, losses.ravel(), repeated.ravel()), "[B, T], [B * T]")
    same(weights, candidate.weights(state, losses, jnp.abs(groups), groups >= 0), "a negative id, a mask")


@promise("let `count` be that of `also_optax.base.counts`; `reweight` divides by it, and stops the weights' gradient.")
def no_gradient_flows_through_the_weights(candidate: Candidate) -> None:
    """The gradient of the loss by a loss is its weight over the count."""
    state, groups = candidate.trained_rule, candidate.few_ids
    gradient = jax.grad(lambda losses: candidate.reweight(state, losses, groups)[0])(_few())
    candidate.expect_same(gradient, candidate.weights(state, _few(), groups) / FEW, "the gradient")


# --- Faults ---------------------------------------------------------------------------------------------------------


@promise("use `examples.losses`, which are 0 where not `examples.valid`, and count with `also_optax.base.counts`.")
def a_loss_that_is_not_finite_has_no_part_and_is_counted(candidate: Candidate) -> None:
    """NaN and infinite losses weigh 0, change neither the other weights nor the state, and are counted as rejected."""
    tx, state, groups = candidate.made(), candidate.trained_rule, candidate.few_ids
    without, rw_without = candidate.reweight(state, _few(), groups)
    clean = candidate.told(tx, state, _few(), groups)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        losses, ids = jnp.append(_few(), bad), jnp.append(groups, groups[1])
        loss, rw = candidate.reweight(state, losses, ids)
        expect(rw.weights[FEW] == 0, f"weight {rw.weights[FEW]} of a loss of {bad}.")
        candidate.expect_same((loss, rw.weights[:FEW]), (without, rw_without.weights), f"beside a loss of {bad}")
        dirty = candidate.told(tx, state, losses, ids)
        expect(dirty.rejected == clean.rejected + 1, f"{dirty.rejected - state.rejected} rejected for a loss of {bad}.")
        expect_finite(dirty, f"after a loss of {bad}, the state's ")
        candidate.expect_same(dirty._replace(rejected=clean.rejected), clean, f"after a loss of {bad}, the state")


@promise("count with `also_optax.base.counts`, and never by the shape of the losses.")
def padding_has_no_part_and_is_not_counted(candidate: Candidate) -> None:
    """Entries with a negative id or outside of the mask change nothing, and are not counted as rejected."""
    tx, state = candidate.made(), candidate.trained_rule
    losses, groups = jnp.array([0.5, 1.5, jnp.nan, 1e30, 7.0]), jnp.array([0, 1, -1, 2, -5])
    groups = jnp.where(groups >= 0, groups % jnp.int32(candidate.num_groups or FEW), groups)
    where = jnp.array([True, True, True, False, True])
    padded = candidate.told(tx, state, losses, groups, where=where)
    candidate.expect_same(padded, candidate.told(tx, state, losses[:2], groups[:2]), "the state after padding")


@promise("say G by `num_groups`, and read tables by `also_optax.base.at_examples`, which drops ids beyond it.")
def an_id_beyond_the_groups_has_no_part_and_is_counted(candidate: Candidate) -> None:
    """An id of G or more weighs 0, changes nothing, and is counted as rejected."""
    if candidate.num_groups is None:
        return
    tx, state = candidate.made(), candidate.trained_rule
    groups = candidate.few_ids.at[FEW - 1].set(candidate.num_groups)
    weight = candidate.weights(state, _few(), groups)[FEW - 1]
    expect(weight == 0, f"weight {weight} of the id {candidate.num_groups}.")
    dirty = candidate.told(tx, state, _few(), groups)
    clean = candidate.told(tx, state, _few()[: FEW - 1], groups[: FEW - 1])
    expected = clean._replace(rejected=clean.rejected + 1)
    candidate.expect_same(dirty, expected, f"the state after the id {candidate.num_groups}")


@promise("let the factory take `max_loss`, and keep it in the state's hyperparameters.")
def losses_above_max_loss_are_rejected(candidate: Candidate) -> None:
    """Losses above `max_loss` weigh 0 and are counted; `max_loss` itself is not above."""
    tx = candidate.made(max_loss=5.0)
    state, losses = tx.init(None), jnp.array([5.0, 5.0, 5.1])
    weights = candidate.weights(state, losses, candidate.few_ids)
    expect((weights == 0).tolist() == [False, False, True], f"weights {weights} of losses {losses} at `max_loss` 5.")
    rejected = candidate.told(tx, state, losses, candidate.few_ids).rejected
    expect(rejected == 1, f"{rejected} rejected of losses {losses} at `max_loss` 5.")


@promise("leave it to `rule_transformation` to keep the state, or see to it in `advance` where `keeps_still` is true.")
def a_batch_that_says_nothing_moves_nothing(candidate: Candidate) -> None:
    """A batch of which no entry counts has a loss of 0, weights of 0, and leaves the state but for `rejected`."""
    tx, state = candidate.made(), candidate.trained_rule
    losses, groups = jnp.array([jnp.nan, 1.0]), jnp.array([0, -1])
    loss, rw = candidate.reweight(state, losses, groups)
    expect(loss == 0 and not rw.weights.any(), f"loss {loss}, weights {rw.weights}.")
    after = candidate.told(tx, state, losses, groups)
    candidate.expect_same(after, state._replace(rejected=state.rejected + 1), "the state after it")


@promise("saturate what is added up over steps (`also_optax.base.saturated`), and keep weights in logs.")
def huge_finite_losses_leave_a_finite_state(candidate: Candidate) -> None:
    """Losses up to 1e30 of either sign, for whole batches or single entries, leave all numbers finite."""
    tx, groups = candidate.made(), candidate.few_ids
    for huge in (1e4, 1e30, -1e30):
        state = tx.init(None)
        for _ in range(3):
            for batch in ([huge, 1.0, 0.5], [huge, huge, -huge], [0.3, 0.2, 0.1]):
                losses = jnp.array(batch)
                loss, rw = candidate.reweight(state, losses, groups)
                state = candidate.told(tx, state, losses, groups)
                expect_finite({"loss": loss, "weights": rw.weights, "state": state}, f"after losses of {huge:g}, ")
                expect_finite(diagnostics(state), f"after losses of {huge:g}, diagnostics")


@promise("put finite values where `jnp.where` does not look: NaN must not be made, even to be thrown away.")
def a_step_passes_debug_nans(candidate: Candidate) -> None:
    """With `jax_debug_nans` a step and its diagnostics go through."""
    with jax.debug_nans(True):
        tx = candidate.made()
        padded = candidate.few_ids.at[FEW - 1].set(-1)
        start = tx.init(None)
        for state in (start, candidate.told(tx, start, _few(), padded)):
            for groups in (padded, jnp.full_like(padded, -1)):
                candidate.reweight(state, _few(), groups)
                candidate.told(tx, state, _few(), groups)
            diagnostics(state)


# --- Values over time -----------------------------------------------------------------------------------------------


@promise("do not look at values in Python: `jnp.where` in place of `if`, `jax.lax.scan` in place of `while`.")
def jit_equals_eager(candidate: Candidate) -> None:
    """Two steps outside of `jax.jit` are two steps inside."""
    tx = candidate.optimizer()
    params = _problem.init_params()
    opt_state = tx.init(params)
    for t in range(2):
        params, opt_state = candidate.train_step(tx, params, opt_state, _problem.batch_at(candidate.batches, t))
    jitted = candidate.train(tx, jax.tree.map(lambda leaf: leaf[:2], candidate.batches))
    candidate.expect_same((params, opt_state), jitted, "parameters and state", rtol=1e-5)


@promise("hand hyperparameters to `rule_transformation` as they came, and read them from the state.")
def constant_schedules_are_numbers(candidate: Candidate) -> None:
    """Hyperparameters may be schedules of the step."""
    scheduled = {name: optax.constant_schedule(value) for name, value in candidate.hyperparams.items()}
    found = candidate.train(candidate.optimizer(**scheduled))
    candidate.expect_same(found, candidate.trained, "parameters and state by schedules")


@promise("read hyperparameters from `self.hyperparams` alone, in `observe`, `advance` and `weigh`.")
def read_and_write_side_see_the_same_value_of_a_schedule(candidate: Candidate) -> None:
    """Switching by schedule at step 3 is training with one value for 3 steps and with the other from there."""
    changed = {name: value / 2 for name, value in candidate.hyperparams.items()}
    switched = {
        name: optax.join_schedules(
            [optax.constant_schedule(value), optax.constant_schedule(changed[name])], boundaries=[3]
        )
        for name, value in candidate.hyperparams.items()
    }
    by_schedule, fixed, later = candidate.optimizer(**switched), candidate.optimizer(), candidate.optimizer(**changed)
    params, opt_state = candidate.train(fixed, jax.tree.map(lambda leaf: leaf[:2], candidate.batches))
    # What a rule lends for one step may be at the next one's values, which only a schedule knows beforehand.
    params, opt_state = candidate.train_step(by_schedule, params, opt_state, _problem.batch_at(candidate.batches, 2))
    hyperparams = find_rule_state(later.init(params)).hyperparams
    opt_state = _with_hyperparams(opt_state, hyperparams)
    for t in range(3, STEPS):
        params, opt_state = candidate.train_step(later, params, opt_state, _problem.batch_at(candidate.batches, t))
    expected = candidate.train(by_schedule)
    candidate.expect_same((params, opt_state), expected, "parameters and state by hand", rtol=1e-5)


def _with_hyperparams(opt_state: Any, hyperparams: Any) -> Any:
    def replaced(node: Any) -> Any:
        return node._replace(hyperparams=hyperparams) if is_rule_state(node) else node

    return jax.tree.map(replaced, opt_state, is_leaf=is_rule_state)


# --- Inside optax ---------------------------------------------------------------------------------------------------


@promise("move by `losses` and `groups` alone, and not by updates or parameters.")
def a_rule_may_stand_anywhere_in_a_chain(candidate: Candidate) -> None:
    """Before the step, after it, in a chain of chains or in a named chain: the parameters are the same."""
    rule = candidate.made()
    expected, _ = candidate.trained
    for place, tx in {
        "at the end": optax.chain(optax.sgd(0.01), rule),
        "in a chain of chains": optax.chain(optax.chain(optax.identity(), rule), optax.scale(0.1), optax.scale(-0.1)),
        "in a named chain": optax.named_chain(("first", optax.scale(-0.01)), ("rule", rule)),
    }.items():
        candidate.expect_same(candidate.train(tx)[0], expected, f"parameters with the rule {place}", rtol=1e-5)


@promise("let `update` take `**extra_args`, as that of `rule_transformation` does.")
def unknown_extra_args_are_ignored(candidate: Candidate) -> None:
    """Extra arguments that are for other transformations of a chain change nothing."""
    tx, batch = candidate.made(), _problem.batch_at(candidate.batches, 0)
    plain = candidate.told(tx, tx.init(None), _squares(batch), batch.groups)
    noisy = candidate.told(tx, tx.init(None), _squares(batch), batch.groups, value=1.0, grad="?")
    candidate.expect_same(noisy, plain, "the state")


# --- Precision ------------------------------------------------------------------------------------------------------


@promise("use `examples.losses`, which are float32 at least.")
def statistics_of_half_precision_losses_are_added_up_in_full(candidate: Candidate) -> None:
    """A thousand bfloat16 losses count and add up as the same in full precision."""
    state = candidate.made().init(None)
    groups = jnp.zeros(1000, jnp.int32)
    seen = candidate.observe(state, jnp.ones(1000, jnp.bfloat16), groups)
    expected = candidate.observe(state, jnp.ones(1000), groups)
    candidate.expect_same(seen, expected, "statistics of bfloat16", rtol=1e-6)
    expect(seen.count == 1000, f"a count of {seen.count} of 1000.")


RULE_CHECKS: tuple[Check, ...] = (
    the_read_side_finds_one_state,
    a_rule_leaves_the_updates_alone,
    the_adversary_moves_or_says_that_it_has_no_memory,
    init_needs_no_parameters,
    the_state_holds_strong_arrays_of_their_own,
    a_state_survives_pickling,
    statistics_of_nothing_merge_to_no_change,
    merged_statistics_are_those_of_both,
    pooled_statistics_are_those_of_all,
    diagnostics_are_named_arrays,
    weights_are_finite_and_not_negative,
    weights_follow_the_shape_of_the_losses,
    no_gradient_flows_through_the_weights,
    a_loss_that_is_not_finite_has_no_part_and_is_counted,
    padding_has_no_part_and_is_not_counted,
    an_id_beyond_the_groups_has_no_part_and_is_counted,
    losses_above_max_loss_are_rejected,
    a_batch_that_says_nothing_moves_nothing,
    huge_finite_losses_leave_a_finite_state,
    a_step_passes_debug_nans,
    jit_equals_eager,
    constant_schedules_are_numbers,
    read_and_write_side_see_the_same_value_of_a_schedule,
    a_rule_may_stand_anywhere_in_a_chain,
    unknown_extra_args_are_ignored,
    statistics_of_half_precision_losses_are_added_up_in_full,
)
