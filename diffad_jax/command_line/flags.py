"""The modes of the command line, the flags that each uses, and the help about them."""

import dataclasses
import functools
import pathlib
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags as absl_flags
from ml_collections import config_flags

import configs

DEFAULT_MODE = "train"
PACKAGED = pathlib.Path(configs.__file__).parent


class Flag(NamedTuple):
    """One flag: what stands for its value in the help, and what it means."""

    value: str
    text: str
    define: Callable[..., Any] = absl_flags.DEFINE_string
    default: int | str | None = None


_count = functools.partial(absl_flags.DEFINE_integer, lower_bound=1)


def _one_of(*choices: str) -> Callable[..., Any]:
    return lambda name, default, text: absl_flags.DEFINE_enum(name, default, choices, text)


_from_zero = functools.partial(absl_flags.DEFINE_integer, lower_bound=0)

TABLE = {
    "config": Flag("FILE", "a configuration: a file, or a packaged one, such as default or small"),
    "workdir": Flag("DIR", "the run's folder, local or gs://"),
    "input": Flag(
        "PICTURES",
        "a picture, a folder with all folders in it, a pattern in quotes, a list (.txt, .csv, "
        ".parquet), or files of records",
    ),
    "maps": Flag(
        "KIND",
        "anomaly maps as png (16 bit) or npy (float32); none: neither these nor overlays",
        _one_of("png", "npy", "none"),
        "png",
    ),
    "shard": Flag("I/N", "share I, from 0, of N, which other processes may do meanwhile"),
    "output": Flag("PATH", "where the results go"),
    "threshold": Flag(
        "SCORE",
        "the lowest score of a defective picture; default: what --mode evaluate found",
        absl_flags.DEFINE_float,
    ),
    "model": Flag("BUNDLE", "what --mode export wrote, in the place of --workdir"),
    "precision": Flag(
        "NAME",
        "of the convolutions: float32, float16, or int8, which is calibrated on good pictures",
        _one_of("float32", "float16", "int8"),
        "float32",
    ),
    "format": Flag(
        "NAME",
        "onnx: a folder for machines without JAX; torch: a file for the authors' PyTorch code",
        _one_of("onnx", "torch"),
        "onnx",
    ),
    "corrections": Flag("FILE", "the corrections.jsonl of a station: what people said of verdicts"),
    "checkpoint": Flag("FILE", "what the authors' training code saved, such as params-last.pt"),
    "count": Flag("N", "pictures on the page", _count, 24),
    "first_step": Flag("N", "the first step shown, counted from 0", _from_zero, 0),
    "workers": Flag(
        "N",
        "categories at a time, with --config.data.category=all; 0: one per GPU or TPU chip",
        _from_zero,
        0,
    ),
    "prune": Flag(
        "",
        "then remove from data.cache_dir what these settings do not use of the category, or with "
        "category=all of any",
        absl_flags.DEFINE_boolean,
    ),
    "host": Flag(
        "ADDRESS", "where it listens; 0.0.0.0: for other machines too", default="127.0.0.1"
    ),
    "port": Flag("N", "where it listens; 0: any free one", _from_zero, 8000),
    "token": Flag(
        "TEXT", "what each request needs; default: one is made for what changes something"
    ),
    "watch": Flag("DIR", "a folder whose pictures are judged as they come"),
    "webhook": Flag("URL", "where each result is posted as JSON"),
    "mqtt": Flag("mqtt://HOST:PORT/TOPIC", "where each result is published as JSON"),
    "coordinator": Flag("HOST:PORT", "address of process 0 of a job of several processes"),
    "num_processes": Flag("N", "number of processes in the job; 1 disables multi-host", _count),
    "process_id": Flag("I", "index of this process, from 0", _from_zero),
}


@dataclasses.dataclass(frozen=True)
class Mode:
    """One thing the program does, and the flags it uses."""

    summary: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()
    words: dict[str, str] = dataclasses.field(default_factory=dict)  # flag -> its text here
    own_config: bool = False  # the configuration stored in --workdir is the default
    instead: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # what else will do for a need
    examples: tuple[str, ...] = ()

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of all its flags."""
        return self.needs + self.takes


_HOSTS = ("coordinator", "num_processes", "process_id")
_OWN = {"config": "another configuration of the same model; default: the run's own"}
_ARRAY = {"shard": "share I, from 0, of N of the categories; default: as an array of jobs says"}
_PARTS = "--config.data.root=parts --config.data.category=screw"

MODES = {
    "train": Mode(
        "train a run, or continue one where it stopped (the default)",
        ("config", "workdir"),
        ("workers", "shard", *_HOSTS),
        words=_ARRAY,
        examples=(
            f"--config default {_PARTS} --workdir runs/screw",
            "--config small --config.data.root=parts --config.data.category=all --workdir runs/all",
            "--config small --config.data.root=parts --config.data.category=all --workdir runs/all "
            "--shard=3/15",
        ),
    ),
    "evaluate": Mode(
        "score the test pictures with a run's newest checkpoint; write a report",
        ("workdir",),
        ("config", "corrections", "workers", "shard", *_HOSTS),
        _OWN
        | _ARRAY
        | {"corrections": "a station's corrections.jsonl: its pictures are judged, too"},
        own_config=True,
        examples=(
            "--workdir runs/screw",
            "--workdir runs/screw --config.evaluate.draws=4",
            "--workdir runs/screw --corrections screw-station/corrections.jsonl",
        ),
    ),
    "adapt": Mode(
        "train a copy of a run on, with what people corrected at the line",
        ("workdir", "output", "corrections"),
        ("config",),
        _OWN | {"output": "the new run's folder"},
        own_config=True,
        examples=(
            "--workdir runs/screw --output runs/screw_2 --corrections station/corrections.jsonl "
            "--config.train.steps=1200",
        ),
    ),
    "predict": Mode(
        "say of each picture whether it is defective, and where",
        ("workdir", "input", "output"),
        ("model", "config", "threshold", "maps", "shard", "num_processes"),
        _OWN
        | {
            "output": "folder for predictions.csv, predictions.jsonl, maps and overlays",
            "shard": "judge share I, from 0, of N; default: all, or this process's in a cluster",
            "num_processes": "1: judge all, whatever cluster this is",
        },
        own_config=True,
        instead={"workdir": "model"},
        examples=(
            "--workdir runs/screw --input photos --output results",
            "--workdir runs/screw --input 'photos/*.png' --output results --threshold=0.3",
            "--model screw_model --input photos --output results",
            "--workdir runs/screw --input gs://bucket/photos --output results --maps=none "
            "--shard=0/8",
        ),
    ),
    "merge": Mode(
        "join what predict has written for all shares into one table",
        ("output",),
        words={"output": "the folder that all shares have written into"},
        examples=("--output results",),
    ),
    "export": Mode(
        "write a run's model as a folder that runs without JAX, with proof that it judges alike",
        ("workdir", "output"),
        ("config", "precision", "format"),
        _OWN | {"output": "the new folder, or with --format=torch the new file"},
        own_config=True,
        examples=(
            "--workdir runs/screw --output screw_model",
            "--workdir runs/screw --output screw_int8 --precision=int8",
            "--workdir runs/screw --output params-last.pt --format=torch",
        ),
    ),
    "serve": Mode(
        "a station: judge pictures that come by HTTP or in a folder, with a page in the browser",
        ("model",),
        ("watch", "output", "threshold", "host", "port", "token", "webhook", "mqtt"),
        {
            "model": "what --mode export wrote, which needs no JAX, or a run's folder",
            "output": "the station's folder; default: MODEL-station",
            "threshold": "the lowest score of a defective picture; default: as set on the page, "
            "else what --mode evaluate found",
        },
        examples=("--model screw_model", "--model screw_model --watch camera --port 8080"),
    ),
    "compare": Mode(
        "one table of several runs: Markdown, LaTeX, CSV, HTML",
        ("workdir",),
        ("output",),
        {
            "workdir": "a run, a folder of runs, or a pattern in quotes",
            "output": "folder for the tables; default: the nearest folder that holds all the runs",
        },
        examples=("--workdir 'runs/*' --output comparison",),
    ),
    "check": Mode(
        "before training: read every file of the data set and list what is wrong with it",
        ("config",),
        examples=(f"--config default {_PARTS}",),
    ),
    "preview": Mode(
        "before training: a page of the pictures that training will see",
        ("config", "output"),
        ("count", "first_step"),
        {"output": "the page, an HTML file"},
        examples=(f"--config default {_PARTS} --output preview.html",),
    ),
    "foregrounds": Mode(
        "before training: an overview of where the part was found in each picture",
        ("config", "output"),
        words={"output": "the overview, a PNG file"},
        examples=(f"--config default {_PARTS} --output foregrounds.png",),
    ),
    "prepare": Mode(
        "decode and resize the pictures into the cache, for hosts that have only the cache",
        ("config",),
        ("prune",),
        examples=(f"--config default {_PARTS} --config.data.cache_dir=gs://bucket/prepared",),
    ),
    "import": Mode(
        "make a run from a checkpoint of the authors' PyTorch code",
        ("checkpoint", "config", "workdir"),
        words={
            "config": "the configuration that describes the trained model, its heads included",
            "workdir": "the new run's folder, local or gs://",
        },
        examples=("--checkpoint params-last.pt --config default --workdir runs/theirs",),
    ),
}


def define() -> None:
    """Define all flags in absl's FLAGS."""
    absl_flags.DEFINE_enum("mode", DEFAULT_MODE, list(MODES), "What to do; see --help.")
    for name, flag in TABLE.items():
        if name == "config":
            config_flags.DEFINE_config_file(name, None, flag.text)
        else:
            flag.define(name, flag.default, flag.text)


def overview(program: str) -> str:
    """The help about all modes."""
    modes = [f"  {name:<12} {mode.summary}" for name, mode in MODES.items()]
    return "\n".join(
        (
            "Find defects in pictures of products after training on good ones.",
            f"\nusage: {program} --mode MODE [flags]\n\nmodes:",
            *modes,
            f"\n{program} --help MODE   a mode's flags, with examples (or --mode MODE --help)",
            f"{program} --helpfull    every flag there is, of the libraries too",
            "\nExit status: 0 done; 1 wrong use or nothing to do, the last line says what; 3 "
            "predict is\ndone, but some pictures could not be read, which predictions.csv names; "
            "130 stopped by Ctrl-C; 143 training was stopped by SIGTERM, and has saved.",
        )
    )


def help_of(name: str, program: str) -> str:
    """The help about one mode."""
    mode = MODES[name]
    needed = " ".join(f"--{flag} {TABLE[flag].value}" for flag in mode.needs)
    lines = [f"{name}: {mode.summary}", f"\nusage: {program} --mode {name} {needed} [flags]\n"]
    for title, names in (("required:", mode.needs), ("optional:", mode.takes)):
        rows = [(f"--{flag} {TABLE[flag].value}", _text(flag, mode)) for flag in names]
        if title == "optional:" and "config" in mode.flags:
            where = f"one value of --config; {PACKAGED / 'default.py'} says what each key means"
            rows.insert(0, ("--config.KEY=VALUE", where))
        lines += [title] if rows else []
        lines += [_row(flag, text) for flag, text in rows]
    lines += ["\nexamples:", *(_command(f"{program} --mode {name} {e}") for e in mode.examples)]
    return "\n".join(lines)


def _text(flag: str, mode: Mode) -> str:
    text, default = mode.words.get(flag, TABLE[flag].text), TABLE[flag].default
    return text if default is None else f"{text} (default: {default})"


def _command(text: str) -> str:
    """A command on lines that a shell takes as one."""
    lines = textwrap.wrap(text, 96, break_long_words=False, break_on_hyphens=False)
    return "  " + " \\\n      ".join(lines)


def _row(flag: str, text: str) -> str:
    indent = " " * 27
    return textwrap.fill(
        text,
        100,
        initial_indent=f"  {flag:<24} ",
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
