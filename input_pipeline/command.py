"""What the commands of this package share: the configuration, and errors of one line."""

import logging
import pathlib
import sys
from collections.abc import Callable

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from diffad_jax import config as configs

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/; override a key with --config.data.category=bottle."
)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.")


def run(write: Callable[[configs.Config, pathlib.Path], None]) -> None:
    """Parse the command line, then `write(config, output)`."""
    flags.mark_flags_as_required(["config", "output"])

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {argv[1:]}")
        absl.logging.set_verbosity(absl.logging.WARNING)
        logging.getLogger("input_pipeline").setLevel(logging.INFO)
        output = pathlib.Path(_OUTPUT.value)
        try:
            config = configs.parse(_CONFIG.value)
            output.parent.mkdir(parents=True, exist_ok=True)
            write(config, output)
        except (ValueError, OSError) as error:
            sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
        logging.getLogger(__name__).info("wrote %s", output)

    app.run(main)
