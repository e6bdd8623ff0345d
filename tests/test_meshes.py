"""Many devices give the answer of one, with the batch and the tables of groups split any way, by few reductions."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import also_optax
from tests import problems
from tests.rows import ALSO, OPTIMIZERS, RULES, Row, by_scores, with_sgd

STEPS, SIZE = 200, 16
NUM_TABLE_ENTRIES = 8  # every mesh divides it
WHOLE = PartitionSpec()

WHOLE_BATCH = (
    "cvar",
    "kl_cvar",
    "chi2_penalty",
    "chi2_ball",
    "spectral_risk",
    "spectral_risk_chi2",
    "spectral_risk_kl",
)
BY_PAIRS = (
    "also_lazy",
    "also_by_scores",
    "exponentiated_gradient",
    "exponentiated_gradient_lazy",
    "absgd_in_a_ball",
    *WHOLE_BATCH,
)
"""Rules of very many weights or of a whole batch, which hear of ids and losses themselves, not of sums by group."""

BY_MEANS = ("group_dro", "doremi", "tilted_groups")
"""Rules that weigh groups by their means over the batch."""

OF_EIGHT = {
    "num_groups": NUM_TABLE_ENTRIES,
    "prior": np.arange(1.0, NUM_TABLE_ENTRIES + 1),
    "group_frequencies": np.arange(12.0, 12 - NUM_TABLE_ENTRIES, -1),
}


def _rule_of_eight(**settings: Any) -> Any:
    return functools.partial(also_optax.reweight_by_also, **OF_EIGHT | settings)


def _optimizer_of_eight(**settings: Any) -> Any:
    return functools.partial(also_optax.also, 0.02, **OF_EIGHT | settings)


def _accumulated(**hyperparams: Any) -> optax.GradientTransformationExtraArgs:
    return also_optax.multi_steps(_optimizer_of_eight()(**hyperparams), 2)


TABLES = {
    "rule": Row(_rule_of_eight(), ALSO, groups=True),
    "rule_by_sums": Row(_rule_of_eight(prior=None, group_frequencies=None), ALSO, groups=True, variant=True),
    "rule_drawn_by_pi": Row(
        _rule_of_eight(group_frequencies="pi"),
        {"dual_learning_rate": 0.01, "kl_penalty": 0.5},
        groups=True,
        variant=True,
    ),
    "rule_lazy": Row(_rule_of_eight(lazy=True), ALSO, groups=True),
    "rule_in_a_ball": Row(_rule_of_eight(), {"dual_learning_rate": 0.3, "radius": 0.1}, groups=True, variant=True),
    "rule_with_adam": Row(_rule_of_eight(dual_adam=True), ALSO, groups=True, variant=True),
    "rule_above_a_floor": Row(_rule_of_eight(), ALSO | {"min_weight": 0.4}, groups=True, variant=True),
    "rule_by_scores": Row(by_scores(_rule_of_eight()), ALSO, groups=True, variant=True),
    "optimizer": Row(_optimizer_of_eight(), ALSO, groups=True),
    "optimizer_lookahead": Row(_optimizer_of_eight(lookahead=True), ALSO, groups=True),
    "multi_steps": Row(_accumulated, ALSO, groups=True),
}
KINDS = {"rules": RULES, "optimizers": OPTIMIZERS, "tables": TABLES}

pytestmark = pytest.mark.usefixtures("references_of_zero")


def nightly(left_out: bool) -> list[pytest.MarkDecorator]:
    """The mark of what is left out of the gate."""
    return [pytest.mark.slow] * left_out


axis_types = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
mostly_auto = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, pytest.param(AxisType.Explicit, marks=nightly(True))], ids=["auto", "explicit"]
)
"""Where another test meets explicit axes in the gate."""
HARD_ROWS = ("also", "also_lazy", "absgd", "group_dro", "cvar")
"""One of each kind of statistics: these meet explicit axes and an unchecked shard_map in the gate too."""


def each_row(name: str, easy: Any, hard: Any) -> Any:
    """All rows by all of two values; the gate leaves out variants, optimizers, and most rows of the `hard` value."""
    return pytest.mark.parametrize(
        ("kind", "name", name),
        [
            pytest.param(
                kind,
                row_name,
                value,
                marks=nightly(row.variant or kind == "optimizers" or (value is hard and row_name not in HARD_ROWS)),
            )
            for kind in ("rules", "optimizers")
            for row_name, row in KINDS[kind].items()
            for value in (easy, hard)
        ],
    )


some_rows = pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param("rules", "also_lookahead", marks=nightly(True)),
        ("rules", "absgd"),
        pytest.param("optimizers", "also", marks=nightly(True)),
    ],
)


def mesh_of(axis_type: AxisType, **sizes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(axis_type,) * len(sizes))


def optimizer(kind: str, name: str, **settings: Any) -> optax.GradientTransformationExtraArgs:
    row = KINDS[kind][name]
    if kind == "rules" or name.startswith("rule"):
        return with_sgd(row, **settings)
    return row.make(**row.hyperparams | settings)


def batches(num_groups: int, steps: int = STEPS) -> problems.Batch:
    """Batches sorted by group, so that no shard has them all, with padding of both kinds, alone on a shard at times."""
    rng = np.random.default_rng(7)
    frequencies = np.arange(num_groups, 0, -1.0)
    groups = np.sort(rng.choice(num_groups, p=frequencies / frequencies.sum(), size=(steps, SIZE)), axis=1)
    # Losses of about the temperatures of the rows: far above them ABSGD with momentum amplifies rounding without bound.
    x = rng.normal(size=(steps, SIZE, 3)) / 2 + groups[..., None] / num_groups
    y = x @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=(steps, SIZE)) * (0.5 + groups / num_groups) + 0.7
    where = rng.random((steps, SIZE)) < 0.8
    groups[::5, 4:8] = -1
    where[::3, :4] = False
    where[1::3, 14:] = False
    where[3:4] = False
    return problems.Batch(
        jnp.asarray(x, float), jnp.asarray(y, float), jnp.asarray(groups, jnp.int32), jnp.asarray(where)
    )


def batches_for(kind: str, steps: int = STEPS) -> problems.Batch:
    return batches(NUM_TABLE_ENTRIES if kind == "tables" else problems.NUM_GROUPS, steps)


def trained(
    tx: Any,
    stacked: problems.Batch,
    mesh: Any,
    batch_axes: Any = "data",
    groups_axis: Any = None,
    *,
    step: Any = None,
    start: Any = None,
) -> tuple[Any, Any]:
    """Parameters and state after all batches on `mesh`, whose shardings are still those of the start."""
    step = step or problems.train_step
    with jax.set_mesh(mesh):
        params = jax.device_put(problems.init_params(), NamedSharding(mesh, WHOLE))
        shardings = also_optax.state_shardings(tx, params, mesh, groups_axis=groups_axis)
        if start is None:
            start = params, jax.jit(tx.init, out_shardings=shardings)(params)
        stacked = jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(None, batch_axes)))

        def run(carry, stacked):
            return jax.lax.scan(lambda carry, batch: (step(tx, *carry, batch), None), carry, stacked)[0]

        result = jax.block_until_ready(jax.jit(run, donate_argnums=0)(start, stacked))
    assert_placed(result[1], shardings)
    return result


def assert_placed(tree: Any, shardings: Any) -> None:
    for (path, leaf), sharding in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (jax.tree_util.keystr(path), leaf.sharding)


def is_x64() -> bool:
    return jnp.result_type(float) == jnp.float64


def on_one_device(kind: str, name: str) -> Any:
    return _on_one_device(kind, name, is_x64())


@functools.cache
def _on_one_device(kind: str, name: str, x64: bool) -> Any:
    return jax.tree.map(np.asarray, problems.train(optimizer(kind, name), batches_for(kind)))


def worst_difference(actual: Any, expected: Any) -> float:
    """The largest difference of any leaf, relative to the leaf's largest entry or 1."""

    def of(actual, expected):
        actual, expected = np.asarray(actual), np.asarray(expected)
        unequal = actual != expected
        if not unequal.any():
            return 0.0
        return float(np.max(np.abs(actual - expected)[unequal]) / max(1, np.abs(expected).max()))

    return max(jax.tree.leaves(jax.tree.map(of, problems.outside(actual), problems.outside(expected))))


def tolerance(kind: str) -> float:
    """1e-10 in float64; in float32 1e-5, or what plain AdamW loses by being split where that is more."""
    return 1e-10 if is_x64() else max(1e-5, _split_error_of_adamw(kind == "tables"))


@functools.cache
def _split_error_of_adamw(tables: bool) -> float:
    tx = optax.adamw(0.02)
    stacked = batches_for("tables" if tables else "rules")
    split = trained(tx, stacked, mesh_of(AxisType.Auto, data=8), step=plain_step)
    whole = trained(tx, stacked, jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)), step=plain_step)
    return worst_difference(split, whole)


def plain_step(tx: Any, params: Any, opt_state: Any, batch: problems.Batch) -> Any:
    """A step of plain training on the masked mean."""

    def loss_fn(params):
        valid = batch.where & (batch.groups >= 0)
        losses = jnp.where(valid, problems.losses_of(params, batch), 0)
        return losses.sum() / jnp.maximum(valid.sum(), 1)

    updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def assert_the_answer_of_one(result: Any, kind: str, name: str) -> None:
    assert worst_difference(result, on_one_device(kind, name)) <= tolerance(kind)


# --- The answer of one device ----------------------------------------------------------------------------------------


def test_the_batches_are_uneven_over_the_shards():
    stacked = batches(problems.NUM_GROUPS)
    counts = (stacked.where & (stacked.groups >= 0)).reshape(STEPS, 8, -1).sum(axis=-1)
    groups = stacked.groups.reshape(STEPS, 8, -1)
    assert (counts == 0).any(axis=1).mean() > 0.5 and (counts[3] == 0).all()
    assert (jnp.diff(counts, axis=1) != 0).any(axis=1).mean() > 0.5
    for group in range(problems.NUM_GROUPS):
        assert (groups != group).all(axis=-1).any(axis=1).all()


@each_row("axis_type", AxisType.Auto, AxisType.Explicit)
def test_eight_devices_give_the_answer_of_one(kind, name, axis_type):
    result = trained(optimizer(kind, name), batches_for(kind), mesh_of(axis_type, data=8))
    assert_the_answer_of_one(result, kind, name)


@some_rows
@axis_types
@pytest.mark.parametrize("batch_axes", ["data", ("data", "model")], ids=["data", "both"])
def test_a_mesh_of_two_axes_gives_the_answer_of_one_device(kind, name, axis_type, batch_axes):
    result = trained(optimizer(kind, name), batches_for(kind), mesh_of(axis_type, data=4, model=2), batch_axes)
    assert_the_answer_of_one(result, kind, name)


@pytest.mark.parametrize("name", [pytest.param(name, marks=nightly(row.variant)) for name, row in TABLES.items()])
@axis_types
def test_tables_split_like_the_batch_give_the_answer_of_one_device(name, axis_type):
    result = trained(optimizer("tables", name), batches_for("tables"), mesh_of(axis_type, data=8), groups_axis="data")
    assert_the_answer_of_one(result, "tables", name)


@pytest.mark.parametrize("name", ["rule", "rule_in_a_ball"])
@axis_types
def test_split_tables_have_the_diagnostics_of_whole_ones(name, axis_type):
    stacked = batches(NUM_TABLE_ENTRIES, steps=4)
    tx, mesh = optimizer("tables", name), mesh_of(axis_type, data=8)
    _, opt_state = trained(tx, stacked, mesh, groups_axis="data")
    with jax.set_mesh(mesh):
        found = jax.jit(also_optax.diagnostics)(opt_state)
    _, expected_state = problems.train(tx, stacked)
    assert worst_difference(found, also_optax.diagnostics(expected_state)) <= tolerance("tables")


@mostly_auto
@pytest.mark.parametrize(
    ("batch_axes", "groups_axis"),
    [("data", "model"), ("data", ("data", "model")), (("data", "model"), "model"), ("model", "data")],
)
def test_tables_split_over_any_axes_give_the_answer_of_one_device(axis_type, batch_axes, groups_axis):
    mesh = mesh_of(axis_type, data=4, model=2)
    result = trained(optimizer("tables", "optimizer"), batches_for("tables"), mesh, batch_axes, groups_axis)
    assert_the_answer_of_one(result, "tables", "optimizer")


@pytest.mark.parametrize(
    ("kind", "name", "groups_axis"),
    [
        ("rules", "also", None),
        ("rules", "absgd", None),
        ("tables", "rule_lazy", "data"),
    ],
)
@mostly_auto
def test_in_float64_the_answers_differ_by_rounding_alone(x64, kind, name, groups_axis, axis_type):
    mesh = mesh_of(axis_type, data=8)
    result = trained(optimizer(kind, name), batches_for(kind), mesh, groups_axis=groups_axis)
    assert worst_difference(result, on_one_device(kind, name)) <= 1e-10


@pytest.mark.parametrize("lookahead", [False, True])
def test_parameters_split_over_the_model_axis_keep_their_moments_beside_them(lookahead):
    mesh = mesh_of(AxisType.Auto, data=4, model=2)
    stacked = batches_for("tables")
    stacked = stacked._replace(x=jnp.concatenate([stacked.x, stacked.x[..., :1] ** 2], axis=-1))
    tx = _optimizer_of_eight(lookahead=lookahead)(**ALSO)
    params = {"w": jnp.array([0.3, -0.1, 0.2, 0.0], float), "b": jnp.array(0.1, float)}
    expected = problems.train(tx, stacked, params)
    placement = {"w": NamedSharding(mesh, PartitionSpec("model")), "b": NamedSharding(mesh, WHOLE)}
    params = jax.device_put(params, placement)
    shardings = also_optax.state_shardings(tx, params, mesh, groups_axis="data")
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    stacked = jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(None, "data")))

    def run(carry, stacked):
        return jax.lax.scan(lambda carry, batch: (problems.train_step(tx, *carry, batch), None), carry, stacked)[0]

    result = jax.block_until_ready(jax.jit(run, donate_argnums=0)((params, opt_state), stacked))
    assert_placed(result, (placement, shardings))
    moments = [node for node in jax.tree.leaves(shardings) if node.spec == PartitionSpec("model")]
    assert len(moments) == 3  # mu, nu, and the previous gradient or the look-ahead
    assert worst_difference(result, expected) <= tolerance("tables")


# --- shard_map -------------------------------------------------------------------------------------------------------


def sharded_step(mesh: Any, axes: Any, check_vma: bool) -> Any:
    """A step inside `shard_map` over `axes`, to stand for :func:`problems.train_step`."""

    def train_step(tx, params, opt_state, batch):
        def step(params, opt_state, batch):
            (_, rw), grads = problems.loss_and_grads(
                params, opt_state, batch, groups=batch.groups, where=batch.where, axis_name=axes
            )
            if not check_vma:
                grads = jax.lax.psum(grads, axes)
            updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
            return optax.apply_updates(params, updates), opt_state

        split = PartitionSpec(axes)
        return jax.shard_map(
            step, mesh=mesh, in_specs=(WHOLE, WHOLE, split), out_specs=(WHOLE, WHOLE), check_vma=check_vma
        )(params, opt_state, batch)

    return train_step


@each_row("check_vma", True, False)
def test_shards_of_a_shard_map_give_the_answer_of_one(kind, name, check_vma):
    mesh = mesh_of(AxisType.Auto, data=8)
    tx = optimizer(kind, name, axis_name="data")
    result = trained(tx, batches_for(kind), mesh, step=sharded_step(mesh, "data", check_vma))
    assert_the_answer_of_one(result, kind, name)


@some_rows
@axis_types
def test_shards_over_two_axes_of_a_shard_map_give_the_answer_of_one(kind, name, axis_type):
    mesh, axes = mesh_of(axis_type, data=4, model=2), ("data", "model")
    tx = optimizer(kind, name, axis_name=axes)
    result = trained(tx, batches_for(kind), mesh, axes, step=sharded_step(mesh, axes, check_vma=True))
    assert_the_answer_of_one(result, kind, name)


def test_an_axis_that_is_not_mapped_is_named():
    mesh = mesh_of(AxisType.Auto, data=8)
    batch = problems.batch_at(batches_for("rules", steps=1), 0)
    for name in ("also", "absgd", "rgd"):
        state = RULES[name].make(**RULES[name].hyperparams).init(None)
        for axes in ("modle", ("data", "modle")):
            tx = RULES[name].make(**RULES[name].hyperparams, axis_name=axes)

            def read(batch, state=state, axes=axes):
                return also_optax.reweight(state, batch.y**2, batch.groups, axis_name=axes)[0]

            def write(batch, state=state, tx=tx):
                return tx.update(None, state, losses=batch.y**2, groups=batch.groups)[1].step

            for fn in (read, write):
                with pytest.raises(
                    ValueError, match=r"'modle' is not a mapped axis here: name the axes of .*shard_map"
                ):
                    jax.eval_shape(jax.shard_map(fn, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=WHOLE), batch)
                with pytest.raises(ValueError, match=r"or leave it out under `jax\.jit` alone"):
                    jax.eval_shape(fn, batch)


def test_multi_steps_names_an_axis_that_is_not_mapped():
    tx = also_optax.multi_steps(also_optax.rgd(0.1), 2, axis_name="data")
    with pytest.raises(ValueError, match="'data' is not a mapped axis here"):
        tx.update(jnp.zeros(3), tx.init(jnp.zeros(3)), jnp.zeros(3), losses=jnp.ones(2))


# --- Compilation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "groups_axis"),
    [
        ("optimizers", "also", None),
        ("optimizers", "absgd", None),
        ("tables", "optimizer", "data"),
        ("tables", "multi_steps", "data"),
    ],
)
@axis_types
@pytest.mark.parametrize("in_context", [True, False], ids=["set_mesh", "no_context"])
def test_one_compilation_and_a_stable_state_under_donation(kind, name, groups_axis, axis_type, in_context):
    assert_one_compilation(kind, name, groups_axis, axis_type, in_context)


@axis_types
def test_one_compilation_of_many_weights_with_the_mesh_in_context(axis_type):
    """Which tells the compiler where the histogram lives."""
    assert_one_compilation("tables", "rule_lazy", "data", axis_type, in_context=True)


def assert_one_compilation(kind: str, name: str, groups_axis: Any, axis_type: AxisType, in_context: bool) -> None:
    tx, mesh, traces = optimizer(kind, name), mesh_of(axis_type, data=8), []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state, batch):
        traces.append(1)
        return problems.train_step(tx, params, opt_state, batch)

    def run():
        params = jax.device_put(problems.init_params(), NamedSharding(mesh, WHOLE))
        shardings = also_optax.state_shardings(tx, params, mesh, groups_axis=groups_axis)
        opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
        stacked = jax.device_put(batches_for(kind, steps=4), NamedSharding(mesh, PartitionSpec(None, "data")))
        avals = jax.tree.map(jax.typeof, opt_state)
        for t in range(4):
            batch = jax.tree.map(lambda leaf, t=t: leaf[t], stacked)
            params, opt_state = jax.block_until_ready(step(params, opt_state, batch))
            assert jax.tree.map(jax.typeof, opt_state) == avals
            assert_placed(opt_state, shardings)

    if in_context:
        with jax.set_mesh(mesh):
            run()
    else:
        run()
    assert len(traces) == 1


COLLECTIVE = re.compile(
    r" = (?P<shape>.*?) (?P<op>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)


def collectives(tx: Any, step: Any, stacked: problems.Batch, groups_axis: Any = None) -> list[tuple[str, list[int]]]:
    """The collectives of a compiled step over eight devices, each with the sizes of what it sends; a tuple is one."""
    return collectives_in(compiled_step(tx, step, stacked, groups_axis))


def compiled_step(tx: Any, step: Any, stacked: problems.Batch, groups_axis: Any = None) -> str:
    """What a step over eight devices is compiled to, with donation."""
    mesh = mesh_of(AxisType.Auto, data=8)
    params = jax.device_put(problems.init_params(), NamedSharding(mesh, WHOLE))
    shardings = also_optax.state_shardings(tx, params, mesh, groups_axis=groups_axis)
    opt_state = jax.jit(tx.init, out_shardings=shardings)(params)
    batch = jax.device_put(problems.batch_at(stacked, 0), NamedSharding(mesh, PartitionSpec("data")))
    step = jax.jit(functools.partial(step, tx), donate_argnums=(0, 1))
    return step.lower(params, opt_state, batch).compile().as_text()


def collectives_in(text: str) -> list[tuple[str, list[int]]]:
    """Those of a compiled step, each with the sizes of what it sends."""
    found = []
    for match in map(COLLECTIVE.search, text.splitlines()):
        if match:
            dimensions = re.findall(r"\w+\[([\d,]*)\]", match["shape"])
            found.append((match["op"], [int(np.prod([int(d) for d in dims.split(",") if d])) for dims in dimensions]))
    return found


@pytest.mark.parametrize("name", [name for name in RULES if name not in BY_PAIRS])
def test_a_rule_reduces_as_often_as_adamw_with_a_masked_mean(name):
    """Those that normalise over the batch wait for its peak first: once more, and for scalars only.

    Those that weigh by group means wait for the sums by group, together with the counts that all others wait for.
    """
    stacked = batches_for("rules", steps=1)
    plain = collectives(optax.adamw(0.02), plain_step, stacked)
    row = RULES[name]
    tx = optax.chain(row.make(**row.hyperparams), optax.adamw(0.02))
    found = collectives(tx, problems.train_step, stacked)
    assert {op for op, _ in found} == {op for op, _ in plain} == {"all-reduce"}
    assert len(found) <= len(plain) + (name.startswith("absgd") or name == "tilted"), found
    large = [sizes for _, sizes in found if max(sizes) > 2]  # two: how many count, and how many are rejected
    assert len(large) == 1 + (name in BY_MEANS)  # the gradients, and the sums by group beside them or before
    assert all(sum(sizes) <= 4 + 1 + 2 * problems.NUM_GROUPS + 3 for sizes in large), large


@pytest.mark.parametrize("groups_axis", [None, "data"])
@pytest.mark.parametrize("optimism", [0, 1.0])
@pytest.mark.parametrize("lazy", [True, pytest.param(False, marks=nightly(True))])
def test_of_many_weights_only_pairs_are_sent_and_no_table_is_copied(lazy, optimism, groups_axis):
    """To a whole table, as many reductions as AdamW's and a gathering of ids and losses; to a split one a few more."""
    num_groups, stacked = 150_000, batches_for("rules", steps=1)
    tx = also_optax.also(0.02, num_groups, lazy=lazy, optimism=optimism, average_decay=None)
    with jax.set_mesh(mesh_of(AxisType.Auto, data=8)):
        text = compiled_step(tx, problems.train_step, stacked, groups_axis)
    found = collectives_in(text)
    sizes = [size for _, sizes in found for size in sizes]
    of_bins = 4 * 2048  # where a histogram is made again, of a split table
    assert max(sizes) <= (SIZE if groups_axis is None else of_bins), found
    if groups_axis is None:
        plain = collectives(optax.adamw(0.02), plain_step, stacked)
        assert sum(op == "all-reduce" for op, _ in found) <= len(plain), found
        assert sum(op == "all-gather" for op, _ in found) <= 3, found
    local = num_groups if groups_axis is None else num_groups // 8
    assert not re.findall(rf"= [fs]\d+\[{local}\]\S* copy\(", text)


def test_split_tables_are_never_gathered():
    num_groups = 4096
    tx = also_optax.also(0.02, num_groups, prior=np.arange(1.0, num_groups + 1))
    found = collectives(tx, problems.train_step, batches_for("rules", steps=1), groups_axis="data")
    assert max(size for _, sizes in found for size in sizes) <= 4 * SIZE, found


def test_split_tables_are_never_gathered_on_an_explicit_mesh():
    num_groups, mesh = 4096, mesh_of(AxisType.Explicit, data=8)
    tx = also_optax.reweight_by_also(num_groups, prior=np.arange(1.0, num_groups + 1))
    state = jax.jit(tx.init, out_shardings=also_optax.state_shardings(tx, None, mesh, groups_axis="data"))(None)
    batch = jax.device_put(
        problems.batch_at(batches_for("rules", steps=1), 0), NamedSharding(mesh, PartitionSpec("data"))
    )
    step = jax.jit(lambda state, batch: tx.update(None, state, losses=batch.y**2, groups=batch.groups)[1])
    text = step.lower(state, batch).compile().as_text()
    sent = [match["shape"] for match in map(COLLECTIVE.search, text.splitlines()) if match]
    assert sent and all(str(num_groups) not in shape for shape in sent), sent


@pytest.mark.parametrize("name", ("cvar", "chi2_ball", "spectral_risk_kl"))
def test_a_rule_of_a_whole_batch_gathers_the_losses_and_searches_them_on_every_device(name):
    stacked = batches_for("rules", steps=1)
    plain = collectives(optax.adamw(0.02), plain_step, stacked)
    row = RULES[name]
    tx = optax.chain(row.make(**row.hyperparams), optax.adamw(0.02))
    with jax.set_mesh(mesh_of(AxisType.Auto, data=8)):
        found = collectives(tx, problems.train_step, stacked)
    assert sum(op == "all-reduce" for op, _ in found) <= len(plain), found
    assert max(size for _, sizes in found for size in sizes) <= SIZE, found
