"""Every page of docs/integrations runs as it stands, and what it says holds."""

import contextlib
import functools
import importlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

import also_optax
from also_optax.integrations.flax import TrainState
from tests import pages

PAGES = pages.ROOT / "docs" / "integrations"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Runs a page, once, in a directory of its own, where it may write."""

    @functools.cache
    def run(name):
        directory = tmp_path_factory.mktemp(name)
        with contextlib.chdir(directory):
            return pages.run(PAGES / f"{name}.md") | {"directory_of_page": directory}

    return run


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_close(actual, expected, tolerance=1e-6):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance), actual, expected)


def plain_loop(tx, params, losses_of, group, steps=50):
    """What every library's loop is to equal."""

    @jax.jit
    def train_step(params, opt_state):
        def loss_fn(params):
            return also_optax.reweight(opt_state, losses_of(params), group)

        (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for _ in range(steps):
        params, opt_state = train_step(params, opt_state)
    return params, opt_state


def test_every_page_is_listed_and_every_link_leads_somewhere():
    index = (PAGES / "index.md").read_text()
    for path in PAGES.glob("*.md"):
        assert path.stem == "index" or f"({path.name})" in index, path.name
        pages.assert_links_lead_somewhere(path)


# --- Training loops ---------------------------------------------------------------------------------------------------


def test_a_linen_train_state_is_the_plain_loop_to_the_bit(page):
    found = page("flax_linen")
    network, x, y = found["network"], found["x"], found["y"]
    params, opt_state = plain_loop(
        found["tx"],
        network.init(jax.random.key(1), x)["params"],
        lambda params: optax.sigmoid_binary_cross_entropy(network.apply({"params": params}, x), y),
        found["group"],
    )
    state = found["state"]
    assert_equal((state.params, state.opt_state), (params, opt_state))
    assert int(state.step) == 50 and state.tx is found["tx"]
    assert jnp.abs(also_optax.group_weights(opt_state) - 0.5).max() > 0.05
    normalised = found["normalised_state"]
    assert int(normalised.step) == 5 and jnp.abs(normalised.batch_stats["BatchNorm_0"]["mean"]).max() > 1e-3


def _linear_state(tx, params=None):
    params = {"w": jnp.array([1.0, -2.0])} if params is None else params
    return TrainState.create(apply_fn=lambda variables, x: x @ variables["params"]["w"], params=params, tx=tx)


GRADS = {"w": jnp.array([0.5, 1.0])}


def test_a_linen_train_state_of_a_plain_optimizer_is_that_of_flax():
    ours = _linear_state(optax.adam(0.1))
    theirs = train_state.TrainState.create(apply_fn=ours.apply_fn, params=ours.params, tx=ours.tx)
    for extra_args in (None, {}, {"losses": jnp.ones(3), "value": 1.0}):  # it takes none, and is told none
        ours, theirs = ours.apply_gradients(grads=GRADS, extra_args=extra_args), theirs.apply_gradients(grads=GRADS)
        assert_equal((ours.step, ours.params, ours.opt_state), (theirs.step, theirs.params, theirs.opt_state))


def test_a_linen_train_state_overwrites_with_gradients_what_flax_does():
    params = {"params": {"w": jnp.array([1.0, -2.0])}, OVERWRITE_WITH_GRADIENT: {"scale": jnp.array(3.0)}}
    state = _linear_state(also_optax.rgd(0.1), params)
    grads = {"params": GRADS, OVERWRITE_WITH_GRADIENT: {"scale": jnp.array(7.0)}}
    state = state.apply_gradients(grads=grads, extra_args={"losses": jnp.ones(3)})
    assert state.params[OVERWRITE_WITH_GRADIENT]["scale"] == 7
    assert_close(state.params["params"]["w"], jnp.array([0.9, -2.1]))
    assert int(state.opt_state[0].step) == 1


def test_a_linen_train_state_says_what_the_rule_misses_and_replaces_fields():
    state = _linear_state(also_optax.rgd(0.1))
    with pytest.raises(TypeError, match=r"`reweight_by_rgd` needs the batch's `losses`.*rw\.extra_args"):
        state.apply_gradients(grads=GRADS)
    other = optax.sgd(1.0)
    assert state.apply_gradients(grads=GRADS, extra_args={"losses": jnp.ones(3)}, tx=other).tx is other


def test_without_flax_its_module_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax.training", None)
    monkeypatch.delitem(sys.modules, "also_optax.integrations.flax")
    with pytest.raises(ImportError, match="needs Flax: `pip install flax`"):
        importlib.import_module("also_optax.integrations.flax")


def test_importing_the_package_imports_no_other_library():
    others = {"flax", "equinox", "orbax", "grain", "tensorboardX"}
    code = "import also_optax.integrations, sys; print(*(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not others & set(done.stdout.split())


def test_nnx_is_the_plain_loop(page):
    from flax import nnx

    found = page("flax_nnx")
    graph, start = nnx.split(found["Network"](nnx.Rngs(0)))
    x, y = found["x"], found["y"]
    params, opt_state = plain_loop(
        found["tx"],
        nnx.to_pure_dict(start),
        lambda params: optax.sigmoid_binary_cross_entropy(nnx.merge(graph, nnx.State(params))(x), y),
        found["group"],
    )
    assert_close(nnx.to_pure_dict(nnx.state(found["model"])), params)
    assert_close(also_optax.group_weights(found["optimizer"].opt_state), also_optax.group_weights(opt_state))


def test_equinox_is_the_plain_loop(page):
    import equinox as eqx

    found = page("equinox")
    x, y = found["x"], found["y"]
    start = eqx.nn.MLP(2, "scalar", width_size=16, depth=1, activation=jnp.tanh, key=jax.random.key(1))
    params, static = eqx.partition(start, eqx.is_inexact_array)
    params, opt_state = plain_loop(
        found["tx"],
        params,
        lambda params: optax.sigmoid_binary_cross_entropy(jax.vmap(eqx.combine(params, static))(x), y),
        found["group"],
    )
    assert_close(eqx.filter(found["model"], eqx.is_inexact_array), params)
    assert_close(found["opt_state"], opt_state)


# --- optax ------------------------------------------------------------------------------------------------------------


def test_on_the_page_of_optax_what_is_said_to_be_equal_is_and_schedules_are_seen(page):
    found = page("optax")
    x, y, group = found["x"], found["y"], found["group"]

    whole = (found["params"], found["opt_state"])
    assert_close((found["micro_params"], found["micro_state"].inner_state), whole)
    assert jnp.abs(also_optax.group_weights(found["opt_state"]) - 1 / 3).max() > 0.05

    params, opt_state = found["start"], found["hard"].init(found["start"])
    step = found["make_step"](found["hard"])
    for _ in range(8):
        params, opt_state = step(params, opt_state, x, y, group)
    assert_close((found["parts_params"], found["parts_state"]), (params, opt_state))

    seen = found["injected_state"].hyperparams
    np.testing.assert_allclose(seen["learning_rate"], found["learning_rate"](19), rtol=1e-6)
    np.testing.assert_allclose(seen["dual_learning_rate"], found["dual_rate"](19), rtol=1e-6)
    assert seen["kl_penalty"] == 5 and also_optax.diagnostics(found["injected_state"])["kl"] > 0
    np.testing.assert_allclose(found["cooling_state"].hyperparams["temperature"], 8 * 0.25 ** (9 / 40), rtol=1e-6)

    assert_equal(found["after"], found["before"])
    assert int(found["careful_state"].total_notfinite) == 1


def test_schedules_given_to_the_rule_are_seen_by_both_sides(page):
    found = page("optax")
    losses = jnp.array([0.5, 1.0, 3.0])
    state = found["two_stages"].init(found["start"])
    weights = []
    for _ in range(21):
        _, rw = also_optax.reweight(state, losses)
        weights.append(rw.weights)
        _, state = found["two_stages"].update(jnp.ones(4), state, found["start"], **rw.extra_args)
    assert (jnp.stack(weights[:20]) == 1).all()
    np.testing.assert_allclose(weights[20], jnp.exp(losses / 2) / jnp.exp(losses / 2).mean(), rtol=1e-5)


# --- Orbax ------------------------------------------------------------------------------------------------------------


def test_orbax_brings_back_every_bit_in_mid_run_with_a_new_field_and_onto_a_mesh(page):
    found = page("orbax")
    state, init, train_step = found["state"], found["init"], found["train_step"]
    assert jnp.abs(also_optax.group_weights(state["opt_state"]) - 1 / 8).max() > 0.05
    assert_equal(found["restored"], state)
    assert jax.tree.structure(found["restored"]) == jax.tree.structure(state)

    straight = init()
    for step in range(20):
        straight = train_step(straight, found["x"], found["y"], found["group"])
        if step == 12:
            assert_equal(found["stopped"], straight)
    assert_equal(found["finished"], straight)

    grown = found["grown"]
    assert_equal({"params": grown["params"], "opt_state": grown["opt_state"]}, state)
    assert jax.tree.structure(grown["opt_state"]) == jax.tree.structure(state["opt_state"])
    assert_equal(grown["average"], init()["params"])

    sharded = found["sharded"]
    assert_equal(sharded, state)
    rule = sharded["opt_state"][0]
    assert tuple(rule.tilt.sharding.spec) == ("data",) and len(rule.tilt.devices()) == len(jax.devices()) > 1
    assert jax.tree.map(lambda leaf: leaf.sharding, sharded["opt_state"]) == found["placed"]
    stepped = jax.block_until_ready(train_step(sharded, found["x"], found["y"], found["group"]))
    assert_close(stepped, train_step(state, found["x"], found["y"], found["group"]))


# --- Grain ------------------------------------------------------------------------------------------------------------


def test_a_grain_loader_goes_on_with_the_same_examples_and_so_does_training(page):
    found = page("grain")
    shares = np.bincount(found["groups"][found["first"].ravel()]) / found["first"].size
    np.testing.assert_allclose(shares, 1 / 3, atol=4 * np.sqrt(2 / 9 / found["first"].size))
    assert_equal(found["rest_again"], found["rest"])
    assert_equal((found["params_again"], found["opt_state_again"]), (found["params_after"], found["opt_state_after"]))
    indices = np.concatenate([found["first"], found["rest"]]).ravel()
    assert_equal(indices, [found["balanced"].record_key(place) for place in range(indices.size)])


def test_weights_of_examples_from_a_balanced_loader_start_as_those_of_uniform_draws_would_average(page):
    """Uniform pi over q: an example of a group that is drawn too often counts for less, and all count for 1 in mean."""
    found = page("grain")
    chances = found["chances"] / found["chances"].sum()
    start = found["per_example"].init(jnp.zeros(4))
    weights = also_optax.example_weights(start, jnp.ones(600), jnp.arange(600))
    assert_close(weights, 1 / (600 * chances))
    assert_close((weights * chances).sum(), 1.0)
    pi = also_optax.group_weights(found["weighed"][1])
    drawn = np.isin(np.arange(600), [found["balanced"].record_key(place) for place in range(2000 // 32 * 32)])
    assert 0 < drawn.sum() < 600
    np.testing.assert_allclose(pi[~drawn], pi.min(), rtol=1e-5)  # those that were never seen have no more than others
    assert jnp.median(pi[drawn]) > 1.01 * pi.min()


# --- Logs -------------------------------------------------------------------------------------------------------------


def _events(directory):
    """What TensorBoard shows of a directory: steps and values by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def test_logs_of_a_run_that_was_taken_up_again_are_those_of_one_that_was_not(page):
    found = page("logging")
    interrupted, straight = (found["directory_of_page"] / name for name in ("interrupted", "straight"))
    lines = (straight / "metrics.jsonl").read_text()
    assert (interrupted / "metrics.jsonl").read_text() == lines

    shown = _events(straight)
    assert _events(interrupted) == shown
    entries = [json.loads(line) for line in lines.splitlines()]
    assert [entry["step"] for entry in entries] == list(range(40))
    for name in ("gap", "group_losses/rare", "group_weights/rare", "loss"):
        values = [entry[name] for entry in entries]
        assert len(set(values)) == 40
        assert shown[name] == [(step, float(np.float32(value))) for step, value in enumerate(values)]


def test_half_a_line_is_cut(page, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    page("logging")["cut"](path, 2)
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'


# --- Half precision ---------------------------------------------------------------------------------------------------


def test_rematerialisation_changes_nothing(page):
    found = page("precision")
    assert found["losses"][-10:].mean() < 0.75 * found["losses"][0]
    assert {leaf.dtype for leaf in jax.tree.leaves(found["params"])} == {jnp.dtype(jnp.float32)}
    assert_close(found["remade_params"], found["params"], 1e-5)
    assert_close(found["remade_opt_state"], found["opt_state"], 1e-5)


@pytest.mark.parametrize("by", ["class", "example"])
def test_after_2000_steps_in_half_precision_pi_is_that_of_float32(page, by):
    found = page("precision")
    tx, groups = found["by_class"], found["labels"]
    if by == "example":
        groups = jnp.arange(len(groups))
        tx = also_optax.also(1e-3, num_groups=len(groups))

    @jax.jit
    def both():
        return [found["train"](tx, groups, dtype, steps=2000) for dtype in (jnp.bfloat16, jnp.float32)]

    ((_, half_state), half_losses), ((_, full_state), full_losses) = both()
    half, full = (also_optax.group_weights(state) for state in (half_state, full_state))
    assert full.max() > 1.2 * full.min() and full_losses[-50:].mean() < 0.1
    np.testing.assert_allclose(half_losses[-50:].mean(), full_losses[-50:].mean(), atol=1e-2)
    np.testing.assert_allclose(half, full, atol=1e-2)
    assert jnp.abs(half - full).sum() / 2 < 1e-2  # one weight in 1,797 is small in itself: the mass that is elsewhere
