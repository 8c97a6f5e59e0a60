r"""Prepare pictures ahead of the first run: for hosts that have the cache but not the pictures.

    python -m diffad_jax.main --mode prepare --config default \
        --config.data.category=screw --config.data.cache_dir=gs://bucket/prepared

Those hosts then run with the same keys and `--config.data.layout=prepared`. With --prune,
what these keys do not use of the category is then removed from the cache, with category=all of all.
"""

import dataclasses
import os
import pathlib

from etils import epath

from configs.schema import Config, DataConfig
from input_pipeline import cache, datasets, foreground
from input_pipeline.folders import layouts


def run(config: Config, prune: bool = False) -> None:
    """Prepare the category (or all) and the textures, and print where they lie.

    Args:
      config: `data` and the picture size are used.
      prune: then remove from the cache what these settings do not use: of the categories named,
        or of all folders that were ever prepared where `data.category` is 'all'. Prints each path
        with its size. Only prepared sets, computed foregrounds, and what killed processes left.

    Raises:
      UserError: no such folder, or pictures or masks that cannot be used; names them.
      OSError: something cannot be removed.
    """
    data, size = config.data, config.model.image_size
    names = layouts.chosen(data.category, pathlib.Path(data.root), data.layout)
    each = [dataclasses.replace(data, category=name) for name in names]
    paths = [datasets.prepared_category(one, size).path for one in each]
    folders = [datasets.folder_of(one).name for one in each]
    if data.textures:
        stuff = datasets.prepared_textures(data, size)
        paths.append(stuff.path)
        folders.append(stuff.folder)
    print(*paths, sep="\n")
    if prune:
        used = [*paths, *(str(path) for one in each for path in _foregrounds(one, size))]
        _prune(data.cache_dir, used, None if data.category == "all" else folders)


def _foregrounds(data: DataConfig, size: int) -> list[epath.Path]:
    """The file of a category's computed foregrounds, where it is used."""
    category = datasets.load_category(data, size)
    return (
        [foreground.path_of(category, data.cache_dir)]
        if foreground.computes(category, data.foreground)
        else []
    )


def _prune(cache_dir: str, used: list[str], names: list[str] | None) -> None:
    cache_dir, total = os.path.expanduser(cache_dir), 0.0
    for path in cache.unused(cache_dir, used, names):
        removed = cache.remove(epath.Path(path))
        total += removed
        print(f"removed {path} ({removed:.1f} MB)")
    cache.forget(cache_dir)
    print(f"removed {total:.1f} MB; {cache.told(cache_dir)}")
