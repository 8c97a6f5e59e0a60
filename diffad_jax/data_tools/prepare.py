r"""Prepare pictures ahead of the first run: for hosts that have the cache but not the pictures.

    python -m diffad_jax.main --mode prepare --config default \
        --config.data.category=screw --config.data.cache_dir=gs://bucket/prepared

Those hosts then run with the same keys and `--config.data.layout=prepared`.
"""

import dataclasses
import pathlib

from configs.schema import Config
from input_pipeline import datasets
from input_pipeline.folders import layouts


def run(config: Config) -> None:
    """Prepare the category (or all) and the textures, and print where they lie.

    Raises:
      UserError: no such folder, or pictures or masks that cannot be used; names them.
    """
    data, size = config.data, config.model.image_size
    names = layouts.chosen(data.category, pathlib.Path(data.root), data.layout)
    for name in names:
        print(datasets.prepared_category(dataclasses.replace(data, category=name), size).path)
    if data.textures:
        print(datasets.prepared_textures(data, size).path)
