r"""As small as the networks can be: 32 px, 6 steps, for the tests.

    python -m diffad_jax.main --config configs/test.py --workdir runs/test \
        --config.data.root=ROOT --config.data.category=NAME

How long: seconds, most of them compilation; not measured. What to expect: nothing, it learns
nothing in 6 steps.
"""

import ml_collections

from configs import default, small


def get_config() -> ml_collections.ConfigDict:
    """Differences from the `small` configuration."""
    config = small.get_config()
    # The paper's method, whatever the recipe of the day.
    paper = default.get_config()
    for section, key in (
        *(("model", "image_range"), ("model", "prediction"), ("model", "difference")),
        *(("evaluate", "residual"), ("evaluate", "smoothing"), ("data", "matched_share")),
        *(("evaluate", "less_noisy"), ("evaluate", "noisier")),
    ):
        config[section][key] = paper[section][key]
    config.diffusion, config.loss = paper.diffusion, paper.loss
    config.model.image_size = 32
    config.model.unet_multipliers = (1, 1)
    config.model.res_blocks = 1
    config.model.attention_widths = (16,)
    config.model.segmentation_base = 2
    config.data.textures = ""
    config.train.batch_size = 4
    config.train.steps = 6
    config.train.log_every = 2
    config.train.image_every = 3
    config.train.checkpoint_every = 2
    config.evaluate.batch_size = 4
    config.evaluate.grid_rows = 3
    return config
