"""Pictures without ground truth -> scores, verdicts, maps, regions.

In Python:

    from diffad_jax import predict

    model = predict.load("runs/bottle")
    result = model(picture)  # u8[h,w,3], grey u8[h,w], u8[n,h,w,3], a path, or a list of them

From the command line (`run`):

    python -m diffad_jax.main --mode predict --workdir runs/bottle --input PICTURES --output DIR

PICTURES is a picture, a folder (with all folders in it) or a glob pattern in quotes. DIR gets, with
NAME the path of a picture below the input folder:

    predictions.csv     a line a picture, sorted by name: picture (NAME), score, threshold,
                        confidence (that it is defective, in [0, 1], 0.5 at the threshold; empty
                        where no evaluation has calibrated it), verdict (good, defective, or empty
                        where there is no threshold), width and height (px), boxes (how many), map
                        and overlay (paths in DIR), error (why the picture cannot be read; then all
                        else is empty)
    predictions.jsonl   the same as JSON objects; boxes: a list of {x, y, width, height, area, peak}
    maps/NAME.png       16-bit grey of the picture's own size: anomaly in [0, 1] = value / 65535;
                        maps/NAME.npy, float32[h,w], with --config.predict.maps=npy
    overlays/NAME.png   the map in colours over the grey picture, and the boxes. The colours are the
                        same in all pictures: dark at 0, the middle one at the threshold of pixels,
                        the brightest at twice that (at 1 where there is no threshold)

All of it lies in the folder DIR/predictions.partial until all pictures are done; only then does it
take the place of what an earlier run wrote, the tables last. A run that dies leaves the earlier
results whole, and its own in predictions.partial, which the next run begins anew. Files of an
earlier run about pictures that are gone stay: the tables name what belongs together.

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

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from tqdm import tqdm

from configs.errors import UserError
from configs.schema import Config
from diffad_jax.predicting import writing
from diffad_jax.predicting.files import Source, find
from diffad_jax.predicting.loading import check_threshold, load
from diffad_jax.predicting.predictor import Predictor
from diffad_jax.predicting.results import Prediction, Tables
from diffad_jax.runs import lock
from input_pipeline.decoding.pictures import decode_rgb
from input_pipeline.folders import listing

logger = logging.getLogger(__name__)
UNREADABLE = 3  # exit status


def run(
    workdir: epath.PathLike,
    pattern: str | os.PathLike,
    output: str | os.PathLike,
    config: Config | None = None,
    threshold: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> int:
    """Judge all pictures that `pattern` means, write the results to `output` (see above).

    Args:
      workdir: the run's folder, or a bundle; see `load`.
      pattern: a picture, a folder or a glob pattern, local.
      output: the folder for the results, local; made if need be.
      config: see `load`.
      threshold: see `load`.
      overrides: see `load`.

    Returns:
      How many pictures could not be read, those of other formats and unreadable folders included.

    Raises:
      UserError: no pictures, no usable output folder, another prediction writes into it, or as
        `load`.
      KeyboardInterrupt: Ctrl-C; says what is done.
    """
    check_threshold(threshold)
    sources = find(pattern)
    target = _output_folder(output)
    with lock.Hold(target):
        model = load(workdir, config, threshold, overrides)
        counts = _judge(sources, target, model)
    left_out = [(source.path, source.left_out) for source in sources if source.left_out]
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    missed = f"; left out: {listing.told(left_out)}" if left_out else ""
    count = len(sources) - len(left_out)
    logger.info("%d pictures: %s%s -> %s", count, said, missed, target / "predictions.csv")
    return counts["unreadable"] + len(left_out)


def _judge(sources: list[Source], target: pathlib.Path, model: Predictor) -> dict[str, int]:
    """Judge and write all pictures; how many there are of each kind, without what is left out."""
    counts = dict.fromkeys(("good", "defective", "without verdict", "unreadable"), 0)
    with Tables(target) as tables:

        def finish(source: Source, picture, result) -> dict[str, Any]:
            return _write(tables.folder, source, picture, result, model)

        rows = model.stream(sources, read=_read, then=finish, count=len(sources))
        try:
            # disable=None: a bar on a terminal only.
            progress = tqdm(rows, total=len(sources), unit="picture", disable=None)
            for source, row in zip(sources, progress, strict=True):
                tables.write(row)
                if row["error"]:
                    logger.warning("%s", row["error"])
                kind = "unreadable" if row["error"] else row["verdict"] or "without verdict"
                counts[kind] += not source.left_out
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"by Ctrl-C, {sum(counts.values())} of {len(sources)} pictures are in "
                f"{tables.folder}; what was in {target} is as it was"
            ) from None
    return counts


def _read(source: Source) -> np.ndarray:
    if source.left_out:
        raise UserError(source.problem)
    return decode_rgb(source.path)


def _output_folder(output: str | os.PathLike) -> pathlib.Path:
    """The folder for the results, made if need be."""
    folder = pathlib.Path(output).expanduser()
    if "://" in os.fspath(output):
        raise UserError(f"{output} cannot be the output folder: it must be a local one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be the output folder: {error}") from error
    return folder


def _write(
    target: pathlib.Path,
    source: Source,
    picture: np.ndarray | None,
    result: Prediction | UserError,
    model: Predictor,
) -> dict[str, Any]:
    """Write a picture's files; returns its line of the tables."""
    if isinstance(result, UserError) or picture is None:
        return writing.unreadable(source.name, str(result))
    kind, scale = model.config.predict.maps, model.pixel_threshold
    row = writing.judged(source.name, result, model.threshold, result.confidence)
    return row | writing.write_maps(target, source, picture, result, scale, kind)
