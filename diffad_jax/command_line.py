"""The arguments of the command line, checked; what is wrong with them is one line."""

import glob
import logging
import os
import sys

import absl.logging
import ml_collections
from absl import app

from diffad_jax import config as configs
from diffad_jax import workdir as workdirs

# Modes that work on a finished run, whose own configuration is the default.
STORED = ("evaluate", "predict")


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags; a misspelt config key is a line that names the nearest one."""
    try:
        for argument in argv[1:]:
            name = argument.partition("=")[0].lstrip("-")
            if name.startswith("config."):
                configs.check_key(name.removeprefix("config."))
        return app.parse_flags_with_usage(with_config(argv))
    except (ValueError, OSError) as error:  # OSError: an override of a file that is not there
        sys.exit(f"ValueError: {' '.join(str(error).split())}")


def set_log_levels() -> None:
    """Ours speak, the libraries only warn."""
    absl.logging.set_verbosity(absl.logging.WARNING)
    for package in ("diffad_jax", "input_pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)


def with_config(argv: list[str]) -> list[str]:
    """The arguments, and the run's own configuration where a finished run comes without one.

    Raises:
      ValueError: the workdir holds no run.
    """
    workdir = given(argv, "workdir")
    if given(argv, "mode") not in STORED or not workdir or given(argv, "config"):
        return argv
    workdirs.read_config(workdir)
    return [argv[0], f"--config={workdirs.__file__}:{workdir}", *argv[1:]]


def given(argv: list[str], name: str) -> str | None:
    """The value of --name among unparsed arguments, or None."""
    for argument, following in zip(argv[1:], [*argv[2:], None], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            return value if equals else following
    return None


def read_config(config: ml_collections.ConfigDict | None) -> configs.Config:
    """What --config and its overrides say.

    Raises:
      ValueError: it is not given, there is no such file, or as `config.parse`.
    """
    if config is None:
        raise ValueError("--config is missing: give a file of configs/")
    try:
        return configs.parse(config)
    except OSError as error:
        raise ValueError(" ".join(str(error).split())) from error


def given_both(pictures: str | None, output: str | None) -> tuple[str, str]:
    """What predict needs, or a ValueError."""
    if not pictures or not output:
        raise ValueError("--mode predict needs --input (pictures) and --output (a folder)")
    return pictures, output


def runs(pattern: str) -> list[str]:
    """The workdirs that a glob pattern matches, sorted.

    Raises:
      ValueError: none of the matches holds a run.
    """
    found = sorted(glob.glob(os.path.expanduser(pattern)))
    found = [folder for folder in found if workdirs.config_path(folder).exists()]
    if not found:
        raise ValueError(f"no run in {pattern}: no folder there has a config.json")
    return found
