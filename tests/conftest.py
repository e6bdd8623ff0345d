"""JAX as strict as our users may have it, and eight devices for the mesh tests."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def x64():
    """Runs a test in float64, for the tolerances that need it."""
    with jax.enable_x64(True):
        yield
