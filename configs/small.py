r"""The recipe of `fast` at 64 px with small networks: for CPUs, and for a first look at new data.

    python -m diffad_jax.main --config configs/small.py --workdir runs/bottle \
        --config.data.root=MVTEC --config.data.category=bottle --config.data.textures=TEXTURES

What differs from `fast`: 3.2 million parameters, batches of 8 pictures, float32, learning rates for
hundreds of steps, and less noise: see the time steps below, which other picture sizes call for, too
(128 px: 175, 928, 106 and 262; what came of it: benchmarks/RECIPE.md).

How long: 1000 steps of 0.9 s on two CPU cores, 15 minutes, and the evaluations. What to expect on
MVTec AD's bottle and grid: image AUROC 0.96 to 0.97 and 0.96 to 0.99 after 250 of them (two and
three seeds), 0.98 to 0.99 and above 0.99 after 1000 (three seeds each; benchmarks/RECIPE.md).
"""

import ml_collections

from configs import fast


def get_config() -> ml_collections.ConfigDict:
    """Differences from the `fast` configuration."""
    config = fast.get_config()
    config.model.image_size = 64
    config.model.unet_base = 32
    config.model.unet_multipliers = (1, 1, 2, 2)
    config.model.res_blocks = 1
    config.model.attention_widths = (8,)
    config.model.segmentation_base = 16
    config.model.compute_dtype = "float32"
    # A picture a quarter as wide has 16 times fewer pixels to average noise over. These are the
    # time steps at which noise is a quarter as strong (sqrt(1 / a - 1)) as at the paper's.
    config.diffusion.train_split = 91  # 300
    config.diffusion.train_end = 851  # 1000
    config.evaluate.less_noisy = 52  # 200
    config.evaluate.noisier = 147  # 400
    for name in ("unet_optim", "segmentation_optim"):
        config[name].rate = 1e-3
        config[name].warmup_steps = 50
    config.train.batch_size = 8
    config.train.steps = 1000
    config.train.ema_decay = 0.99
    config.train.log_every = 10
    config.train.image_every = 200
    config.train.evaluate_every = 250
    config.train.checkpoint_every = 100
    config.evaluate.smoothing = 1.0  # of a map a quarter as wide
    config.evaluate.top_pixels = 10  # of a map that has 16 times fewer pixels
    return config
