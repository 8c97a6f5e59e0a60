"""Tiny folders in MVTec AD layout, and the command line that trains on them."""

import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image

SIZE = 32  # px
REPOSITORY = pathlib.Path(__file__).parents[2]


def save(path: pathlib.Path, array: np.ndarray) -> pathlib.Path:
    """Write one picture, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def part(rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """u8[size, size, 3]: a bright disc on a dark, grainy ground."""
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    disc = np.hypot(y, x) < 0.4 * size
    picture = np.where(disc[..., None], (180, 150, 90), (25, 25, 30))
    return np.clip(picture + rng.normal(0, 6, (size, size, 3)), 0, 255).astype(np.uint8)


def category(root: pathlib.Path, *, good: int = 9, test: int = 5, size: int = SIZE) -> pathlib.Path:
    """Write ROOT/disc: `good` training and `test` test pictures, every other one defective."""
    rng = np.random.default_rng(0)
    folder = root / "disc"
    for i in range(good):
        save(folder / f"train/good/{i:03}.png", part(rng, size))
    for i in range(test):
        picture = part(rng, size)
        if i % 2 == 0:
            save(folder / f"test/good/{i:03}.png", picture)
            continue
        mask = np.zeros((size, size), np.uint8)
        mask[10 + i : 18 + i, 8:20] = 255
        picture[mask > 0] = (200, 20, 20)
        save(folder / f"test/stain/{i:03}.png", picture)
        save(folder / f"ground_truth/stain/{i:03}_mask.png", mask)
    return folder


def command(root: pathlib.Path, workdir: pathlib.Path, *changes: str, mode: str = "train") -> list:
    """The command line of a run of `configs/test.py` on ROOT/disc; `changes` as `train.steps=3`."""
    changes = (f"data.root={root}", "data.category=disc", f"data.cache_dir={root}/cache", *changes)
    return [
        *(sys.executable, "-m", "diffad_jax.main", "--config", "configs/test.py"),
        *("--workdir", str(workdir), "--mode", mode),
        *(f"--config.{change}" for change in changes),
    ]


def environment(cache: pathlib.Path) -> dict[str, str]:
    """One CPU device; processes share what they compile through `cache`."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles in a third of the time
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def call(arguments: list, cache: pathlib.Path, **options) -> subprocess.CompletedProcess:
    """Run a command to its end."""
    return subprocess.run(
        arguments,
        cwd=REPOSITORY,
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
