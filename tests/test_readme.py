"""README's example runs as it stands, and its commands are those of the gate."""

import re

import numpy as np

import also_optax
from tests import pages

ROOT = pages.ROOT
README = (ROOT / "README.md").read_text()


def test_the_examples_run_one_after_the_other():
    opt_state = pages.run(ROOT / "README.md")["opt_state"]
    np.testing.assert_allclose(also_optax.group_weights(opt_state).sum(), 1, atol=1e-6)
    common, rare = also_optax.diagnostics(opt_state)["group_losses"]
    np.testing.assert_allclose(common, rare, rtol=0.02)  # what the example is for: neither group is worse off


def test_the_gate_runs_the_command_that_readme_gives():
    gate = (ROOT / ".ci" / "run").read_text().replace("install -q -e", "install -e")
    commands = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)
    assert len(commands) == 2 and commands[1] in gate


def test_every_public_name_is_listed():
    for name in also_optax.__all__:
        if name[0].islower():
            assert f"`{name}`" in README, name


def test_every_link_to_a_file_leads_somewhere():
    pages.assert_links_lead_somewhere(ROOT / "README.md")
