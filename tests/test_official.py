"""The trajectories of the authors' PyTorch optimizer, step by step."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import also_optax

TRAJECTORIES = pathlib.Path(__file__).parent / "reference" / "also_official_trajectories.npz"


def load(case):
    with np.load(TRAJECTORIES) as archive:
        return {key.split("/")[1]: archive[key] for key in archive.files if key.startswith(f"{case}/")}


def train(tx, official):
    """Parameters, pi and losses after each step, from parameters of zero."""
    x, y, groups = (jnp.asarray(official[name]) for name in ("X", "y", "groups"))

    def step(carry, rows):
        params, opt_state = carry

        def loss_fn(params):
            losses = optax.sigmoid_binary_cross_entropy(x[rows] @ params, y[rows])
            return also_optax.reweight(opt_state, losses, groups[rows])

        (_, rw), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params, **rw.extra_args)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), (
            also_optax.eval_params(opt_state, params),
            also_optax.group_weights(opt_state),
            rw.losses,
        )

    params = jnp.zeros(x.shape[1])
    return jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(official["batches"]))[1])()


@pytest.mark.parametrize("case", ["da_groups", "da_prior", "opt_groups", "opt_samples"])
def test_also_walks_the_path_of_the_authors_code(x64, case):
    official = load(case)
    looks_ahead = str(official["mode"]) == "optimistic"
    tx = also_optax.also(
        float(official["lr"]),
        int(official["num_groups"]),
        dual_learning_rate=float(official["pi_lr"]),
        kl_penalty=float(official["tau"]),
        optimism=float(official["alpha"]) if looks_ahead else 0,
        lookahead=looks_ahead,
        prior=official["prior"],
        eps=1e-30,
        weight_decay=float(official["wd"]),
    )

    params, pi, losses = train(tx, official)

    assert params.dtype == jnp.float64
    np.testing.assert_allclose(params, official["params"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(pi, official["pi"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(losses, official["losses"], rtol=0, atol=1e-10)


def test_the_authors_trajectories_go_somewhere():
    """Else agreement with them would show nothing."""
    for case in ("da_groups", "da_prior", "opt_groups", "opt_samples"):
        official = load(case)
        assert np.abs(official["params"][-1]).max() > 0.1
        assert np.abs(official["pi"][-1] - official["prior"]).max() > 1e-2
