r"""Prepare pictures ahead of the first run: for hosts that have the cache but not the pictures.

    python -m input_pipeline.prepare --config configs/default.py \
        --config.data.category=screw --config.data.cache_dir=gs://bucket/prepared

Those hosts then run with the same keys and `--config.data.layout=prepared`.
"""

import pathlib

from configs.schema import Config
from diffad_jax.data_tools import cli
from input_pipeline import datasets, layouts


def main(config: Config) -> int:
    """Prepare the category (or all) and the textures, and print where they lie."""
    data, size = config.data, config.model.image_size
    names = layouts.chosen(data.category, pathlib.Path(data.root), data.layout)
    for name in names:
        folder = pathlib.Path(data.root).expanduser() / name
        print(datasets.builder_of(folder, data.layout, data, size).data_path)
    if data.textures:
        print(datasets.textures_builder(data, size).data_path)
    return 0


if __name__ == "__main__":
    cli.run(main)
