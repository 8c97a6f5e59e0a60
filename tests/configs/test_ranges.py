"""Every key has its range: values just outside of it are refused in a line, the ends are taken."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import rules, schema, test
from configs.errors import UserError
from diffad_jax.method import diffusion
from tests.configs.test_every_key import keys
from tests.support import helpers

COUNT = ([0, -1, 2**32], [1])  # refused, taken
FROM_0 = ([-1, 2**32], [0])
SHARE = ([-1e-9, 1 + 1e-9], [0.0, 1.0])
WEIGHT = ([-1e-30, 1e39], [0.0, 3.4e38])
ABOVE_0 = ([0.0, -1.0, 1e-40, 1e39], [1.2e-38])
WORD = (["", "nonsense", "None"], [])
TEXT = ([], ["x", ""])
RANGES = {
    "seed": ([-1, 2**32, 2**40], [0, 2**32 - 1]),
    "model.image_size": ([0, -64, 16, 31], [32, 64]),
    "model.image_range": WORD,
    "model.prediction": WORD,
    "model.difference": WEIGHT,
    "model.unet_base": ([0, -32, 16, 33], [32]),
    "model.unet_multipliers": ([(0,), (1, -1), (1e39,), 1], [(1,)]),
    "model.res_blocks": COUNT,
    "model.attention_widths": ([(0,), (-8,), (8.0,), 8], [(), (8, 16)]),
    "model.heads": COUNT,
    "model.head_channels": FROM_0,
    "model.dropout": ([-0.1, 1.0], [0.0, 0.999]),
    "model.segmentation_base": COUNT,
    "model.compute_dtype": WORD,
    "model.matmul_precision": WORD,
    "model.attention": WORD,
    "model.remat": WORD,
    "diffusion.timesteps": ([0, -1, 19, 20], []),
    "diffusion.schedule": WORD,
    "diffusion.train_split": ([0, -1, 1000, 1001], [1, 999]),
    "diffusion.train_end": ([0, -1, 300, 1001], [301, 1000]),
    "diffusion.guidance_weight": WEIGHT,
    "loss.target": WORD,
    "loss.snr_gamma": WEIGHT,
    "loss.focal_weight": WEIGHT,
    "loss.focal_alpha": SHARE,
    "loss.focal_gamma": WEIGHT,
    "loss.smooth_l1_weight": WEIGHT,
    "loss.smooth_l1_beta": ABOVE_0,
    **{
        f"{net}_optim.{name}": values
        for net in ("unet", "segmentation")
        for name, values in (
            ("rate", ABOVE_0),
            ("schedule", WORD),
            ("warmup_steps", FROM_0),
            ("half_period", COUNT),
            ("weight_decay", WEIGHT),
        )
    },
    "data.root": (["", " ", "gs://b"], ["~/x"]),
    "data.category": (["", "/", " "], ["a", "a,b", "a/"]),
    "data.layout": WORD,
    "data.kind": WORD,
    "data.textures": (["gs://b"], ["x", ""]),
    "data.corrections": (["gs://b"], ["x", ""]),
    "data.cache_dir": (["", " "], ["gs://b"]),
    "data.resize": WORD,
    "data.fit": WORD,
    "data.foreground": WORD,
    "data.missing_masks": WORD,
    "data.normal_share": SHARE,
    "data.matched_share": SHARE,
    "data.blend_min": ([-0.1, 0.81], [0.0, 0.8]),
    "data.blend_max": ([0.19, 1.1], [0.2, 1.0]),
    "data.holdout": ([-0.5, -2.0, 1.0], [-1.0, 0.0, 0.99]),
    "data.memory_gib": WEIGHT,
    "train.batch_size": ([0, -4, 2**32], [1]),
    "train.steps": ([-1, 0, 2**32], [1]),
    "train.epochs": ([-1, 1, 2**32], [0]),
    "train.accumulation_steps": ([0, -1, 3], [1, 4]),
    "train.ema_decay": ([-0.1, 1.0], [0.0, 0.999]),
    "train.log_every": COUNT,
    "train.image_every": FROM_0,
    "train.evaluate_every": FROM_0,
    "train.checkpoint_every": COUNT,
    "train.deterministic": ([0, 1, "true", None], [True, False]),
    "train.keep_checkpoints": COUNT,
    "train.keep_best": (["nonsense", "image_AUROC"], ["", "pixel_ap"]),
    "train.profile_steps": ([(1,), (0, 1), (2, 1), (1, 2, 3), (1.0, 2.0)], [(), (1, 1)]),
    "evaluate.batch_size": COUNT,
    "evaluate.less_noisy": ([-1, 400, 401], [0, 399]),
    "evaluate.noisier": ([0, 200, 1000], [201, 999]),
    "evaluate.draws": COUNT,
    "evaluate.weights": WORD,
    "evaluate.checkpoint": WORD,
    "evaluate.residual": WEIGHT,
    "evaluate.smoothing": WEIGHT,
    "evaluate.top_pixels": ([0, -1, 32 * 32 + 1], [1, 32 * 32]),
    "evaluate.threshold": (
        [
            *("", "F1", "f1:", "f1:0.5", "recall", "recall:", "recall:x", "recall:nan", "0.5", 0.5),
            *("recall:0", "recall:1.1", "recall:0.5:0.5", "false_alarms:1", "false_alarms:-0.1"),
        ],
        ["f1", "recall:1e-9", "recall:1", "false_alarms:0", "false_alarms:0.999"],
    ),
    "evaluate.grid_rows": COUNT,
    "evaluate.exact_pictures": FROM_0,
    "predict.tile_overlap": ([-0.1, 0.91], [0.0, 0.9]),
}


def changed(key, value):
    """The test configuration with another value, whatever its type."""
    values = test.get_config().to_dict()
    *sections, last = key.split(".")
    (values[sections[0]] if sections else values)[last] = value
    return schema.parse(ml_collections.ConfigDict(values))


def test_every_key_has_its_range_here():
    assert set(RANGES) == set(keys()) and len(RANGES) > 70
    assert all(
        refused or key in ("data.textures", "data.corrections")
        for key, (refused, _) in RANGES.items()
    )


@pytest.mark.parametrize("key", RANGES)
def test_outside_of_its_range(key):
    refused, taken = RANGES[key]
    for value in taken:
        changed(key, value)
    for value in (*refused, None, float("nan"), float("inf"), float("-inf"), {}, b"x"):
        with pytest.raises(UserError) as raised:
            changed(key, value)
        message = str(raised.value)
        assert key in message and "\n" not in message, (value, message)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_fewest_time_steps_leave_some_of_the_picture(schedule):
    """At 20 the last noise variance is 1: nothing of the picture is left to be predicted from."""
    least = dict(train_split=10, train_end=21, timesteps=21, schedule=schedule)
    config = helpers.parsed(
        **{f"diffusion__{key}": value for key, value in least.items()},
        evaluate__less_noisy=5,
        evaluate__noisier=10,
    ).diffusion
    left = np.float32(diffusion.cumulative_alphas(config))
    assert left.min() > 0 and np.isfinite(np.float32(1) / left).all()
    gone = dataclasses.replace(config, timesteps=20, schedule="linear")
    assert diffusion.cumulative_alphas(gone)[-1] == 0


def test_the_ends_of_what_a_device_can_hold():
    assert float(np.float32(rules.LARGEST)) == rules.LARGEST and math.isfinite(rules.LARGEST)
    assert rules.LARGEST == np.finfo(np.float32).max
    assert np.float32(rules.SMALLEST) == np.finfo(np.float32).tiny
    jax.random.key(rules.WHOLE - 1)
    with pytest.raises(OverflowError):
        jnp.asarray(rules.WHOLE, jnp.uint32)
