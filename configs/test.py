"""As small as the networks can be: for tests."""

import ml_collections

from configs import small


def get_config() -> ml_collections.ConfigDict:
    """Differences from the `small` configuration."""
    config = small.get_config()
    config.model.image_size = 32
    config.model.unet_multipliers = (1, 1)
    config.model.res_blocks = 1
    config.model.attention_widths = (16,)
    config.model.segmentation_base = 2
    config.loss.target = "normal"  # so that a test's own batch needs no clean picture
    config.data.textures = ""
    config.train.batch_size = 4
    config.train.steps = 6
    config.train.log_every = 2
    config.train.image_every = 3
    config.train.checkpoint_every = 2
    config.evaluate.batch_size = 4
    config.evaluate.grid_rows = 3
    return config
