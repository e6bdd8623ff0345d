"""The published contract catches rules that are wrong, each by the check that is named for it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import also_optax
from also_optax import base, testing
from also_optax.testing._optimizer import OPTIMIZER_CHECKS
from also_optax.testing._rule import RULE_CHECKS

NUM_GROUPS = 3


class Hyperparams(NamedTuple):
    temperature: Any
    max_loss: Any


class Sound(NamedTuple):
    """Groups weighed by a softmax of their average losses; nothing is wrong with it."""

    step: jax.Array
    rejected: jax.Array
    hyperparams: Hyperparams
    averages: jax.Array

    @property
    def num_groups(self):
        return self.averages.shape[0]

    def observe(self, examples):
        return base.sums_of(examples, self.num_groups)

    def advance(self, statistics):
        means, present = base.means_of(statistics)
        return self._replace(averages=jnp.where(present, 0.5 * (self.averages + means), self.averages))

    def weigh(self, statistics, examples):
        return base.at_examples(self.num_groups * self.group_weights(), examples)

    def group_weights(self):
        return jax.nn.softmax(base.saturated(self.averages / self.hyperparams.temperature))

    def diagnostics(self):
        return {"rejected": self.rejected}


def make(state_type=Sound, *, zeros=jnp.zeros, temperature=4.0, max_loss=jnp.inf):
    def init(hyperparams, step):
        return state_type(step, jnp.zeros([], jnp.int32), hyperparams, zeros(NUM_GROUPS))

    return base.rule_transformation("reweight_by_sound", init, Hyperparams(temperature, max_loss))


# --- What is wrong with each ------------------------------------------------------------------------------------------


class WithoutDiagnostics(NamedTuple):
    step: jax.Array
    rejected: jax.Array
    hyperparams: Hyperparams
    averages: jax.Array

    num_groups, observe, advance, weigh = Sound.num_groups, Sound.observe, Sound.advance, Sound.weigh


class CountsPadding(Sound):
    def observe(self, examples):
        return super().observe(examples)._replace(count=jnp.array(examples.losses.size, examples.losses.dtype))


class CountsTwice(Sound):
    def observe(self, examples):
        sums = super().observe(examples)
        return sums._replace(count=2 * sums.count)


class Means(base.Sums):
    """Means where sums should be: merged, they are means of means."""

    def merge(self, other):
        return jax.tree.map(jnp.add, self, other)._replace(losses=(self.losses + other.losses) / 2)


class MergesMeans(Sound):
    def observe(self, examples):
        return Means(*super().observe(examples))


class NeverNothing(Sound):
    def observe(self, examples):
        sums = super().observe(examples)
        return sums._replace(losses=jnp.maximum(sums.losses, 1e-3))


class PooledByMean(base.Sums):
    def pool(self, axis_name):
        return jax.lax.pmean(self, axis_name)


class PoolsByMean(Sound):
    def observe(self, examples):
        return PooledByMean(*super().observe(examples))


class MovesOnNothing(Sound):
    keeps_still = True

    def advance(self, statistics, upcoming=None):
        means, _ = base.means_of(statistics)
        return self._replace(averages=0.5 * (self.averages + means))


class DividesByLosses(Sound):
    def observe(self, examples):
        return super().observe(examples._replace(losses=1 / examples.losses))


class ExponentiatesLosses(Sound):
    def observe(self, examples):
        return super().observe(examples._replace(losses=jnp.where(examples.valid, jnp.exp(examples.losses), 0)))


class LooksAtValues(Sound):
    def advance(self, statistics):
        return super().advance(statistics) if statistics.losses.sum() > 1 else self


class ForgetsAll(Sound):
    def advance(self, statistics):
        return self


class WeighsBelowNothing(Sound):
    def weigh(self, statistics, examples):
        return super().weigh(statistics, examples) - 0.5


class WeighsRows(Sound):
    def weigh(self, statistics, examples):
        return jnp.ones(examples.groups.shape)


class LosesPrecision(Sound):
    keeps_still = True

    def advance(self, statistics, upcoming=None):
        moved = super().advance(statistics)
        return moved._replace(averages=moved.averages.astype(jnp.float16))


class RejectsPadding(Sound):
    def observe(self, examples):
        return super().observe(examples)._replace(rejected=jnp.sum(~examples.valid, dtype=examples.losses.dtype))


class RejectsNothing(Sound):
    def observe(self, examples):
        sums = super().observe(examples)
        return sums._replace(rejected=0 * sums.rejected)


class MakesNans(Sound):
    def advance(self, statistics):
        means = statistics.losses / statistics.sizes
        return self._replace(averages=jnp.where(statistics.sizes > 0, 0.5 * (self.averages + means), self.averages))


class SaysTooMuch(Sound):
    def diagnostics(self):
        return {"rejected": self.rejected, "largest": jnp.log(self.averages[0] - self.averages[0])}


def weak_zeros(size):
    return jnp.broadcast_to(jnp.asarray(0.0), (size,))


def half_zeros(size):
    return jnp.zeros(size, jnp.float16)


def with_one_zero_for_two(temperature=4.0, max_loss=jnp.inf):
    def init(hyperparams, step):
        return Sound(step, step, hyperparams, jnp.zeros(NUM_GROUPS))

    return base.rule_transformation("reweight_by_sound", init, Hyperparams(temperature, max_loss))


def that_is_local(**hyperparams):
    class Local(Sound):
        pass

    return make(Local, **hyperparams)


def of_parameters(**hyperparams):
    rule = make(**hyperparams)

    def init(params):
        return rule.init(params)._replace(averages=jnp.zeros(NUM_GROUPS) * params["b"])

    return optax.GradientTransformationExtraArgs(init, rule.update)


def with_other_updates(**hyperparams):
    rule = make(**hyperparams)

    def update(updates, state, params=None, **extra_args):
        _, state = rule.update(updates, state, params, **extra_args)
        return jax.tree.map(lambda leaf: 2 * leaf, updates), state

    return optax.GradientTransformationExtraArgs(rule.init, update)


def with_no_other_extra_args(**hyperparams):
    rule = make(**hyperparams)

    def update(updates, state, params=None, *, losses, groups=None, where=None, reference_losses=None):
        return rule.update(updates, state, params, losses=losses, groups=groups, where=where)

    return optax.GradientTransformationExtraArgs(rule.init, update)


def that_moves_by_updates(**hyperparams):
    rule = make(**hyperparams)

    def update(updates, state, params=None, *, losses, **extra_args):
        by = 0.0 if updates is None else optax.global_norm(updates)
        return rule.update(updates, state, params, losses=losses + by, **extra_args)

    return optax.GradientTransformationExtraArgs(rule.init, update)


def that_needs_numbers(temperature=4.0, **hyperparams):
    return make(temperature=4.0 if callable(temperature) else float(temperature), **hyperparams)


def that_knows_no_schedules(temperature=4.0, **hyperparams):
    return make(temperature=jnp.float32(temperature), **hyperparams)


def that_reads_the_first_value(temperature=4.0, **hyperparams):
    return make(temperature=temperature(0) if callable(temperature) else temperature, **hyperparams)


def without_max_loss(temperature=4.0, max_loss=jnp.inf):
    return make(temperature=temperature)


BROKEN = {
    "the_read_side_finds_one_state": functools.partial(make, WithoutDiagnostics),
    "a_rule_leaves_the_updates_alone": with_other_updates,
    "the_adversary_moves_or_says_that_it_has_no_memory": functools.partial(make, ForgetsAll),
    "init_needs_no_parameters": of_parameters,
    "the_state_holds_strong_arrays_of_their_own": functools.partial(make, zeros=weak_zeros),
    "the_state_holds_strong_arrays_of_their_own, 2": functools.partial(make, zeros=half_zeros),
    "the_state_holds_strong_arrays_of_their_own, 3": with_one_zero_for_two,
    "a_state_survives_pickling": that_is_local,
    "statistics_of_nothing_merge_to_no_change": functools.partial(make, NeverNothing),
    "merged_statistics_are_those_of_both": functools.partial(make, MergesMeans),
    "pooled_statistics_are_those_of_all": functools.partial(make, PoolsByMean),
    "diagnostics_are_named_arrays": functools.partial(make, SaysTooMuch),
    "weights_are_finite_and_not_negative": functools.partial(make, WeighsBelowNothing),
    "weights_follow_the_shape_of_the_losses": functools.partial(make, WeighsRows),
    "no_gradient_flows_through_the_weights": functools.partial(make, CountsTwice),
    "a_loss_that_is_not_finite_has_no_part_and_is_counted": functools.partial(make, DividesByLosses),
    "padding_has_no_part_and_is_not_counted": functools.partial(make, RejectsPadding),
    "an_id_beyond_the_groups_has_no_part_and_is_counted": functools.partial(make, RejectsNothing),
    "losses_above_max_loss_are_rejected": without_max_loss,
    "a_batch_that_says_nothing_moves_nothing": functools.partial(make, MovesOnNothing),
    "a_batch_that_says_nothing_moves_nothing, 2": functools.partial(make, CountsPadding),
    "huge_finite_losses_leave_a_finite_state": functools.partial(make, ExponentiatesLosses),
    "a_step_passes_debug_nans": functools.partial(make, MakesNans),
    "jit_equals_eager": functools.partial(make, LooksAtValues),
    "constant_schedules_are_numbers": that_knows_no_schedules,
    "read_and_write_side_see_the_same_value_of_a_schedule": that_reads_the_first_value,
    "a_rule_may_stand_anywhere_in_a_chain": that_moves_by_updates,
    "unknown_extra_args_are_ignored": with_no_other_extra_args,
    "one_compilation_and_a_stable_state_under_donation": functools.partial(make, LosesPrecision),
    "a_grid_of_hyperparameters_trains_under_one_vmap": that_needs_numbers,
    "inject_hyperparams_changes_nothing": that_needs_numbers,
}


def check_named(name, rule):
    (check,) = (check for check in testing.rule_checks(rule, temperature=4.0) if check.__name__ == name)
    return check


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_promise_is_named_with_what_was_seen_and_what_to_do(case):
    name = case.partition(",")[0]
    with pytest.raises(AssertionError, match=rf"(?s)`{name}`: .+\n  seen: .+\n  to do: .+\."):
        check_named(name, BROKEN[case])()


@pytest.mark.parametrize("name", sorted({case.partition(",")[0] for case in BROKEN}))
def test_a_sound_rule_keeps_the_same_promises(name):
    check_named(name, make)()


def test_one_line_tells_of_all_that_is_broken():
    with pytest.MonkeyPatch.context() as patch:
        by_name = {check.__name__: check for check in RULE_CHECKS}
        chosen = ("a_rule_leaves_the_updates_alone", "init_needs_no_parameters", "losses_above_max_loss_are_rejected")
        patch.setattr(testing, "RULE_CHECKS", tuple(by_name[name] for name in chosen))
        patch.setattr(testing, "OPTIMIZER_CHECKS", ())
        with pytest.raises(AssertionError, match=r"(?s)1 broken promises:\n`losses_above_max_loss"):
            testing.check_rule(without_max_loss, temperature=4.0)
        testing.check_rule(also_optax.reweight_by_rgd, memory=False, clip=1.0)


def test_every_check_is_a_promise_in_words():
    checks = (*RULE_CHECKS, *OPTIMIZER_CHECKS)
    assert len({check.__name__ for check in checks}) == len(checks)
    assert all(check.__doc__ and check.__doc__.endswith(".") for check in checks)
