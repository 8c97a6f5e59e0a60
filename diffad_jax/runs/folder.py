"""A run's folder: what lies in it, and which configuration it belongs to.

WORKDIR/config.json                     the configuration
WORKDIR/.lock                           who is training in it, while somebody is
WORKDIR/checkpoints/STEP/               state of training
WORKDIR/checkpoints_best/STEP/          that of the best step on the test split (train.keep_best)
WORKDIR/checkpoints_damaged/STEP/       checkpoints that could not be read
WORKDIR/threshold.json                  from which score on a picture is called defective
WORKDIR/metrics.jsonl                   a line for every log_every steps, and one per evaluation
WORKDIR/tensorboard/                    the same, and pictures
WORKDIR/profile/                        a profiler trace (train.profile_steps)
WORKDIR/eval/STEP/                      metrics.json, scores.csv, grid.png, report.html
"""

import json

from etils import epath

from configs import stored
from configs.schema import Config, difference, parse
from diffad_jax.runs.files import write

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
    "train.keep_best",
    "train.profile_steps",
    "evaluate.",
    "predict.",
    "data.cache_dir",
    "data.memory_gib",
    "data.missing_masks",
)
# What must be the same to evaluate a trained model; the pictures may be others, but not made to fit
# in another way.
FIXED_IN_EVALUATION = ("model.", "diffusion.", "data.resize", "data.fit")


def claim(workdir: epath.PathLike, config: Config) -> None:
    """Make the folder this run's, or check that it already is.

    Raises:
      ValueError: the folder holds a run whose model, data or training differs; names the keys.
    """
    path = stored.path(workdir)
    if not path.exists():
        epath.Path(workdir).mkdir(parents=True, exist_ok=True)
        write(path, json.dumps(config.to_dict(), indent=2) + "\n")
        return
    lines = [
        line
        for line in difference(stored.read(workdir), config.to_dict())
        if not line.startswith(FREE_IN_TRAINING)
    ]
    _refuse(lines, path, "use another --workdir, or the configuration it was started with")


def check_model(workdir: epath.PathLike, config: Config) -> None:
    """Check that the folder holds a run of the same model.

    Raises:
      ValueError: no run there, or one whose model differs; names the keys.
    """
    path = stored.path(workdir)
    lines = [
        line
        for line in difference(stored.read(workdir), config.to_dict())
        if line.startswith(FIXED_IN_EVALUATION)
    ]
    _refuse(lines, path, "give the configuration it was trained with")


def read_config(workdir: epath.PathLike) -> Config:
    """The configuration of a run.

    Raises:
      ValueError: no run there, or one of another version of this program, with other keys.
    """
    found = stored.get_config(workdir)
    try:
        return parse(found)
    except ValueError as error:
        raise ValueError(f"{stored.path(workdir)}: {error}; give --config") from error


def _refuse(lines: list[str], path: epath.Path, advice: str) -> None:
    if lines:
        raise ValueError(f"{path} belongs to another configuration ({'; '.join(lines)}): {advice}")
