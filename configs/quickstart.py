"""A small model that trains on two CPU cores in minutes, on pictures the project makes itself."""

import ml_collections

from configs import small


def get_config() -> ml_collections.ConfigDict:
    """The `small` configuration on the data of `make quickstart`."""
    config = small.get_config()
    config.data.root = "data/quickstart"
    config.data.textures = "data/quickstart/textures/images"
    config.data.category = "gear"
    config.data.kind = "object"
    config.data.cache_dir = "data/cache"
    config.train.steps = 400
    return config
