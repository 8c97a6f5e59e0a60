"""Command line: train (or go on training) and evaluate.

python -m diffad_jax.main --config configs/default.py --workdir runs/bottle
"""

import logging
import sys

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from diffad_jax import config as configs

MODES = ("train", "evaluate")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/; override a key with --config.data.category=bottle."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder, local or gs://; training goes on where it stopped."
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "train, or evaluate the newest checkpoint.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of all hosts; 1: never join others.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process's, from 0.")


def main(argv: list[str]) -> None:
    """Check the configuration, then call the library."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    # Ours speak, the libraries only warn.
    absl.logging.set_verbosity(absl.logging.WARNING)
    for package in ("diffad_jax", "input_pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)
    # JAX and TensorFlow are imported late, so that --help and a wrong configuration answer at once.
    try:
        config = read_config()
        from diffad_jax import cluster

        with cluster.joined(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value):
            cluster.cache_compilations(_WORKDIR.value)
            call(config)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


def call(config: configs.Config) -> None:
    """What --mode says."""
    if _MODE.value == "evaluate":
        from diffad_jax import evaluate

        evaluate.run(config, _WORKDIR.value)
    else:
        from diffad_jax import train

        train.run(config, _WORKDIR.value)


def read_config() -> configs.Config:
    """What --config and its overrides say.

    Raises:
      ValueError: there is no such file, or as `config.parse`.
    """
    try:
        return configs.parse(_CONFIG.value)
    except OSError as error:
        raise ValueError(" ".join(str(error).split())) from error


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags; a misspelt config key is a line that names the nearest one."""
    try:
        for argument in argv[1:]:
            name = argument.partition("=")[0].lstrip("-")
            if name.startswith("config."):
                configs.check_key(name.removeprefix("config."))
        return app.parse_flags_with_usage(argv)
    except (ValueError, OSError) as error:  # OSError: an override of a file that is not there
        sys.exit(f"ValueError: {' '.join(str(error).split())}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
