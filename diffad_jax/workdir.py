"""A run's folder: which configuration it belongs to, and files that are whole or not there.

WORKDIR/config.json                     the configuration
WORKDIR/checkpoints/STEP/               state of training
WORKDIR/metrics.jsonl                   a line for every log_every steps, and one per evaluation
WORKDIR/tensorboard/                    the same, and pictures
WORKDIR/eval/STEP/                      metrics.json, scores.csv, grid.png
"""

import json
from typing import Any

from etils import epath

from diffad_jax.config import Config, difference

# What may change between two starts of one training run: its length, how often things are written,
# how it is evaluated, and where prepared pictures are cached.
FREE_IN_TRAINING = (
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.image_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "evaluate.",
    "data.cache_dir",
    "data.memory_gib",
    "data.missing_masks",
)
# What must be the same to evaluate a trained model; the pictures may be others.
FIXED_IN_EVALUATION = ("model.", "diffusion.")


def claim(workdir: epath.PathLike, config: Config) -> None:
    """Make the folder this run's, or check that it already is.

    Raises:
      ValueError: the folder holds a run whose model, data or training differs; names the keys.
    """
    path = config_path(workdir)
    if not path.exists():
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(config.to_dict(), indent=2) + "\n")
        return
    lines = [
        line
        for line in difference(_read(path), config.to_dict())
        if not line.startswith(FREE_IN_TRAINING)
    ]
    _refuse(lines, path, "use another --workdir, or the configuration it was started with")


def check_model(workdir: epath.PathLike, config: Config) -> None:
    """Check that the folder holds a run of the same model.

    Raises:
      ValueError: no run there, or one whose model differs; names the keys.
    """
    path = config_path(workdir)
    if not path.exists():
        raise ValueError(f"{workdir} holds no run: {path} does not exist")
    lines = [
        line
        for line in difference(_read(path), config.to_dict())
        if line.startswith(FIXED_IN_EVALUATION)
    ]
    _refuse(lines, path, "give the configuration it was trained with")


def config_path(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its configuration."""
    return epath.Path(workdir) / "config.json"


def write(path: epath.Path, content: str | bytes) -> None:
    """Write a file so that a killed process leaves the old one or the new one, never a half."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial"
    partial.write_bytes(data)
    partial.replace(path)


def _read(path: epath.Path) -> dict[str, Any]:
    """The configuration in a file, or a ValueError that names it."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a configuration: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a configuration: it holds a {type(config).__name__}")
    return config


def _refuse(lines: list[str], path: epath.Path, advice: str) -> None:
    if lines:
        raise ValueError(f"{path} belongs to another configuration ({'; '.join(lines)}): {advice}")
