"""Golden values of the reference implementation, and the rule that rebuilds their inputs."""

import json
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "goldens"
META = json.loads((FOLDER / "meta.json").read_text())


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of `goldens/NAME.npz`."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def rng(name: str) -> np.random.Generator:
    """The generator that belongs to a name."""
    return np.random.default_rng(zlib.crc32(f"{META['salt']}/{name}".encode()))


def draw(name: str, shape, kind: str) -> np.ndarray:
    """f32 'normal' or 'uniform' input of that name."""
    generator = rng(name)
    values = generator.standard_normal(shape) if kind == "normal" else generator.random(shape)
    return values.astype(np.float32)


def weight(net: str, key: str, shape) -> np.ndarray:
    """f32 value of a parameter or running statistic of `net` ('unet' or 'seg')."""
    z = rng(f"{net}/{key}").standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(z)
    if key.endswith("running_mean"):
        return 0.1 * z
    if len(shape) >= 2:
        return (z / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return 1 + 0.1 * z if key.endswith("weight") else 0.1 * z


def weights(net: str, manifest: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """A whole PyTorch state dict of `net`, as NumPy arrays in PyTorch's layout."""
    return {
        key: np.zeros(shape, np.int64)
        if key.endswith("num_batches_tracked")
        else weight(net, key, tuple(shape))
        for key, shape in manifest.items()
    }
