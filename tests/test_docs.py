"""The example of docs/methods.md runs as it stands, and does what is said of it."""

import jax.numpy as jnp
import numpy as np

from tests import pages


def test_two_stages_weigh_examples_after_the_switch_and_freeze_the_lower_layers():
    namespace = pages.run(pages.ROOT / "docs" / "methods.md")
    before, after = namespace["at_switch"], namespace["params"]
    np.testing.assert_array_equal(before["hidden"], after["hidden"])
    assert jnp.abs(before["last"] - after["last"]).max() > 1e-3
    losses, weights = namespace["rw"].losses, namespace["rw"].weights
    assert jnp.ptp(losses) > 0.1
    np.testing.assert_allclose(weights, jnp.exp(losses / 5) / jnp.exp(losses / 5).mean(), rtol=0.01)
