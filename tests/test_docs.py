"""The examples of the pages under docs run as they stand, and do what is said of them."""

import re
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import also_optax

DOCS = Path(__file__).resolve().parent.parent / "docs"


def blocks_of(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert blocks
    return blocks


@pytest.fixture
def run(monkeypatch):
    """Runs the blocks of Python of a page one after the other, as a module, and returns its names."""

    def run_page(page):
        module = types.ModuleType(Path(page).stem)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        for block in blocks_of(page):
            exec(compile(block, page, "exec"), vars(module))
        return vars(module)

    return run_page


def test_two_stages_weigh_examples_after_the_switch_and_freeze_the_lower_layers(run):
    namespace = run("methods.md")
    before, after = namespace["at_switch"], namespace["params"]
    np.testing.assert_array_equal(before["hidden"], after["hidden"])
    assert jnp.abs(before["last"] - after["last"]).max() > 1e-3
    losses, weights = namespace["rw"].losses, namespace["rw"].weights
    assert jnp.ptp(losses) > 0.1
    np.testing.assert_allclose(weights, jnp.exp(losses / 5) / jnp.exp(losses / 5).mean(), rtol=0.01)


def test_the_rule_that_is_written_weighs_the_harder_group_and_keeps_the_contract(run):
    namespace = run("write_your_own_rule.md")
    easier, harder = also_optax.group_weights(namespace["opt_state"])
    assert harder > 2 * easier
    rule, *_ = blocks_of("write_your_own_rule.md")
    lines = rule[rule.index("class SoftmaxHyperparams") :].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 40
