"""The arguments of the command line, checked; what is wrong with them is one line."""

import logging
import sys

import absl.logging
import ml_collections
from absl import app

from configs import schema, stored
from diffad_jax.runs import folder

# Modes that work on a finished run, whose own configuration is the default.
STORED = ("evaluate", "predict")


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags; a misspelt config key is a line that names the nearest one."""
    try:
        for argument in argv[1:]:
            name = argument.partition("=")[0].lstrip("-")
            if name.startswith("config."):
                schema.check_key(name.removeprefix("config."))
        sys.argv = config_first(with_config(argv))  # where the overrides are looked for
        return app.parse_flags_with_usage(sys.argv)
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
    folder.read_config(workdir)
    return [argv[0], f"--config={stored.__file__}:{workdir}", *argv[1:]]


def config_first(argv: list[str]) -> list[str]:
    """The arguments with --config before its overrides, which mean nothing without it."""
    first, rest, words = [], [], iter(argv[1:])
    for word in words:
        if word in ("--config", "-config"):
            first += [word, *(value for value in [next(words, None)] if value is not None)]
        elif word.startswith(("--config=", "-config=")):
            first.append(word)
        else:
            rest.append(word)
    return [*argv[:1], *first, *rest]


def given(argv: list[str], name: str) -> str | None:
    """The value of --name among unparsed arguments, or None."""
    for argument, following in zip(argv[1:], [*argv[2:], None], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            return value if equals else following
    return None


def check(mode: str, pictures: str | None, output: str | None) -> None:
    """Raise ValueError where predict is not told what to read and where to write."""
    if mode == "predict" and not (pictures and output):
        raise ValueError("--mode predict needs --input (pictures) and --output (a folder)")


def read_config(mode: str, config: ml_collections.ConfigDict | None) -> schema.Config | None:
    """What --config and its overrides say; None where the mode needs none.

    Raises:
      ValueError: it is missing, there is no such file, or as `config.parse`.
    """
    if mode == "compare":
        return None
    if config is None:
        raise ValueError("--config is missing: give a file of configs/")
    try:
        return schema.parse(config)
    except OSError as error:
        raise ValueError(" ".join(str(error).split())) from error


def several(mode: str, config: schema.Config | None) -> bool:
    """Whether more than one category is to be run: 'all', or a list with commas."""
    if config is None or mode not in ("train", "evaluate"):
        return False
    return config.data.category == "all" or "," in config.data.category


def call(
    mode: str,
    config: schema.Config | None,
    workdir: str,
    pictures: str | None,
    output: str | None,
    threshold: float | None,
) -> int:
    """Do what --mode says, importing only what it needs; returns the exit status."""
    if mode == "train":
        from diffad_jax import train

        train.run(config, workdir)
    elif mode == "evaluate":
        from diffad_jax import evaluate

        evaluate.run(config, workdir)
    elif mode == "predict":
        from diffad_jax import predict

        if predict.run(workdir, pictures, output, config, threshold):
            return predict.UNREADABLE
    else:
        from diffad_jax import compare

        compare.run([workdir], output)
    return 0
