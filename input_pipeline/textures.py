"""Pictures that anomalies are painted with: procedural textures, and TensorFlow Datasets sets.

Procedural textures are for those who have no texture pictures: a bank of pictures by fixed rules,
the same on every run, of noise, marble, wood, stripes, bricks, dots, cells, scratches and weave,
each in random colours.
"""

import logging
import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from configs.errors import UserError
from input_pipeline import keep_tensorflow_off_accelerators
from input_pipeline.decoding.pictures import EXTENSIONS
from input_pipeline.on_disk import replacing

logger = logging.getLogger(__name__)

RECIPE = 1  # raise it whenever a texture would come out differently
COUNT = 64  # pictures in the bank
_SEED = 20230314  # of the bank
_PALETTE = 5  # colours of a picture
_TURNED = 2.0  # a side, of the square that a field is computed on: room for turning it


def procedural_textures(size: int, count: int = COUNT) -> UInt8[np.ndarray, "n {size} {size} 3"]:
    """`count` textures of size x size px, by the rules in turn; picture i depends on i only."""
    return np.stack([texture(index, size) for index in range(count)])


def procedural_names(count: int = COUNT) -> list[str]:
    """The names of `procedural_textures`: each one's rule, and its number from 0."""
    return [f"{rule_of(index)} {index}" for index in range(count)]


def rule_of(index: int) -> str:
    """The key in `RULES` of texture number `index`."""
    return list(RULES)[index % len(RULES)]


def texture(index: int, size: int, seed: int = _SEED) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Texture number `index`: a field of one rule through a random palette, with fine grain."""
    rng = np.random.default_rng([seed, index])
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size - 0.5] * 2, indexing="ij")
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    field = RULES[rule_of(index)](rng, y, x)
    # Ranks instead of values: every colour of the palette gets its share of the picture.
    order = np.argsort(field + 1e-6 * rng.random(field.shape), axis=None)
    share = np.empty(field.size)
    share[order] = np.linspace(0, 1, field.size)
    mix = rng.uniform(0.2, 0.8)
    low, high = field.min(), field.max()
    value = mix * share.reshape(field.shape) + (1 - mix) * (field - low) / max(high - low, 1e-9)
    knots = np.sort(np.concatenate([[0, 1], rng.random(_PALETTE - 2)]))
    palette = _palette(rng)
    colour = np.stack([np.interp(value, knots, palette[:, c]) for c in range(3)], axis=-1)
    colour += rng.normal(0, rng.uniform(0, 10), (size, size, 1))
    return np.clip(np.round(colour), 0, 255).astype(np.uint8)


def _palette(rng: np.random.Generator) -> Float[np.ndarray, "k 3"]:
    """Grey levels of a few colours: of one hue every third time, else of any."""
    colours = rng.uniform(0, 255, (_PALETTE, 3))
    if rng.random() < 1 / 3:
        light = np.linspace(rng.uniform(0, 80), rng.uniform(150, 255), _PALETTE)[:, None]
        colours = np.clip(light * (0.4 + 1.2 * rng.random(3)), 0, 255)
    return colours


def _noise(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, cells: float) -> np.ndarray:
    """Value noise about in [-1, 1]: random values on a grid of `cells` a side, interpolated."""
    side = int(np.ceil(cells * _TURNED)) + 2
    grid = rng.uniform(-1, 1, (side, side))
    row, column = ((p + _TURNED / 2) * cells for p in (y, x))
    i, j = np.floor(row).astype(int), np.floor(column).astype(int)
    v, u = (t * t * (3 - 2 * t) for t in (row - i, column - j))
    top = grid[i, j] * (1 - u) + grid[i, j + 1] * u
    return top * (1 - v) + (grid[i + 1, j] * (1 - u) + grid[i + 1, j + 1] * u) * v


def _fractal(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Octaves of noise, from coarse to fine."""
    cells, fall = rng.uniform(2, 10), rng.uniform(0.4, 0.85)
    octaves = (fall**k * _noise(rng, y, x, cells * 2**k) for k in range(4))
    return sum(octaves, np.zeros_like(x))


def _marble(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Waves bent by noise."""
    return np.sin(2 * np.pi * rng.uniform(2, 9) * x + rng.uniform(2, 7) * _fractal(rng, y, x))


def _wood(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Rings around a centre outside or inside, stretched along one axis."""
    cy, cx = rng.uniform(-1, 1, 2)
    radius = np.hypot((y - cy) * rng.uniform(0.1, 1), x - cx)
    return np.sin(2 * np.pi * rng.uniform(8, 24) * (radius + 0.05 * _noise(rng, y, x, 3.0)))


def _stripes(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sharp or soft stripes, some wavy."""
    wave = rng.uniform(0, 0.04) * np.sin(2 * np.pi * rng.uniform(1, 5) * y)
    return np.tanh(rng.uniform(1, 8) * np.sin(2 * np.pi * rng.uniform(4, 30) * (x + wave)))


def _bricks(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Rows of bricks or tiles, each of its own shade, with joints."""
    rows, columns = rng.uniform(3, 12, 2)
    shift = rng.choice([0.0, 0.5])
    i = np.floor(y * rows)
    column = x * columns + shift * (i % 2)
    shade = rng.uniform(-1, 1, (32, 32))[i.astype(int) % 32, np.floor(column).astype(int) % 32]
    joint = rng.uniform(0.05, 0.2)
    return np.where((y * rows - i < joint) | (column % 1 < joint), -1.5, shade)


def _dots(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A grid of round dots, moved a little at random, of random size."""
    cells = rng.uniform(4, 20)
    row, column = y * cells, x * cells
    i, j = np.floor(row).astype(int) % 64, np.floor(column).astype(int) % 64
    dy, dx = rng.uniform(0.35, 0.65, (2, 64, 64))
    radius = rng.uniform(0.1, 0.4, (64, 64))[i, j]
    distance = np.hypot(row % 1 - dy[i, j], column % 1 - dx[i, j])
    return np.clip((radius - distance) * rng.uniform(4, 30), -1, 1)


def _cells(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance to the nearest of random points: pebbles, leather, cracked ground."""
    points = rng.uniform(-0.75, 0.75, (int(rng.uniform(20, 160)), 2))
    nearest = np.full((2, *y.shape), np.inf)
    for cy, cx in points:
        distance = np.hypot(y - cy, x - cx)
        nearest[1] = np.minimum(nearest[1], np.maximum(distance, nearest[0]))
        nearest[0] = np.minimum(nearest[0], distance)
    return nearest[0] if rng.random() < 0.5 else np.minimum(nearest[1] - nearest[0], 0.05)


def _scratches(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Brushed metal: noise that is fine across and long along."""
    across = _noise(rng, y, x, rng.uniform(1, 4))
    return across + sum(_noise(rng, y * rng.uniform(0.01, 0.06), x, 2.0**k) for k in (5, 6))


def _weave(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Threads over and under each other."""
    cells = rng.uniform(6, 24)
    warp, weft = np.abs(np.sin(np.pi * cells * x)), np.abs(np.sin(np.pi * cells * y))
    over = (np.floor(cells * x) + np.floor(cells * y)) % 2 == 0
    return np.where(over, warp, -weft) + rng.uniform(0, 0.5) * _noise(rng, y, x, 4.0)


RULES: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]] = {
    "noise": _fractal,
    "marble": _marble,
    "wood": _wood,
    "stripes": _stripes,
    "bricks": _bricks,
    "dots": _dots,
    "cells": _cells,
    "scratches": _scratches,
    "weave": _weave,
}


PREFIX = "tfds:"


def folder_of(textures: str, cache_dir: str, needed: bool) -> pathlib.Path:
    """The folder that `data.textures` names.

    Args:
      textures: a folder, or 'tfds:NAME', whose files are written to CACHE/tfds/NAME when they are
        not there yet.
      cache_dir: `data.cache_dir`.
      needed: whether the files have to be there.

    Raises:
      UserError: no such set, one without pictures, or one that can be neither read nor downloaded.
    """
    if not textures.startswith(PREFIX):
        return pathlib.Path(textures).expanduser()
    if needed and "://" in cache_dir:
        raise UserError(f"data.textures={textures} needs a local data.cache_dir, got {cache_dir}")
    name = textures.removeprefix(PREFIX)
    folder = pathlib.Path(cache_dir).expanduser() / "tfds" / name.replace("/", "-")
    if needed and not folder.exists():
        try:
            _write_pictures(_tfds_builder(name, cache_dir), folder)
        except Exception as error:  # what TFDS raises has no common class
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"data.textures={textures} cannot be read or downloaded: {reason[:300]}; give the "
                f"folder of a copy, or '' for procedural textures"
            ) from error
    return folder


def _tfds_builder(name: str, cache_dir: str) -> tfds.core.DatasetBuilder:
    """The set where it is prepared, in TFDS's own folder or in the cache; else downloaded there."""
    for data_dir in (None, os.path.expanduser(cache_dir)):
        builder = tfds.builder(name, data_dir=data_dir)
        if builder.data_path.exists():
            return builder
    logger.info("downloading %s (once)", name)
    builder.download_and_prepare()
    return builder


def _write_pictures(builder: tfds.core.DatasetBuilder, folder: pathlib.Path) -> None:
    """Write all pictures of all splits as they are encoded; the folder is there whole or not."""
    keep_tensorflow_off_accelerators()
    try:
        with replacing(folder) as partial:
            for split in sorted(builder.info.splits):
                (partial / split).mkdir(parents=True)
                encoded = {"image": tfds.decode.SkipDecoding()}
                rows = builder.as_dataset(split=split, decoders=encoded)
                for i, row in enumerate(rows.as_numpy_iterator()):
                    end = EXTENSIONS[0] if row["image"].startswith(b"\x89PNG") else EXTENSIONS[1]
                    file = partial / split / f"{i:06}{end}"
                    file.write_bytes(row["image"])
    except OSError:
        if not folder.exists():  # else another process was first
            raise
