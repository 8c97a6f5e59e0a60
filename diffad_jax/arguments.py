"""The arguments of the command line, checked and parsed; what is wrong with them is one line."""

import difflib
import logging
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn

import absl.logging
from absl import flags as absl_flags

from configs import schema, stored
from configs.errors import UserError
from diffad_jax import flags
from diffad_jax.flags import MODES, PACKAGED, TABLE

FLAGS = absl_flags.FLAGS
HELP = ("help", "helpshort", "h", "?")


class Word(NamedTuple):
    """A flag as it stands on the command line."""

    name: str
    value: str | None
    words: tuple[str, ...]


def parse(argv: Sequence[str]) -> list[str]:
    """Parse the command line into absl's FLAGS, or answer a request for help, or exit with 1.

    sys.argv becomes what was parsed: the modes' child processes get the same.
    """
    try:
        argv = [argv[0], *FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]  # --flagfile
        sys.argv = argv  # where ml_collections looks
        flags.define()
        text = asked_help(argv)
        if text is not None:
            print(text)
            sys.exit(0)
        full = any(word.name in ("helpfull", "helpxml") for word in split(argv)[0])
        sys.argv = argv if full else arguments(argv)
        return FLAGS(sys.argv)
    except (absl_flags.Error, ValueError, OSError) as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Exit with status 1; the last line of standard error says why."""
    sys.exit(f"error: {line(error)}")


def line(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if "Traceback (most recent call last)" in text:  # ml_collections, of a configuration file
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return " ".join(part.strip() for part in text.splitlines())


def set_log_levels() -> None:
    """The project's own messages are shown, of libraries only warnings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it when it is imported
    absl.logging.set_verbosity(absl.logging.WARNING)
    for package in ("diffad_jax", "input_pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)


def arguments(argv: Sequence[str]) -> list[str]:
    """The arguments, checked against the mode's flags, with --config resolved and first.

    Raises:
      UserError: a mode, flag or key that is not there; a flag the mode does not use; one it
        needs and lacks; no such configuration, or no run in the workdir.
    """
    given, rest = split(argv)
    if rest:
        hint = f": did you mean --mode {rest[0]}?" if rest[0] in MODES else ""
        raise UserError(f"unexpected argument {rest[0]}{hint}")
    values = {word.name: word.value for word in given}  # of one given twice, the last counts
    name = values.get("mode", flags.DEFAULT_MODE) or ""
    if name not in MODES:
        raise UserError(f"unknown mode {name}{_near(name, MODES)}")
    _check_flags(given, name)
    file, mode = values.get("config"), MODES[name]
    if file is not None:
        first = [f"--config={config_path(file)}"]
    elif mode.own_config:
        first = [f"--config={own_config(values['workdir'] or '')}"]
    else:
        first = []
    # Overrides mean nothing to ml_collections before the configuration.
    kept = [text for word in given if word.name != "config" for text in word.words]
    return [argv[0], *first, *kept]


def split(argv: Sequence[str]) -> tuple[list[Word], list[str]]:
    """The flags with their values, and the words that are neither."""
    found: list[Word] = []
    words = list(argv[1:])
    while words:
        if not words[0].startswith("-") or words[0] == "-":
            return found, words  # as absl: the first other word ends the flags
        word = words.pop(0)
        if word == "--":
            return found, words
        name, equals, value = word.lstrip("-").partition("=")
        if equals:
            found.append(Word(name, value, (word,)))
        elif _has_value(name) and words:
            value = words.pop(0)
            found.append(Word(name, value, (word, value)))
        else:
            found.append(Word(name, None, (word,)))
    return found, []


def config_path(given: str) -> str:
    """The file that --config means: as given, else among the packaged ones; keeps ':ARGUMENT'.

    Raises:
      UserError: there is none, or it is no configuration.
    """
    name, colon, argument = given.partition(":")
    path = pathlib.Path(name)
    candidates = [path, path.with_name(f"{path.name}.py")] if path.name else []
    # Only 'default' and 'configs/default' may be packaged; any other path means just what it says.
    if path.suffix in ("", ".py") and str(path.parent) in (".", "configs"):
        candidates.append(PACKAGED / f"{path.stem}.py")
    file = next((file for file in candidates if file.is_file()), None)
    if file is None:
        files = [f for f in sorted(PACKAGED.glob("*.py")) if "def get_config()" in f.read_text()]
        there = [file.stem for file in files]
        raise UserError(f"no configuration file {name}; packaged ones are {', '.join(there)}")
    if "def get_config" not in file.read_text():
        raise UserError(f"{file} is no configuration: it has no get_config()")
    return f"{file}{colon}{argument}"


def own_config(workdir: str) -> str:
    """What --config is by default, where a mode works on a finished run.

    Raises:
      UserError: the workdir holds no run, or one of another version of this program.
    """
    from diffad_jax.runs import folder  # late, for --help

    folder.read_config(workdir)
    return f"{stored.__file__}:{workdir}"


def asked_help(argv: Sequence[str]) -> str | None:
    """The help that `--help`, `--help MODE` or `--mode MODE --help` asks for; None: none."""
    given, rest = split(argv)
    asked = [word for word in given if word.name in HELP]
    if not asked:
        return None
    named = [word.value for word in given if word.name in ("mode", *HELP)] + rest[:1]
    mode = next((name for name in named if name in MODES), None)
    program = "diffad" if pathlib.Path(argv[0]).stem == "diffad" else "python -m diffad_jax.main"
    return flags.help_of(mode, program) if mode else flags.overview(program)


def _check_flags(given: Iterable[Word], name: str) -> None:
    """Every flag is one of the mode's (or of the libraries'), and all that it needs are there."""
    mode = MODES[name]
    for word in given:
        flag = word.name.partition(".")[0]
        if word.name.startswith("config."):
            schema.check_key(word.name.removeprefix("config."))
        elif word.name != "mode" and word.name not in TABLE:
            if not _is_absl(word.name):
                near = _near(word.name, [*TABLE, "mode"], "--")
                raise UserError(f"unknown flag --{word.name}{near}")
            continue
        if flag != "mode" and flag not in mode.flags:
            users = ", ".join(other for other, its in MODES.items() if flag in its.flags)
            raise UserError(f"--mode {name} does not use --{flag}, which belongs to {users}")
    names = {word.name for word in given}
    missing = [f"--{flag} {TABLE[flag].value}" for flag in mode.needs if flag not in names]
    if missing:
        raise UserError(f"--mode {name} needs {' and '.join(missing)} (see --help {name})")


def _near(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f": did you mean {prefix}{near[0]}?"
    return f": there are {', '.join(prefix + one for one in known)}"


def _is_absl(name: str) -> bool:
    return name in FLAGS or name.removeprefix("no") in FLAGS


def _has_value(name: str) -> bool:
    """Whether the next word belongs to this flag, where no '=' does."""
    if name in TABLE or name == "mode" or name.startswith("config."):
        return True
    return name in FLAGS and not FLAGS[name].boolean
