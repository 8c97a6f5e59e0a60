"""The machine: devices, driver, versions, and the FLOP/s that matrix products reach.

python -m benchmarks.device.machine [N]

prints one JSON line. A process of its own, so that the rows' processes find the device free.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp

from benchmarks import sweep
from diffad_jax.runs import profiling

PACKAGES = (
    *("jax", "jaxlib", "flax", "libtpu", "torch", "tensorflow", "tensorflow-cpu"),
    *("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)
# Of a product's operands: the type, and the precision that they are multiplied in.
PRODUCTS = {
    "float32": (jnp.float32, "default"),  # TF32 on GPUs, bfloat16 on TPUs
    "float32, highest": (jnp.float32, "highest"),
    "bfloat16": (jnp.bfloat16, "default"),
}
REPEATS = 10


def described(n: int) -> dict:
    """Everything about the machine; products are n x n."""
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} x {device.device_kind}",
        "host": f"{platform.machine()}, Python {platform.python_version()}",
        "driver": driver(),
        "platform_version": " ".join(device.client.platform_version.split()),
        "versions": versions(),
        "n": n,
        "flops": {name: product_flops(n, *kind) for name, kind in PRODUCTS.items()},
        "data_sheet_flops": profiling.peak_flops(device.device_kind),
    }


def product_flops(n: int, dtype, precision: str) -> float:
    """FLOP/s of n x n matrix products on all devices together, by the fastest of some."""
    x = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(lambda x: jnp.dot(x, x, precision=precision))
    product(x).block_until_ready()
    best = min(sweep.timed(lambda: product(x).block_until_ready())[1] for _ in range(REPEATS))
    return 2 * n**3 / best * jax.device_count()


def driver() -> str:
    """NVIDIA's driver; "" where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.splitlines()[0].strip() if found.stdout else ""


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    small = jax.default_backend() == "cpu"
    print(json.dumps(described(int(sys.argv[1]) if sys.argv[1:] else 2048 if small else 8192)))
