"""The example of docs/methods.md runs as it stands, and does what is said of it."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "methods.md").read_text()


def test_two_stages_weigh_examples_after_the_switch_and_freeze_the_lower_layers():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    namespace = {}
    exec(compile(block, "docs/methods.md", "exec"), namespace)
    before, after = namespace["at_switch"], namespace["params"]
    np.testing.assert_array_equal(before["hidden"], after["hidden"])
    assert jnp.abs(before["last"] - after["last"]).max() > 1e-3
    losses, weights = namespace["rw"].losses, namespace["rw"].weights
    assert jnp.ptp(losses) > 0.1
    np.testing.assert_allclose(weights, jnp.exp(losses / 5) / jnp.exp(losses / 5).mean(), rtol=0.01)
