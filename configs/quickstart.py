"""For `make quickstart`: two CPU cores, some minutes, pictures the project makes itself."""

import ml_collections

from configs import small


def get_config() -> ml_collections.ConfigDict:
    """Differences from the `small` configuration."""
    config = small.get_config()
    config.data.root = "data/quickstart"
    config.data.textures = "data/quickstart/textures/images"
    config.data.category = "fabric"  # or gear, with kind "object"
    config.data.kind = "texture"
    config.data.cache_dir = "data/cache"
    config.train.steps = 220
    config.train.evaluate_every = 0
    return config
