"""Command line: train (or go on training) and evaluate.

python -m diffad_jax.main --config configs/default.py --workdir runs/bottle
"""

import logging
import sys

import absl.logging
from absl import app, flags
from ml_collections import config_flags

MODES = ("train", "evaluate")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/; override a key with --config.data.category=bottle."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, local or gs://; training goes on where it stopped."
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "train, or evaluate the newest checkpoint.")


def main(argv: list[str]) -> None:
    """Check the configuration, then call the library."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    # Ours speak, the libraries only warn.
    absl.logging.set_verbosity(absl.logging.WARNING)
    for package in ("diffad_jax", "input_pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        # Imported here, so that --help and a wrong configuration answer at once.
        from diffad_jax import config as configs

        config = configs.parse(_CONFIG.value)
        if _MODE.value == "evaluate":
            from diffad_jax import evaluate

            evaluate.run(config, _WORKDIR.value)
        else:
            from diffad_jax import train

            train.run(config, _WORKDIR.value)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
