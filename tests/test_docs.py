"""The examples of the pages under docs run as they stand, and do what is said of them."""

import jax.numpy as jnp
import numpy as np

import also_optax
from tests import pages

DOCS = pages.ROOT / "docs"


def test_two_stages_weigh_examples_after_the_switch_and_freeze_the_lower_layers():
    namespace = pages.run(DOCS / "methods.md")
    before, after = namespace["at_switch"], namespace["params"]
    np.testing.assert_array_equal(before["hidden"], after["hidden"])
    assert jnp.abs(before["last"] - after["last"]).max() > 1e-3
    losses, weights = namespace["rw"].losses, namespace["rw"].weights
    assert jnp.ptp(losses) > 0.1
    np.testing.assert_allclose(weights, jnp.exp(losses / 5) / jnp.exp(losses / 5).mean(), rtol=0.01)


def test_the_rule_that_is_written_weighs_the_harder_group_and_keeps_the_contract():
    page = DOCS / "write_your_own_rule.md"
    easier, harder = also_optax.group_weights(pages.run(page)["opt_state"])
    assert harder > 2 * easier
    rule = pages.found_in(page.read_text())[0][1]
    lines = rule[rule.index("class SoftmaxHyperparams") :].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 40
