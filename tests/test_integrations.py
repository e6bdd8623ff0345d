"""Every page of docs/integrations runs as it stands, and what it says holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax
from tests import pages

PAGES = pages.ROOT / "docs" / "integrations"


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Runs a page in a directory of its own, where it may write."""
    monkeypatch.chdir(tmp_path)
    return lambda name: pages.run(PAGES / f"{name}.md")


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
