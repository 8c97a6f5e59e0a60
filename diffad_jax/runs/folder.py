"""A run's folder: what lies in it, which configuration and which pictures it belongs to.

WORKDIR/config.json                     the configuration
WORKDIR/pictures.json                   the pictures it trains on, and those held out of training
WORKDIR/.lock                           who is training in it, while somebody is
WORKDIR/checkpoints/STEP/               state of training
WORKDIR/checkpoints_best/STEP/          that of the best step on the test split (train.keep_best)
WORKDIR/checkpoints_damaged/STEP/       checkpoints that are not as they were written
WORKDIR/saved.json                      the step of the newest checkpoint ever completed
WORKDIR/threshold.json                  from which score on a picture is called defective
WORKDIR/metrics.jsonl                   a line for every log_every steps, and one per evaluation
WORKDIR/tensorboard/                    the same, and pictures
WORKDIR/profile/                        a profiler trace (train.profile_steps)
WORKDIR/eval/STEP/                      metrics.json, scores.csv, reference.json, grid.png,
                                        report.html
"""

import json
import logging
from typing import Any

import ml_collections
from etils import epath

from configs import stored
from configs.errors import UserError
from configs.nested import difference, flat
from configs.schema import Config, parse
from diffad_jax.runs.files import write

logger = logging.getLogger(__name__)
PICTURES, SAVED = "pictures.json", "saved.json"

# What may change between two starts of one training run: its length, how often things are written,
# how it is evaluated, where its pictures lie and what they are called (which they are, and how they
# are treated, is kept apart: `pictures.claim`), what saves memory with the same mathematics.
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
    "model.remat",
    "evaluate.",
    "predict.",
    "data.root",
    "data.category",
    "data.kind",
    "data.layout",
    "data.textures",
    "data.corrections",
    "data.cache_dir",
    "data.memory_gib",
    "data.missing_masks",
)
# What a trained model is made of, and how a picture is made to fit: evaluation must use the same.
# It may compute in another precision or with another kernel.
FIXED_IN_EVALUATION = ("model.", "diffusion.", "data.resize", "data.fit")
FREE_IN_EVALUATION = (
    "model.remat",
    "model.attention",
    "model.compute_dtype",
    "model.matmul_precision",
)


def check_claim(workdir: epath.PathLike, config: Config) -> list[str]:
    """Check that the folder is free for this run or already its own.

    A folder without a checkpoint holds no work yet, so other settings may take it over.

    Returns:
      What is different from the settings that stand there.

    Raises:
      UserError: it holds a run whose model, data or training differs; names the keys.
    """
    if not stored.path(workdir).exists():
        return []
    lines = changes(workdir, config, free=FREE_IN_TRAINING)
    if lines and has_checkpoint(workdir):
        _refuse(lines, workdir, "use another --workdir, or the settings it was started with")
    return lines


def claim(workdir: epath.PathLike, config: Config) -> None:
    """Make the folder this run's; errors as `check_claim`. Whoever calls this holds the lock."""
    lines = check_claim(workdir, config)
    if has_checkpoint(workdir) and stored.path(workdir).exists():
        return
    if lines:
        logger.info("%s has no checkpoint yet: started anew, %s", workdir, _told(lines))
    (epath.Path(workdir) / PICTURES).unlink(missing_ok=True)
    write(stored.path(workdir), json.dumps(config.to_dict(), indent=2) + "\n")


def changes(workdir: epath.PathLike, config: Config, free: tuple[str, ...]) -> list[str]:
    """What is different from the run's configuration, without what is free to change."""
    lines = difference(stored.read(workdir), config.to_dict())
    return [line for line in lines if not line.startswith(free)]


def trained_with(workdir: epath.PathLike) -> dict[str, Any]:
    """What a run was trained with, by dotted key: all that must stay as it was to resume.

    Its length is not in it, which a run may change.

    Raises:
      UserError: as `stored.read`.
    """
    values = flat(stored.read(workdir))
    return {key: value for key, value in values.items() if not key.startswith(FREE_IN_TRAINING)}


def has_checkpoint(workdir: epath.PathLike) -> bool:
    """Whether any checkpoint was ever completed here, one that is damaged or gone included.

    STEP, or where a damaged one of that step was there before STEP.1; what is half-written is
    called otherwise.
    """
    if (epath.Path(workdir) / SAVED).exists():
        return True
    folders = [path for path in epath.Path(workdir).glob("checkpoints*/*") if path.is_dir()]
    return any(path.name.replace(".", "").isdecimal() for path in folders)


def note_saved(workdir: epath.PathLike, step: int) -> None:
    """Note that the checkpoint of `step` is complete."""
    write(epath.Path(workdir) / SAVED, json.dumps({"step": step}) + "\n")


def check_resumed(workdir: epath.PathLike, step: int | None) -> None:
    """Check that what was saved here is not lost; `step` is the newest checkpoint's, if any.

    Raises:
      UserError: a checkpoint was completed here, and there is none any more: training would begin
        at step 0, and what was logged be dropped.
    """
    path = epath.Path(workdir) / SAVED
    if not path.exists():
        return
    try:
        saved = int(json.loads(path.read_text())["step"])
    except (ValueError, TypeError, KeyError):  # that something was saved is what matters
        saved = -1
    which = f"step {saved}" if saved >= 0 else "a step"
    if step is None:
        raise UserError(
            f"{which} was saved in {workdir}, but there is no checkpoint any more: put it back, or "
            f"remove {path} to begin at step 0 (which drops what metrics.jsonl holds)"
        )
    if saved > step:
        logger.warning("%s was saved in %s, but it goes on from step %d", which, workdir, step)


def check_model(workdir: epath.PathLike, config: Config) -> None:
    """Check that the folder holds a run of the same model.

    Raises:
      UserError: no run there, or one whose model differs; names the keys.
    """
    lines = changes(workdir, config, free=FREE_IN_EVALUATION)
    lines = [line for line in lines if line.startswith(FIXED_IN_EVALUATION)]
    if lines:
        _refuse(lines, workdir, "give the configuration it was trained with")


def read_config(workdir: epath.PathLike) -> Config:
    """The configuration of a run; errors as `parsed`."""
    return parsed(workdir, stored.get_config(workdir))


def parsed(workdir: epath.PathLike, values: ml_collections.ConfigDict) -> Config:
    """A run's configuration, perhaps changed, checked.

    Raises:
      UserError: an impossible value, or keys of another version of this program.
    """
    try:
        return parse(values)
    except UserError as error:
        raise UserError(f"{stored.path(workdir)}: {error}; give --config") from error


def _refuse(lines: list[str], workdir: epath.PathLike, advice: str) -> None:
    raise UserError(f"{workdir} was started with other settings ({_told(lines)}): {advice}")


def _told(lines: list[str]) -> str:
    """Lines of `difference` in words."""
    return "; ".join(line.replace(": ", " was ", 1).replace(" -> ", ", is now ") for line in lines)
