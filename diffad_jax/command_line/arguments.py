"""The arguments of the command line, checked and parsed; what is wrong with them is one line."""

import difflib
import importlib.util
import inspect
import logging
import os
import pathlib
import sys
import traceback
import types
from collections.abc import Iterable, Sequence
from typing import NamedTuple, NoReturn

import absl.logging
import ml_collections
from absl import flags as absl_flags

from configs import default, schema, stored
from configs.errors import TOLD_IN_A_LINE, UserError, of_store
from diffad_jax.command_line import flags
from diffad_jax.command_line.flags import MODES, PACKAGED, TABLE

FLAGS = absl_flags.FLAGS
HELP = ("help", "helpshort", "h", "?")
PATHS = ("config", "workdir", "model", "input", "output", "checkpoint", "corrections", "watch")
# Flags and keys that are true or false: they need no value to be true.
SWITCHES = {"prune"} | {
    f"config.{section}.{key}"
    for section, keys in default.get_config().to_dict().items()
    if isinstance(keys, dict)
    for key, value in keys.items()
    if isinstance(value, bool)
}


class Word(NamedTuple):
    """A flag on the command line, and its value."""

    name: str
    value: str | None

    @property
    def text(self) -> str:
        """In one piece: ml_collections looks for keys among separate values, too."""
        return f"--{self.name}" if self.value is None else f"--{self.name}={self.value}"


def parse(argv: Sequence[str]) -> list[str]:
    """Parse the command line into absl's FLAGS, or answer a request for help, or exit with 1.

    sys.argv becomes what was parsed: the modes' child processes get the same.
    """
    try:
        argv = [argv[0], *FLAGS.read_flags_from_files(argv[1:], force_gnu=False)]  # --flagfile
    except (absl_flags.Error, OSError, UnicodeError) as error:
        fail(error)
    sys.argv = argv  # where ml_collections looks
    flags.define()
    text = asked_help(argv)
    if text is not None:
        print(text)
        sys.exit(0)
    full = any(word.name in ("helpfull", "helpxml") for word in split(argv)[0])
    try:
        sys.argv = argv if full else arguments(argv)
        return FLAGS(sys.argv)
    except (absl_flags.Error, *TOLD_IN_A_LINE) as error:
        fail(error)
    except Exception as error:  # the run's configuration may lie on an object store
        if not of_store(error):
            raise
        fail(error)


def fail(error: Exception) -> NoReturn:
    """Exit with status 1; the last line of standard error says why."""
    sys.exit(f"error: {line(error)}")


def line(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(part.strip() for part in str(error).splitlines())


def set_log_levels() -> None:
    """The project's own messages are shown, of libraries only warnings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it when it is imported
    absl.logging.set_verbosity(absl.logging.WARNING)
    absl.logging.get_absl_handler().addFilter(_without_traceback)
    for package in ("diffad_jax", "input_pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)


def _without_traceback(record: logging.LogRecord) -> bool:
    """What orbax's threads log of a failure, they raise as well: there it is told, once."""
    if f"{os.sep}orbax{os.sep}" in record.pathname:
        record.exc_info = None
    return True


def arguments(argv: Sequence[str]) -> list[str]:
    """The arguments, checked against the mode's flags, with --config resolved and first.

    Raises:
      UserError: a mode, flag or key that is not there; a flag the mode does not use; one it
        needs and lacks; no usable configuration, or no run in the workdir.
    """
    given, rest = split(argv)
    if rest:
        hint = f": did you mean --mode {rest[0]}?" if rest[0] in MODES else ""
        raise UserError(f"unexpected argument {rest[0]}{hint}")
    # A shell leaves the '~' of --workdir=~/runs alone.
    expanded = [word.value and os.path.expanduser(word.value) for word in given]
    given = [
        Word(word.name, value if word.name in PATHS else word.value)
        for word, value in zip(given, expanded, strict=True)
    ]
    values = {word.name: word.value for word in given}  # of one given twice, the last counts
    name = values.get("mode", flags.DEFAULT_MODE) or ""
    if name not in MODES:
        raise UserError(f"unknown mode {name}{_near(name, MODES)}")
    _check_flags(given, name)
    file, mode = values.get("config"), MODES[name]
    # Overrides mean nothing to ml_collections before the configuration.
    kept = [word.text for word in given if word.name != "config"]
    if file is None and (not mode.own_config or "model" in values):
        return [argv[0], *kept]
    path = own_config(values["workdir"] or "") if file is None else config_path(file)
    check_config(path, [word.name for word in given if word.name.startswith("config.")])
    return [argv[0], f"--config={path}", *kept]


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
        follows = not equals and words and _has_value(name, words[0])
        found.append(Word(name, value if equals else words.pop(0) if follows else None))
    return found, []


def config_path(given: str) -> str:
    """The file that --config means: as given, else among the packaged ones; keeps ':ARGUMENT'.

    A run's folder, or the config.json in it, is that run's own configuration.

    Raises:
      UserError: there is none, or it is no configuration.
    """
    run = given.removesuffix("config.json").rstrip("/") or "."
    if given.startswith("gs://") or (given and os.path.isfile(os.path.join(run, "config.json"))):
        return own_config(run)
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
    return f"{file}{colon}{argument}"


def check_config(path: str, flags: Iterable[str] = ()) -> None:
    """Check that a configuration file can be used, and has the keys of flags like 'config.seed'.

    Raises:
      UserError: it has a mistake (says where), no get_config(), or not this key; it takes no
        argument and has one, or the other way round.
    """
    file, colon, argument = path.partition(":")
    given = [argument] if colon else []
    try:
        spec = importlib.util.spec_from_file_location("given_config", file)
        assert spec is not None and spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _check_call(module, file, given)
        config = module.get_config(*given)
    except UserError:
        raise
    except Exception as error:
        if pathlib.Path(file).parent == PACKAGED:
            raise  # a mistake of ours
        raise UserError(f"{_place(error, file)}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"get_config() of {file} gives {config!r}, not a ConfigDict")
    for flag in flags:
        inner = config
        for key in flag.removeprefix("config.").split("."):
            if not isinstance(inner, ml_collections.ConfigDict) or key not in inner:
                raise UserError(f"{path} has no key {flag.removeprefix('config.')}")
            inner = inner[key]


def _check_call(module: types.ModuleType, file: str, given: list[str]) -> None:
    """Check that a file's get_config takes what --config gives it after a colon, or nothing."""
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{file} is no configuration: it has no get_config()")
    try:
        inspect.signature(module.get_config).bind(*given)
    except TypeError:
        needs = "takes no argument" if given else "needs an argument"
        hint = f"give --config={file}" + ("" if given else ":ARGUMENT")
        if given:
            hint += f" without :{given[0]}"
        raise UserError(f"the get_config() of {file} {needs}: {hint}") from None


def _place(error: Exception, file: str) -> str:
    """Where in a configuration file an error arose."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    numbers = [frame.lineno for frame in frames if frame.filename == file]
    return f"{file}, line {numbers[-1]}" if numbers else file


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
            if word.value is None and word.name not in SWITCHES:
                raise UserError(f"--{word.name} needs a value: --{word.name}=VALUE")
        elif word.name != "mode" and word.name not in TABLE:
            if not _is_absl(word.name):
                near = _near(word.name, [*TABLE, "mode"], "--")
                raise UserError(f"unknown flag --{word.name}{near}")
            continue
        elif word.name in TABLE and word.name not in SWITCHES and not (word.value or "").strip():
            raise UserError(f"--{word.name} is empty: give --{word.name} {TABLE[word.name].value}")
        if flag != "mode" and flag not in mode.flags:
            users = ", ".join(other for other, its in MODES.items() if flag in its.flags)
            raise UserError(f"--mode {name} does not use --{flag}, which belongs to {users}")
    names = {word.name for word in given}
    both = [(flag, other) for flag, other in mode.instead.items() if {flag, other} <= names]
    if both:
        raise UserError(f"--{both[0][0]} and --{both[0][1]} exclude each other: give one")
    missing = [
        f"--{flag} {TABLE[flag].value}"
        for flag in mode.needs
        if flag not in names and mode.instead.get(flag) not in names
    ]
    if missing:
        raise UserError(f"--mode {name} needs {' and '.join(missing)} (see --help {name})")


def _near(name: str, known: Iterable[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f": did you mean {prefix}{near[0]}?"
    return f": there are {', '.join(prefix + one for one in known)}"


def _is_absl(name: str) -> bool:
    return name in FLAGS or name.removeprefix("no") in FLAGS


def _has_value(name: str, following: str) -> bool:
    """Whether the following word belongs to this flag, where no '=' does."""
    if name in SWITCHES:
        return following.lower() in ("true", "false")
    if name in TABLE or name == "mode" or name.startswith("config."):
        return True
    return name in FLAGS and not FLAGS[name].boolean
