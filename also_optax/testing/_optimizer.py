"""What an optimizer with a rule inside promises: under JAX's transformations, and inside optax's wrappers."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from also_optax._optimism import eval_params
from also_optax._read import find_rule_state
from also_optax.testing import _problem
from also_optax.testing._candidate import STEPS, Candidate, Check, expect, expect_finite, promise

MULTIPLES = (1.0, 0.8, 0.5)


@promise("keep all that the adversary knows in the rule's state, where `optax.apply_if_finite` can keep it back.")
def apply_if_finite_keeps_parameters_and_adversary(candidate: Candidate) -> None:
    """A batch whose gradient is not finite moves neither; the next one moves both, to finite numbers."""
    tx = optax.apply_if_finite(candidate.optimizer(), 3)
    params = _problem.init_params()
    opt_state = tx.init(params)
    step = jax.jit(functools.partial(candidate.train_step, tx))
    params, opt_state = step(params, opt_state, _problem.batch_at(candidate.batches, 0))
    poison = _problem.batch_at(candidate.batches, 1)
    poison = poison._replace(x=poison.x.at[0, 0].set(jnp.inf), where=jnp.ones_like(poison.where))
    frozen, frozen_state = step(params, opt_state, poison)
    candidate.expect_same(frozen, params, "parameters after the batch")
    kept, before = (find_rule_state(state) for state in (frozen_state, opt_state))
    candidate.expect_same(kept, before, "the state after the batch")
    params, opt_state = step(frozen, frozen_state, _problem.batch_at(candidate.batches, 2))
    expect_finite({"params": params, "state": opt_state}, "after the next batch, ")
    expect(not np.allclose(params["w"], frozen["w"]), f"parameters {params} that the next batch did not move.")


@promise("let `advance` return leaves of the shapes and dtypes that `init` made, none of them weakly typed.")
def one_compilation_and_a_stable_state_under_donation(candidate: Candidate) -> None:
    """Steps are compiled once, with donated states whose shapes and dtypes never change."""
    tx, traces = candidate.optimizer(), []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, opt_state: Any, batch: Any) -> Any:
        traces.append(1)
        return candidate.train_step(tx, params, opt_state, batch)

    params = _problem.init_params()
    opt_state = jax.jit(tx.init)(params)
    before = jax.tree.map(jax.typeof, opt_state)
    for t in range(STEPS):
        params, opt_state = step(params, opt_state, _problem.batch_at(candidate.batches, t))
        after = jax.tree.map(jax.typeof, opt_state)
        expect(after == before, f"a state of {after} and not of {before}.")
    expect(len(traces) == 1, f"{len(traces)} compilations.")
    candidate.expect_same((params, opt_state), candidate.trained, "parameters and state", rtol=1e-5)


@promise("look at hyperparameters in Python only where they are Python's: `also_optax.base.check_scalar` does.")
def a_grid_of_hyperparameters_trains_under_one_vmap(candidate: Candidate) -> None:
    """Hyperparameters may be traced: each point of a grid trains as it does alone."""
    grid = {name: value * jnp.array(MULTIPLES) for name, value in candidate.hyperparams.items()}
    if not grid:
        return
    together = jax.vmap(lambda point: candidate.train(candidate.optimizer(**point)))(grid)
    for i in range(len(MULTIPLES)):
        alone = candidate.train(candidate.optimizer(**{name: float(values[i]) for name, values in grid.items()}))
        of_grid = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        candidate.expect_same(of_grid, alone, f"parameters and state, of {MULTIPLES[i]} times all", rtol=2e-5)


@promise("hand hyperparameters to `rule_transformation` as they came, and read them from the state.")
def inject_hyperparams_changes_nothing(candidate: Candidate) -> None:
    """`optax.inject_hyperparams` of the factory is the factory, with hyperparameters that can be set later."""
    if not candidate.hyperparams:
        return

    def factory(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
        return candidate.optimizer(**hyperparams)

    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in candidate.hyperparams]
    vars(factory)["__signature__"] = inspect.Signature(parameters)
    params, opt_state = candidate.train(optax.inject_hyperparams(factory)(**candidate.hyperparams))
    expected_params, expected_state = candidate.trained
    candidate.expect_same(params, expected_params, "parameters", rtol=1e-5)
    rule, expected = find_rule_state(opt_state), find_rule_state(expected_state)
    candidate.expect_same(rule.step, expected.step, "`step`")
    candidate.expect_same(rule.hyperparams, expected.hyperparams, "`hyperparams`", rtol=1e-6)


@promise("keep the state a NamedTuple of arrays of fixed shapes; wrappers copy, choose and nest it.")
def wrappers_of_optax_keep_the_adversary(candidate: Candidate) -> None:
    """Masked, partitioned, kept back or accumulated over one step, the adversary is the same."""
    expected_params, expected_state = candidate.trained
    expected = find_rule_state(expected_state)
    expected_point = eval_params(expected_state, expected_params)
    plain = candidate.optimizer()
    of_one_step = optax.MultiSteps(plain, 1)
    for wrapper, tx in {
        "optax.masked": optax.masked(plain, {"w": True, "b": True}),
        "optax.apply_if_finite": optax.apply_if_finite(plain, 2),
        "optax.partition": optax.partition({"all": plain}, {"w": "all", "b": "all"}),
        "optax.MultiSteps": optax.GradientTransformationExtraArgs(of_one_step.init, of_one_step.update),
    }.items():
        params, opt_state = candidate.train(tx)
        candidate.expect_same(find_rule_state(opt_state), expected, f"the state in {wrapper}", rtol=1e-5)
        candidate.expect_same(eval_params(opt_state, params), expected_point, f"parameters by {wrapper}", rtol=1e-5)


@promise("move by `losses` and `groups` alone, and not by updates or parameters.")
def schedule_free_trains(candidate: Candidate) -> None:
    """`optax.contrib.schedule_free` trains with it, and its averages are finite."""
    tx = optax.contrib.schedule_free(candidate.optimizer(), 0.02)
    params, opt_state = candidate.train(tx)
    step = find_rule_state(opt_state).step
    expect(step == STEPS, f"`step` is {step} after {STEPS} batches.")
    averages = optax.contrib.schedule_free_eval_params(opt_state, params)
    expect_finite({"params": params, "averages": averages}, "")


@promise("make the state in `init` of nothing but the hyperparameters: what is like `params` is taken for moments.")
def tree_map_params_reaches_the_moments_and_not_the_adversary(candidate: Candidate) -> None:
    """`optax.tree_map_params`, by which states are sharded, leaves the rule's state alone."""
    tx = candidate.optimizer()
    opt_state = tx.init(_problem.init_params())
    marked = optax.tree_map_params(tx, lambda leaf: leaf + 1, opt_state)
    candidate.expect_same(find_rule_state(marked), find_rule_state(opt_state), "the state")


@promise("give the state's arrays their dtype in `init`, and let losses and parameters have none of it.")
def half_precision_parameters_keep_their_dtype_and_the_adversary_its_own(candidate: Candidate) -> None:
    """Parameters in bfloat16 or float16 stay so; the state is in full precision, and near that of full training."""
    own = {jnp.dtype(jnp.int32), jnp.dtype(jnp.result_type(float))}
    full = find_rule_state(candidate.trained[1])
    for dtype in (jnp.bfloat16, jnp.float16):
        params, opt_state = candidate.train(candidate.optimizer(), params=_problem.init_params(dtype))
        found = {leaf.dtype for leaf in jax.tree.leaves(params)}
        expect(found == {jnp.dtype(dtype)}, f"parameters of {found}, which were {jnp.dtype(dtype)}.")
        state = find_rule_state(opt_state)
        found = {leaf.dtype for leaf in jax.tree.leaves(state)}
        expect(found <= own, f"a state of {found} with parameters of {jnp.dtype(dtype)}.")
        if hasattr(state, "group_weights"):
            pi, full_pi = state.group_weights(), full.group_weights()
            expect(np.allclose(pi, full_pi, atol=0.05), f"weights of groups {pi}, in full precision {full_pi}.")


OPTIMIZER_CHECKS: tuple[Check, ...] = (
    apply_if_finite_keeps_parameters_and_adversary,
    one_compilation_and_a_stable_state_under_donation,
    a_grid_of_hyperparameters_trains_under_one_vmap,
    inject_hyperparams_changes_nothing,
    wrappers_of_optax_keep_the_adversary,
    schedule_free_trains,
    tree_map_params_reaches_the_moments_and_not_the_adversary,
    half_precision_parameters_keep_their_dtype_and_the_adversary_its_own,
)
