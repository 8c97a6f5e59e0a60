"""Eight CPU devices, run-time shape checks, rank promotion an error."""

import gc
import importlib
import os
import pathlib
import signal

# A shell that starts the tests in its background has them, and what they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before JAX starts, and for the processes that tests start. Most of their time is compilation: with
# less of LLVM's optimisation it takes two thirds, and the small programs run as fast.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=1"

# ONNX Runtime tells its maker nothing, whatever a test imports first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# What a module below the hook imports first, jaxtyping compiles from source: 10 s, spared here.
_LIBRARIES = (
    *("flax.nnx", "matplotlib.figure", "optax", "orbax.checkpoint", "scipy.stats"),
    *("sklearn.metrics", "tensorboardX", "tensorflow", "tensorflow_datasets"),
)
for _library in _LIBRARIES:
    importlib.import_module(_library)


def shaped() -> list[str]:
    """The modules whose signatures give shapes."""
    root = pathlib.Path(__file__).parents[1]
    files = [*root.glob("diffad_jax/**/*.py"), *root.glob("input_pipeline/**/*.py")]
    return [
        ".".join(file.relative_to(root).with_suffix("").parts)
        for file in files
        if "from jaxtyping import" in file.read_text()
    ]


# Shapes are checked while the tests run; elsewhere a check takes longer than most calls.
_hook = install_import_hook(shaped(), "beartype.beartype")


@pytest.fixture
def float64():
    """Compute in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def fast_compiles():
    """For what compares programs with each other, and runs each a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# The longest files begin first, so that at the end no core waits for another.
LONGEST = (
    *("test_resume", "test_sharding", "test_processes", "test_steps", "test_safety"),
    *("test_networks", "test_export", "test_train"),
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_collection_finish():
    """What the libraries have made is no garbage: no search of a test's goes through it again."""
    gc.collect()
    gc.freeze()
