"""Pictures without ground truth -> scores, verdicts, maps, regions.

In Python:

    from diffad_jax import predict

    model = predict.load("runs/bottle")
    result = model(picture)  # u8[h,w,3], grey u8[h,w], u8[n,h,w,3], a path, or a list of them

From the command line (`run`):

    python -m diffad_jax.main --mode predict --workdir runs/bottle --input PICTURES --output DIR

PICTURES is a picture, a folder (with all folders in it), a glob pattern in quotes, a list, or files
of records (see `predicting.inputs`). DIR gets, with NAME the path of a picture below the input
folder, or as the list has it:

    predictions.csv     a line a picture, sorted by name (a list's as they stand there): picture
                        (NAME), score, threshold, confidence (that it is defective, in [0, 1], 0.5
                        at the threshold; empty where no evaluation has calibrated it), verdict
                        (good, defective, or empty where there is no threshold), width and height
                        (px), boxes (how many), map and overlay (paths in DIR), error (why the
                        picture cannot be read; then all else is empty)
    predictions.jsonl   the same as JSON objects; boxes: a list of {x, y, width, height, area, peak}
    maps/NAME.png       16-bit grey of the picture's own size: anomaly in [0, 1] = value / 65535;
                        maps/NAME.npy, float32[h,w], with --maps=npy; with --maps=none neither
                        these nor overlays
    overlays/NAME.png   the map in colours over the grey picture, and, but for a good one, the
                        boxes. The colours are the same in all pictures: dark at 0, the middle one
                        at the threshold of pixels, the brightest at twice that (at 1 where there is
                        no threshold)

All of it lies in the folder DIR/predictions.partial until all pictures are done; only then does it
take the place of what an earlier run wrote, the tables last. A run that dies leaves the earlier
results whole, and its own in predictions.partial: the same command goes on with the pictures that
have no row there yet, or have changed; another one begins anew. Files of an earlier run about
pictures that are gone stay: the tables name what belongs together. With --shard, each share has its
own folder and its own table, and `--mode merge` joins them: see `predicting.shares`.

Exit status: 0 all pictures were read, 1 nothing to do or wrong use (one line says what), 3 some
pictures could not be read, 130 stopped by Ctrl-C. Whatever is called like a picture has a line in
the tables, and 3 says that any of these lines has an error:

    a file that is no whole picture, or that nobody may read
    a file with the ending of another format of pictures, such as .heic, .gif, .jp2 or .raw
    a folder that nobody may read; its name ends in '/'

The last line of the log counts them. No line, and no word, for what nobody misses: hidden files and
folders, those that systems leave behind (Thumbs.db, __MACOSX, @eaDir, ...), files that are not
called like pictures (notes.txt), and maps and overlays that a prediction wrote (known by a mark in
them; other pictures in folders called maps or overlays are read).

A picture is decoded and resized as in training, and all get the same noise: a score does not
depend on other pictures, and is what `--mode evaluate` gives for it (to the last bit in batches of
the same size; pictures that are fewer than `evaluate.batch_size` go in smaller ones).
"""

import collections
import itertools
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from configs.errors import UserError
from configs.schema import Config
from diffad_jax.predicting import inputs, results, shares, writing
from diffad_jax.predicting.files import Source
from diffad_jax.predicting.loading import check_threshold, load
from diffad_jax.predicting.parts import Parts
from diffad_jax.predicting.predictor import Predictor
from diffad_jax.predicting.results import Prediction
from diffad_jax.runs import lock
from diffad_jax.scoring import identity
from input_pipeline.folders import listing
from input_pipeline.on_disk import is_remote

logger = logging.getLogger(__name__)
UNREADABLE = 3  # exit status
KINDS = ("png", "npy", "none")  # of maps


def run(
    workdir: epath.PathLike,
    pattern: str | os.PathLike,
    output: str | os.PathLike,
    config: Config | None = None,
    threshold: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    maps: str = "png",
    shard: tuple[int, int] | None = None,
) -> int:
    """Judge all pictures that `pattern` means, write the results to `output` (see above).

    Args:
      workdir: the run's folder, or a bundle; see `load`.
      pattern: the pictures; see `predicting.inputs`.
      output: the folder for the results, made if need be; local, or with `shard` also gs://.
      config: see `load`.
      threshold: see `load`.
      overrides: see `load`.
      maps: how anomaly maps are written; 'none': neither maps nor overlays.
      shard: (i, n): judge share i of n alone, and write its table; see `predicting.shares`.

    Returns:
      How many pictures could not be read, those of other formats and unreadable folders included.

    Raises:
      UserError: no pictures, no usable output folder, another prediction writes into it, or as
        `load`.
      KeyboardInterrupt: Ctrl-C; says what is done.
    """
    check_threshold(threshold)
    if maps not in KINDS:
        raise UserError(f"maps are written as {', '.join(KINDS)}, not {maps!r}")
    sources = inputs.stream(pattern, *(shard or ()))
    target = _output_folder(output, shard)
    name = shares.called(*shard) if shard else "predictions"
    partial = target / f"{name}.partial"
    with lock.Hold(partial if shard else target):
        model = load(workdir, config, threshold, overrides)
        about = _about(model, pattern, maps)
        mark = shares.done(target, name, about) if shard else None
        if mark is None:
            parts = Parts(partial, about)
            _judge(sources, target if shard else partial, model, parts, maps)
            mark = _finish(parts, target, name, about, shard is not None)
        else:
            logger.info("share %d of %d was done before", *(shard or ()))
            partial.rmtree()
    said = ", ".join(f"{count} {kind}" for kind, count in mark["counts"].items() if count)
    left_out = collections.Counter(mark["left_out"])
    missed = f"; left out: {listing.counted(left_out)}" if left_out else ""
    logger.info(
        "%d pictures: %s%s -> %s",
        sum(mark["counts"].values()),
        said,
        missed,
        target / mark["table"],
    )
    return mark["counts"]["unreadable"] + left_out.total()


def _judge(
    sources: Iterator[Source], folder: epath.Path, model: Predictor, parts: Parts, maps: str
) -> None:
    """Judge what has no row yet; maps and overlays go into `folder`."""

    def finish(source: Source, picture, result) -> tuple[Source, dict[str, Any]]:
        return source, _row(folder, source, picture, result, model, maps)

    remaining = parts.remaining(sources)
    first = list(itertools.islice(remaining, model.config.evaluate.batch_size))
    every = itertools.chain(first, remaining)
    rows = model.stream(every, read=Source.decode, then=finish, count=len(first))
    try:
        # disable=None: a bar on a terminal only.
        for source, row in tqdm(rows, unit="picture", disable=None):
            parts.add(source, row)
            if row["error"]:
                logger.warning("%s", row["error"])
    except KeyboardInterrupt:
        parts.flush()
        count = sum(parts.counts.values())
        raise KeyboardInterrupt(
            f"by Ctrl-C, {count} pictures are done: the same command goes on with the others"
        ) from None
    parts.flush()
    logger.info("%s", model.told())


def _finish(
    parts: Parts, output: epath.Path, name: str, about: Mapping[str, Any], share: bool
) -> dict[str, Any]:
    """Write the tables where they belong; returns what a share's mark says."""
    if share:
        return shares.finish(parts, output, name, about)
    results.write(parts.folder, parts.rows())
    results.publish(pathlib.Path(parts.folder), pathlib.Path(output))
    return {"counts": parts.counts, "left_out": parts.left_out, "table": results.TABLES[0]}


def _about(model: Predictor, pattern: str | os.PathLike, maps: str) -> dict[str, Any]:
    """What the rows depend on besides the pictures."""
    return {
        "input": os.fspath(pattern),
        "category": model.config.data.category,
        "step": model.step,
        "threshold": model.threshold,
        "pixel_threshold": model.pixel_threshold,
        "slope": model.slope,
        "settings": identity.settings(model.config),
        "tile_overlap": model.config.predict.tile_overlap,
        "maps": maps,
    }


def _output_folder(output: str | os.PathLike, shard: tuple[int, int] | None) -> epath.Path:
    """The folder for the results, made if need be."""
    folder = epath.Path(output).expanduser()
    if is_remote(output) and shard is None:
        raise UserError(f"{output} is not local: give --shard=0/1, or a local --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be the output folder: {error}") from error
    return folder


def _row(
    folder: epath.Path,
    source: Source,
    picture: np.ndarray | None,
    result: Prediction | UserError,
    model: Predictor,
    maps: str,
) -> dict[str, Any]:
    """A picture's line of the tables, with its map and overlay written."""
    if isinstance(result, UserError) or picture is None:
        return writing.unreadable(source.name, str(result))
    row = writing.judged(source.name, result, model.threshold, result.confidence)
    if maps == "none":
        return row
    pixel = model.pixel_threshold
    return row | writing.write_maps(folder, source, picture, result, row["verdict"], pixel, maps)
