"""The full networks at 256 px with a recipe that needs a fraction of the paper's steps.

Meant for 25 minutes a category on one H100, but never run there: the length is an estimate from the
step's 3.6 TFLOP a picture, the rates are untried at this size. benchmarks/RECIPE.md says what was
measured, at 64 px.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Differences from the default configuration."""
    config = default.get_config()
    config.model.image_range = "signed"
    config.model.prediction = "preconditioned"
    config.model.compute_dtype = "bfloat16"
    config.model.remat = "norms"
    config.loss.target = "clean"
    for name in ("unet_optim", "segmentation_optim"):
        config[name].rate = 3e-4  # the networks are four times as wide as those of `small`
        config[name].schedule = "cosine"
        config[name].warmup_steps = 200
    config.train.epochs = 0
    config.train.steps = 6000
    config.train.evaluate_every = 1000
    return config
