"""The examples of the pages run as they stand, and do what is said of them."""

import re

import jax
import numpy as np

from tests.site.conftest import ROOT


def run(name):
    """The names that are left when all examples of a page have run, one after the other."""
    page, namespace = ROOT / "docs" / name, {}
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    with jax.numpy_rank_promotion("allow"):  # as it is for readers
        for block in blocks:
            exec(compile(block, name, "exec"), namespace)
    return namespace


def test_ones_own_data_are_trained_on_and_the_worst_group_gains():
    found = run("getting_started.md")
    with jax.numpy_rank_promotion("allow"):
        plain, robust = (found["group_losses"](found[params]) for params in ("plain_params", "params"))
    assert robust.max() < 0.7 * plain.max()
    assert found["found"]["rejected"] == 0 and found["found"]["kl"] > 0.1


def test_diagnostics_show_the_collapse_and_the_losses_left_out():
    found = run("troubleshooting.md")
    diagnostics = found["also_optax"].diagnostics(found["opt_state"])
    assert diagnostics["rejected"] == 500 and diagnostics["effective_groups"] < 1.1 and diagnostics["gap"] < 1e-3
    weights = found["also_optax"].example_weights(found["opt_state"], found["losses"], found["groups"])
    assert weights[3] == 0
    settled = np.exp(np.array([0.5, 1.0, 3.0]) / 0.5)
    np.testing.assert_allclose(weights[:3], 3 * settled / settled.sum(), rtol=1e-3)
