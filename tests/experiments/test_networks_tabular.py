"""MLP-PLR: its embedding against NumPy, and that a whole sweep of it is one vmap."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.networks_tabular import MLPPLR, PeriodicEmbedding


def test_the_embedding_is_that_of_the_paper():
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    embedding = PeriodicEmbedding(num_frequencies=4, width=2, sigma=0.5)
    params = jax.jit(embedding.init)(jax.random.key(1), x)["params"]
    params = {**params, "bias": params["bias"] + 0.1}
    c, kernel, bias = (np.asarray(params[name], np.float64) for name in ("frequencies", "kernel", "bias"))
    found = jax.jit(embedding.apply)({"params": params}, x)
    for f in range(3):
        angles = 2 * np.pi * x[:, f : f + 1] * c[f]
        waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        expected = np.maximum(waves @ np.concatenate(kernel[:, f]) + bias[f], 0)
        np.testing.assert_allclose(found[f], expected, rtol=1e-4, atol=1e-5)


def test_it_gives_its_outputs_under_vmap_over_parameters_and_all_of_them_have_gradients():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 5)).astype(np.float32)
    model = MLPPLR(2, 3, widths=(16,))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)  # to compile `init` itself takes seconds
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal((4, *leaf.shape)).astype(np.float32), shapes)

    @jax.jit
    def run(params):
        outputs = jax.vmap(model.apply, in_axes=(0, None))(params, x)
        return outputs, jax.grad(lambda p: jnp.sum(jax.vmap(model.apply, in_axes=(0, None))(p, x) ** 2))(params)

    outputs, gradients = run(params)
    assert outputs.shape == (4, 8, 2)
    assert all(np.abs(np.asarray(leaf)).reshape(4, -1).max(1).all() for leaf in jax.tree.leaves(gradients))
    second = jax.tree.map(lambda leaf: leaf[1], params)
    alone = jax.jit(model.apply)
    np.testing.assert_allclose(outputs[1], alone(second, x), rtol=1e-4, atol=1e-5)
    exchanged = alone(second, x[:, [1, 0, 2, 3, 4]])
    assert np.abs(np.asarray(outputs[1] - exchanged)).max() > 1e-3  # each column has its own embedding


def test_without_numbers_it_is_an_mlp():
    params = jax.eval_shape(MLPPLR(1, 0).init, jax.random.key(0), jnp.ones((2, 3)))["params"]
    assert set(params) == {"Dense_0", "Dense_1", "Dense_2"}
