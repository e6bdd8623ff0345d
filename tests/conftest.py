"""JAX as strict as our users may have it, and eight devices for the mesh tests."""

import jax
import pytest

import also_optax

collect_ignore = ["mutation"]  # a command with an extra of its own

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def references_of_zero(monkeypatch):
    """Lets rules that need `reference_losses` do without, as if all were 0, for tests that are the same for all."""
    monkeypatch.setattr(also_optax.DoremiState, "needs_reference", False)


@pytest.fixture
def x64():
    """Runs a test in float64, for the tolerances that need it."""
    with jax.enable_x64(True):
        yield
