"""Where synthetic anomalies may be painted: on the object, on a random part, or anywhere.

The paper takes pictures that were made offline with a network. Here mask files are used where a
category has them; otherwise the foreground is computed once and kept in the cache, and a bad one
never stops a run. `--mode foregrounds` shows them all.
"""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Literal

import joblib
import numpy as np
import tensorflow as tf
from etils import epath
from jaxtyping import UInt8
from scipy import ndimage

from configs.errors import UserError
from input_pipeline import cache, sealed
from input_pipeline.datasets import Category
from input_pipeline.on_disk import Stored, chunks, is_remote, replacing

logger = logging.getLogger(__name__)

# Where the foreground of a picture comes from.
FILE, COMPUTED, RANDOM, FULL = SOURCES = ("file", "computed", "random", "full")

_VERSION = 2  # of `object_foreground`: a new number makes the cached ones be found anew
_PLANES = "planes.npy"
_MANY = 1000  # pictures: fewer are found before other processes have started
_WORKING_SIZE = 128  # px; finer detail of an outline does not matter here
_BORDER = 0.04  # of the width: the frame of a picture that is taken for background
_NOISE_FACTOR = 4.0  # standard deviations of the background that still count as background
_LEAST_CONTRAST = 16.0  # grey levels, of 255
_SMALL_PIECE = 0.1  # of the largest piece: smaller ones are specks
_AREA_RANGE = (0.02, 0.98)  # of the picture; a foreground outside it has failed
_KNOTS = 7  # of the random field, a side
_RANDOM_AREA = (0.3, 1.0)  # of the picture


@dataclasses.dataclass(frozen=True)
class Foregrounds:
    """Foregrounds of n training pictures: 255 where anomalies may lie, soft between, 0 elsewhere.

    `sources[i]` says which holds for picture i: `files[i]`, `computed[i]`, a random part drawn
    anew each time the picture is used (one of `parts`, else `random_part`), or the full frame.
    """

    sources: list[str]
    files: UInt8[np.ndarray, "n s s 1"] | Stored | None  # None: no source is 'file'
    computed: UInt8[np.ndarray, "n s s 1"] | None  # 255 everywhere where no object was found
    parts: UInt8[np.ndarray, "k s s 1"] | None


def foregrounds_for(category: Category, choice: str, cache_dir: str) -> Foregrounds:
    """Foregrounds of the training pictures.

    Args:
      category: with n training pictures.
      choice: 'auto' (the files where they exist, else 'object' for an object and 'random' for a
        texture), 'object', 'random' or 'full'.
      cache_dir: computed ones are kept in its folder `foregrounds`, see `path_of`.
    """
    train = category.train
    sources = _sources(category, choice)
    return Foregrounds(
        sources=sources,
        files=train.foregrounds if FILE in sources else None,
        computed=_cached(category, cache_dir) if COMPUTED in sources else None,
        parts=category.parts if RANDOM in sources else None,
    )


def computes(category: Category, choice: str) -> bool:
    """Whether any of them is computed, and so kept in the cache; arguments as `foregrounds_for`."""
    return COMPUTED in _sources(category, choice)


def _sources(category: Category, choice: str) -> list[str]:
    """Where the foreground of each training picture comes from."""
    train = category.train
    other = {"object": COMPUTED, "random": RANDOM, "full": FULL}
    if choice == "auto":
        other["auto"] = COMPUTED if category.kind == "object" else RANDOM
        return [FILE if has else other["auto"] for has in train.has_foreground]
    return [other[choice]] * len(train.names)


def path_of(category: Category, cache_dir: str) -> epath.Path:
    """The folder of a category's computed foregrounds, for its training pictures.

    Named by the category and by all that decides them: what the pictures' files hold, how they
    became squares, and `_VERSION`.
    """
    train = category.train
    facts = [_VERSION, list(train.images.shape), category.as_read, train.stamps]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    name = f"{cache.plain(pathlib.Path(category.folder).name)}-{digest}"
    return epath.Path(os.path.expanduser(cache_dir)) / cache.FOREGROUNDS / name


def _cached(category: Category, cache_dir: str) -> np.ndarray:
    """u8[n, s, s, 1]: `object_foreground` of all pictures, from the cache where it is there.

    For pictures that stay on disk it stays there, too. What is damaged is found anew; a cache that
    cannot be written is no error.
    """
    images = category.train.images
    path = path_of(category, cache_dir)
    mode: Literal["r"] | None = None if isinstance(images, np.ndarray) else "r"
    try:
        if is_remote(cache_dir):
            raise OSError("not a local folder")
        if wrong := _problem(path, cache_dir):
            if sealed.there(path):
                logger.warning("%s is damaged (%s): its foregrounds are found again", path, wrong)
                sealed.take_away(path)
            _write(path, images)
        return np.load(path / _PLANES, mmap_mode=mode)
    except (OSError, ValueError, EOFError, UserError) as error:  # full, read-only or remote
        logger.warning("foregrounds are not kept in %s: %s", path.parent, error)
    return np.concatenate(list(_found(images)))


def _problem(path: epath.Path, cache_dir: str) -> str:
    """What is wrong with a folder of foregrounds; '': nothing."""
    found = sealed.problem(path, cache_dir, (_PLANES,))
    return "it has no seal" if found is None else found


def _write(path: epath.Path, images: np.ndarray | Stored) -> None:
    """A sealed folder with a NumPy file of u8[n, s, s, 1], which need not fit into memory."""
    shape = (*images.shape[:3], 1)
    with replacing(path) as partial:
        partial.mkdir()
        with open(partial / _PLANES, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for some in _found(images):
                file.write(some.data)
        sealed.seal(partial)


def _found(images: np.ndarray | Stored) -> Iterator[UInt8[np.ndarray, "k s s 1"]]:
    """`object_foreground` of all pictures, some at a time; of many, by all cores."""
    logger.info("finding the object in %d pictures (once)", len(images))
    some = (images[rows] for rows in chunks(len(images)))
    found: Iterator[np.ndarray] = map(object_foreground, some)
    if len(images) >= _MANY:
        jobs = map(joblib.delayed(object_foreground), some)
        found = joblib.Parallel(n_jobs=-1, return_as="generator")(jobs)
    failed = 0
    for planes in found:
        failed += int(planes.all((1, 2, 3)).sum())
        yield planes
    if failed:
        logger.info(
            "no object found in %d of %d pictures: anomalies go anywhere", failed, len(images)
        )


def object_foreground(images: UInt8[np.ndarray, "n s s 3"]) -> UInt8[np.ndarray, "n s s 1"]:
    """255 on the object and 0 on the background, found without any model.

    The background is what looks like the picture's border: a plane a + b y + c x is fitted to each
    channel there (light is rarely even), parts of the object that reach the border excepted. What
    differs from that plane by more than the background's own noise is object; it is closed, its
    holes are filled and specks dropped. A picture where this finds nearly nothing or nearly
    everything gets the full frame.
    """
    n, size = images.shape[:2]
    result = np.full((n, size, size, 1), 255, np.uint8)
    for i, image in enumerate(images):
        mask = _outline(_shrink(image))
        if _AREA_RANGE[0] <= mask.mean() <= _AREA_RANGE[1]:
            result[i, ..., 0] = 255 * _enlarge(mask, size)
    return result


def _shrink(image: np.ndarray) -> np.ndarray:
    """f32[h, w, 3] of at most about the working size: means of whole blocks."""
    block = max(1, image.shape[0] // _WORKING_SIZE)
    side = image.shape[0] // block
    cut = image[: side * block, : side * block].astype(np.float32)
    return cut.reshape(side, block, side, block, 3).mean((1, 3))


def _enlarge(mask: np.ndarray, size: int) -> np.ndarray:
    """bool[size, size] of a smaller mask, its edges interpolated."""
    side = mask.shape[0]
    position = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    grid = np.meshgrid(position, position, indexing="ij")
    return ndimage.map_coordinates(mask.astype(np.float32), grid, order=1) > 0.5


def _outline(image: np.ndarray) -> np.ndarray:
    """bool[h, w]: the object in f32[h, w, 3]."""
    side = image.shape[0]
    smooth = ndimage.gaussian_filter(image, (0.8, 0.8, 0))
    distance, noise = _distance_to_background(smooth)
    mask = distance > max(_NOISE_FACTOR * noise, _LEAST_CONTRAST)
    reach = max(1, side // 40)
    disk = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) <= reach
    # The frame is extended by its own edge, else closing would eat an object that touches it.
    padded = np.pad(mask, 2 * reach, mode="edge")
    closed = ndimage.binary_closing(padded, disk)[2 * reach : -2 * reach, 2 * reach : -2 * reach]
    filled = ndimage.binary_fill_holes(closed)
    pieces, count = ndimage.label(filled)
    if count:
        areas = np.bincount(pieces.ravel())
        areas[0] = 0
        filled = (areas >= _SMALL_PIECE * areas.max())[pieces]
    return ndimage.gaussian_filter(filled.astype(np.float32), side / 100) > 0.5


def _distance_to_background(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Colour distance of every pixel to the background's plane, and the background's spread."""
    side = image.shape[0]
    y, x = np.meshgrid(*[np.linspace(-1, 1, side, dtype=np.float32)] * 2, indexing="ij")
    basis = np.stack([np.ones_like(x), y, x], -1)
    width = max(1, round(_BORDER * side))
    border = np.ones((side, side), bool)
    border[width:-width, width:-width] = False
    points, colours = basis[border], image[border]
    plane = np.zeros((3, 3), np.float32)
    plane[0] = np.median(colours, 0)
    spread = 0.0
    for _ in range(4):  # the first round, around the median colour, drops the object's parts
        distance = np.linalg.norm(colours - points @ plane, axis=-1)
        spread = float(np.median(distance))
        inside = distance <= max(3 * spread, _LEAST_CONTRAST / 2)
        plane = np.linalg.lstsq(points[inside], colours[inside], rcond=None)[0]
    return np.linalg.norm(image - basis @ plane, axis=-1), spread


def random_part(seed: tf.Tensor, size: int) -> tf.Tensor:
    """A random part of a picture, for textures: f32[size, size, 1] of zeros and ones.

    Where a smooth random field exceeds the quantile that leaves a share U(0.3, 1) of the picture.
    TF graph code, a function of `seed` (int64[2]) alone.
    """
    # Gaussian bumps on knots that reach beyond the picture, so that its edges are like its middle.
    centres = np.linspace(-0.25, 1.25, _KNOTS)
    pixels = (np.arange(size) + 0.5) / size
    spread = centres[1] - centres[0]
    bumps = np.exp(-(((pixels[:, None] - centres) / spread) ** 2)).astype(np.float32)
    knots = tf.random.stateless_normal([_KNOTS, _KNOTS], tf.random.fold_in(seed, 0))
    field = bumps @ knots @ bumps.T
    area = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1), *_RANDOM_AREA)
    # A coarser grid gives the quantile closely enough, for a fraction of the sorting.
    stride = max(1, size // 64)
    sample = tf.sort(tf.reshape(field[::stride, ::stride], [-1]))
    index = tf.cast((1.0 - area) * tf.cast(tf.size(sample), tf.float32), tf.int32)
    return tf.cast(field >= tf.gather(sample, index), tf.float32)[..., None]
