"""Eight CPU devices, run-time shape checks, rank promotion an error."""

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes in signatures are checked while the tests run.
_hook = install_import_hook(["diffad_jax", "input_pipeline"], "beartype.beartype")


@pytest.fixture
def float64():
    """Compute in float64."""
    with jax.enable_x64(True):
        yield
