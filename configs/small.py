"""The method at 64 px with small networks: for CPUs, and for a first look at new data.

2 % of the default's parameters, and learning rates for about a thousand steps: the paper's are for
39,000. A preconditioned U-Net that learns from every picture, as in `fast`: benchmarks/RECIPE.md.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Differences from the default configuration."""
    config = default.get_config()
    config.model.image_size = 64
    config.model.unet_base = 32
    config.model.unet_multipliers = (1, 1, 2, 2)
    config.model.res_blocks = 1
    config.model.attention_widths = (8,)
    config.model.segmentation_base = 16
    config.model.image_range = "signed"
    config.model.prediction = "preconditioned"
    config.loss.target = "clean"
    for name in ("unet_optim", "segmentation_optim"):
        config[name].rate = 1e-3
        config[name].schedule = "cosine"
        config[name].warmup_steps = 50
    config.data.resize = "antialias"
    config.train.batch_size = 8
    config.train.epochs = 0
    config.train.steps = 1000
    config.train.ema_decay = 0.99
    config.train.log_every = 10
    config.train.image_every = 200
    config.train.evaluate_every = 250
    config.train.checkpoint_every = 100
    config.evaluate.top_pixels = 10  # of a map that has 16 times fewer pixels
    return config
