"""The command line of the pipeline's own programs: --config FILE and its overrides."""

import logging
import sys
from collections.abc import Callable

import absl.logging
from absl import app
from absl import flags as absl_flags
from ml_collections import config_flags

from configs import schema
from diffad_jax import flags


def run(program: Callable[[schema.Config], int]) -> None:
    """Call `program` with the configuration of the command line; exit with the status it returns.

    What is wrong with the configuration, or a ValueError of the program, is one line.
    """
    holder = config_flags.DEFINE_config_file(
        "config", None, "A file of configs/; override a key with --config.data.category=bottle."
    )
    absl_flags.mark_flag_as_required("config")

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments: {argv[1:]}")
        absl.logging.set_verbosity(absl.logging.WARNING)
        logging.getLogger("input_pipeline").setLevel(logging.INFO)
        try:
            sys.exit(program(schema.parse(holder.value)))
        except (ValueError, OSError) as error:
            sys.exit(f"ValueError: {' '.join(str(error).split())}")

    app.run(main, flags_parser=flags.parse_flags)
