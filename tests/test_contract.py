"""Every rule and every ready-made optimizer keeps the published contract, and goes with other packages."""

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint
import pytest
from flax import nnx, serialization

import also_optax
from also_optax._read import find_rule_state
from also_optax.testing._optimizer import OPTIMIZER_CHECKS
from also_optax.testing._rule import RULE_CHECKS
from tests import problems
from tests.rows import OPTIMIZERS, optimizers, rules


@rules
@pytest.mark.parametrize("check", RULE_CHECKS)
def test_a_rule_keeps_its_promise(row, check):
    check(row.rule)


@optimizers
@pytest.mark.parametrize("check", OPTIMIZER_CHECKS)
def test_an_optimizer_keeps_its_promise(row, check):
    check(row.optimizer)


@optimizers
def test_public_factories_can_be_injected_as_they_are(row):
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
    params, opt_state = row.optimizer.train(tx)
    expected, expected_state = row.optimizer.trained
    row.optimizer.expect_same(params, expected, "parameters", rtol=1e-5)
    rule, expected_rule = find_rule_state(opt_state), find_rule_state(expected_state)
    assert rule.step == expected_rule.step
    row.optimizer.expect_same(rule.hyperparams, expected_rule.hyperparams, "hyperparameters", rtol=1e-6)


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

    batches = row.optimizer.batches
    for t in range(len(batches.x)):
        step(model, optimizer, problems.batch_at(batches, t))
    expected, _ = row.optimizer.trained
    row.optimizer.expect_same({"w": model.w[...], "b": model.b[...]}, expected, "parameters", rtol=1e-5)
    if row.groups:
        assert also_optax.group_weights(optimizer.opt_state).shape == (problems.NUM_GROUPS,)


@optimizers
def test_checkpoints_keep_the_adversary(row, tmp_path):
    _, opt_state = row.optimizer.trained
    from_bytes = serialization.from_bytes(opt_state, serialization.to_bytes(opt_state))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", opt_state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: opt_state))
    losses, groups = jnp.array([0.5, 1.5, 3.0]), jnp.array([0, 1, 2])
    expected = also_optax.example_weights(opt_state, losses, groups)
    for state in (from_bytes, restored):
        assert (also_optax.example_weights(state, losses, groups) == expected).all()
