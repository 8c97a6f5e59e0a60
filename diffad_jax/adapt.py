r"""A run goes on learning, with what people corrected at the line.

    python -m diffad_jax.main --mode adapt --workdir runs/bottle --output runs/bottle_2 \
        --corrections bottle-station/corrections.jsonl

The new run begins where the old one stands. The good pictures among the corrections are trained on
besides the old ones, and the defective ones are test pictures, with masks where people marked the
defect. The new run's folder keeps its own copy of them. An interrupted command, given again, goes
on where it stopped.
"""

import dataclasses
import logging
import math
import os
import pathlib
import shutil

from etils import epath

from configs.errors import UserError
from configs.schema import Config
from diffad_jax import train
from diffad_jax.runs import checkpoint, folder, lock, pictures
from input_pipeline import corrections
from input_pipeline.datasets import load_category, load_textures
from input_pipeline.on_disk import replacing

logger = logging.getLogger(__name__)
MORE = 0.1  # of the steps that were made, where the configuration asks for no more


def run(
    config: Config, workdir: epath.PathLike, output: str | os.PathLike, file: str
) -> dict[str, float] | None:
    """Train a copy of a run on with corrections; returns what `train.run` does.

    Args:
      config: of the run in `workdir`, perhaps changed; where `train.steps` is no more than what was
        trained, a tenth more is added.
      workdir: the run's folder; it is only read.
      output: the new run's folder, local.
      file: the corrections.jsonl.

    Raises:
      UserError: no run or no whole checkpoint, no corrections, or as `train.run`.
    """
    target = pathlib.Path(output).expanduser()
    if "://" in os.fspath(output):
        raise UserError(f"{output} cannot be the new run's folder: it must be a local one")
    with checkpoint.Checkpoints(workdir, writer=False) as old:
        step = old.latest
        if step is None or not old.whole(step):
            raise UserError(f"{workdir} has no whole checkpoint to go on from")
    config = _longer(config, step, target)
    if not folder.has_checkpoint(target):
        _begin(config, epath.Path(workdir), target, corrections.folder_of(file), step)
    return train.run(config, target)


def _longer(config: Config, step: int, target: pathlib.Path) -> Config:
    """Of enough steps, and with its own corrections."""
    steps = config.train.steps
    if steps <= step:
        steps = step + math.ceil(MORE * step)
    data = dataclasses.replace(config.data, corrections=os.fspath(target / corrections.FILE))
    length = dataclasses.replace(config.train, steps=steps, epochs=0)
    return dataclasses.replace(config, data=data, train=length)


def _begin(
    config: Config, workdir: epath.Path, target: pathlib.Path, source: pathlib.Path, step: int
) -> None:
    """Make the new run's folder; its checkpoint comes last, so half of a beginning is none."""
    with lock.Hold(target):
        for word in corrections.records(source):
            for name in filter(None, (word.picture, word.mask)):
                with replacing(target / name) as partial:
                    shutil.copyfile(source / name, partial)
        with replacing(target / corrections.FILE) as partial:
            shutil.copyfile(source / corrections.FILE, partial)
        size, kept_aside = config.model.image_size, pictures.held_out(workdir)
        category = load_category(config.data, size, kept_aside)
        folder.claim(target, config)
        pictures.claim(target, category, load_textures(config.data, size))
        with replacing(checkpoint.place(target) / str(step)) as partial:
            _copy(checkpoint.place(workdir) / str(step), partial)
        folder.note_saved(target, step)
    logger.info("%s, step %d, goes on in %s", workdir, step, target)


def _copy(source: epath.Path, target: epath.Path) -> None:
    """A folder with all below it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            _copy(path, target / path.name)
        else:
            path.copy(target / path.name)
