"""Every check of the configuration, and the learning rates that follow from it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default, fast, nested, quickstart, rules, schema, small, test
from configs.errors import UserError
from diffad_jax.method import optim
from tests.support import goldens_io, helpers


@pytest.mark.parametrize("source", [default, fast, quickstart, small, test])
def test_every_configuration_is_valid(source):
    config = helpers.parsed(source)
    assert schema.parse(source.get_config()) == config
    assert config.to_dict()["train"]["batch_size"] == config.train.batch_size


def test_small_has_the_paper_s_noise_for_its_pixels():
    """At its time steps noise is a quarter of what it is at the paper's: 64 px in place of 256."""
    paper, ours = helpers.parsed(fast), helpers.parsed(small)
    assert (ours.model.image_size, paper.model.image_size) == (64, 256)
    alpha = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    sigma = np.sqrt(1 / alpha - 1)
    for section, key in (
        *(("diffusion", "train_split"), ("diffusion", "train_end")),
        *(("evaluate", "less_noisy"), ("evaluate", "noisier")),
    ):
        step, of_paper = (getattr(getattr(c, section), key) for c in (ours, paper))
        off = np.abs(np.log(sigma / sigma[min(of_paper, 999)] * 4))
        assert step == off.argmin(), key


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__image_size": 40}, "model.image_size=40 multiple of 32 px"),
        ({"model__image_size": 96, "model__unet_multipliers": (1,) * 7}, "=96 multiple of 64 px"),
        ({"model__image_size": 16, "model__unet_multipliers": ()}, "model.image_size=16 least 32"),
        ({"model__unet_base": 48}, "model.unet_base=48 multiple of 32 channels"),
        ({"model__unet_multipliers": (1, 1.25)}, "level 1 40 32 multiplier 1.25"),
        ({"model__unet_multipliers": (1, 0)}, "model.unet_multipliers[1]=0.0 above 0"),
        ({"model__attention_widths": (0,)}, "model.attention_widths[0]=0 at least 1 px"),
        ({"model__heads": 3}, "level 0 32 model.heads=3"),
        ({"model__heads": 0}, "model.heads=0 at least 1"),
        ({"model__head_channels": 24}, "level 0 32 model.head_channels=24"),
        ({"model__dropout": 1.0}, "model.dropout=1.0 must be in [0, 1)"),
        ({"model__res_blocks": 0}, "model.res_blocks=0 must be at least 1 a level"),
        ({"model__segmentation_base": 0}, "model.segmentation_base=0 at least 1 channel"),
        ({"model__compute_dtype": "float16"}, "model.compute_dtype='float16' 'bfloat16'"),
        ({"model__attention": "cudnn"}, "model.attention='cudnn' 'bfloat16', 'float32'"),
        ({"diffusion__train_split": 1000}, "diffusion.train_split 1000, 1000, 1000"),
        ({"diffusion__train_end": 1001}, "diffusion.train_end 300, 1001, 1000"),
        ({"evaluate__noisier": 200}, "evaluate.less_noisy 200, 200, 1000"),
        ({"evaluate__noisier": 1000}, "evaluate.noisier diffusion.timesteps 200, 1000, 1000"),
        ({"loss__smooth_l1_beta": 0.0}, "loss.smooth_l1_beta=0.0 above 0"),
        ({"unet_optim__rate": 0.0}, "unet_optim.rate=0.0 must be above 0"),
        ({"unet_optim__rate": float("nan")}, "unet_optim.rate=nan a finite number"),
        ({"segmentation_optim__half_period": 0}, "segmentation_optim.half_period=0 1 step"),
        ({"unet_optim__warmup_steps": -1}, "unet_optim.warmup_steps=-1 at least 0 steps"),
        ({"unet_optim__weight_decay": -0.1}, "unet_optim.weight_decay=-0.1 at least 0"),
        ({"data__root": ""}, "data.root='' must be the path of a folder"),
        ({"data__normal_share": 1.5}, "data.normal_share=1.5 must be in [0, 1]"),
        ({"data__blend_min": 0.9}, "data.blend_min data.blend_max 0.9, 0.8"),
        ({"data__holdout": 1.0}, "data.holdout=1.0 must be -1 or in [0, 1)"),
        ({"data__memory_gib": -1.0}, "data.memory_gib=-1.0 at least 0 GiB"),
        ({"train__batch_size": 0}, "train.batch_size=0 must be at least 1 picture"),
        ({"train__log_every": 0}, "train.log_every=0 must be at least 1 step"),
        ({"train__evaluate_every": -1}, "train.evaluate_every=-1 at least 0 steps"),
        ({"train__epochs": 3}, "train.steps train.epochs 6 3"),
        ({"train__steps": 0}, "train.steps train.epochs 0 0"),
        ({"train__accumulation_steps": 3}, "train.batch_size=4 train.accumulation_steps=3"),
        ({"train__ema_decay": 1.0}, "train.ema_decay=1.0 must be in [0, 1)"),
        ({"train__keep_best": "aupro_10"}, "train.keep_best='aupro_10' 'pixel_ap' 'aupro_05'"),
        ({"train__profile_steps": (4, 2)}, "train.profile_steps=(4, 2) () or (first, last)"),
        ({"evaluate__batch_size": 0}, "evaluate.batch_size=0 must be at least 1 picture"),
        ({"evaluate__top_pixels": 0}, "evaluate.top_pixels=0 must be at least 1 pixel"),
        ({"evaluate__top_pixels": 1025}, "evaluate.top_pixels=1025 1024 pixels"),
        ({"evaluate__grid_rows": 0}, "evaluate.grid_rows=0 must be at least 1 row"),
        (
            {"evaluate__threshold": "recall:0"},
            "evaluate.threshold='recall:0' f1, false_alarms:X recall:Y [0, 1) (0, 1]",
        ),
        ({"predict__tile_overlap": 0.95}, "predict.tile_overlap=0.95 must be in [0, 0.9]"),
    ],
)
def test_impossible_values_are_named_with_their_numbers(changes, words):
    with pytest.raises(UserError) as raised:
        helpers.parsed(**changes)
    message = str(raised.value)
    assert "\n" not in message
    for word in words.split():
        assert word in message


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("f1", "f1"),
        ("recall:1.0", "recall:1"),
        ("recall: .990", "recall:0.99"),
        ("false_alarms:-0", "false_alarms:0"),
        ("false_alarms:1e-2", "false_alarms:0.01"),
        ("false_alarms:0.123456789", "false_alarms:0.123456789"),
    ],
)
def test_a_threshold_has_one_form(given, plain):
    assert helpers.parsed(evaluate__threshold=given).evaluate.threshold == plain
    name, share = rules.threshold_rule(plain)
    assert (name, share) == (plain.split(":")[0], float(plain.partition(":")[2] or 0))


def test_unknown_missing_and_mistyped_keys():
    config = test.get_config()
    config.train.stepz = 3
    with pytest.raises(UserError, match=r"^unknown config key train\.stepz.*train\.steps\?$"):
        schema.parse(config)
    config = test.get_config()
    config.segmentation_optimizer = {}
    with pytest.raises(UserError, match="segmentation_optimizer: did you mean segmentation_optim"):
        schema.parse(config)
    config = test.get_config()
    del config.loss.focal_gamma
    with pytest.raises(UserError, match=r"missing config key loss\.focal_gamma"):
        schema.parse(config)
    for key, value, kind in (
        ("steps", "many", "a whole number of 32 bits"),
        ("steps", 2.5, "a whole number of 32 bits"),
        ("steps", True, "a whole number of 32 bits"),
        ("deterministic", 1, "true or false"),
        ("ema_decay", "a", r"a finite number \(of float32\)"),
        ("keep_best", 3, "text"),
        ("profile_steps", "12", "a tuple"),
    ):
        config = test.get_config().to_dict()
        config["train"][key] = value
        with pytest.raises(UserError, match=rf"^train\.{key}={value!r} must be {kind}$"):
            schema.parse(schema.ml_collections.ConfigDict(config))
    config = test.get_config().to_dict() | {"train": 3}
    with pytest.raises(UserError, match=r"^train=3 must be a section of keys$"):
        schema.parse(schema.ml_collections.ConfigDict(config))


@pytest.mark.parametrize("measure", ["", *schema.MEASURES])
def test_every_measure_can_be_the_one_whose_best_is_kept(measure):
    assert helpers.parsed(train__keep_best=measure).train.keep_best == measure


def test_check_key():
    schema.check_key("train.steps")
    with pytest.raises(UserError, match=r"train\.stepz: did you mean train\.steps"):
        schema.check_key("train.stepz")
    with pytest.raises(UserError, match=r"multipliers\[0\]: did you mean model\.unet_multipliers"):
        schema.check_key("model.unet_multipliers[0]")
    with pytest.raises(UserError, match="trian: did you mean train"):
        schema.check_key("trian.steps")
    with pytest.raises(UserError, match=r"seed\.x: seed is a key, not a section"):
        schema.check_key("seed.x")
    with pytest.raises(UserError, match=r"predict is a section: .* tile_overlap$"):
        schema.check_key("predict")


def test_only_a_near_key_is_suggested():
    with pytest.raises(UserError, match=r"^unknown config key jpg: there are seed, model, .*pred"):
        schema.check_key("jpg")
    with pytest.raises(UserError, match=r"^unknown config key predict\.batch: there are tile_ov"):
        schema.check_key("predict.batch")


def test_difference_names_dotted_keys():
    old, new = helpers.parsed().to_dict(), helpers.parsed(model__heads=2, train__steps=9).to_dict()
    assert nested.difference(old, new) == ["model.heads: 4 -> 2", "train.steps: 6 -> 9"]
    assert nested.difference(old, old) == []


def rates(steps, total, **changes):
    """Learning rates at steps of a run of `total` steps."""
    optim_config = dataclasses.replace(helpers.parsed().unet_optim, rate=2e-3, **changes)
    schedule = optim.learning_rate(optim_config, total)
    return np.array([float(schedule(jnp.asarray(step))) for step in steps])


@pytest.mark.parametrize("warmup", [0, 10])
def test_schedules_against_closed_forms(warmup):
    steps = np.array([0, 1, 5, 9, 10, 17, 40, 99, 100, 150])
    before = steps < warmup
    ramp = 2e-3 * steps / max(warmup, 1)
    progress = np.clip((steps - warmup) / (100 - warmup), 0, 1)
    expected = {
        "constant": np.full(len(steps), 2e-3),
        "cosine": 1e-3 * (1 + np.cos(math.pi * progress)),
        "oscillating": 1e-3 * (1 + np.cos(math.pi * (steps - warmup) / 7)),
    }
    for name, main in expected.items():
        actual = rates(steps, 100, schedule=name, warmup_steps=warmup, half_period=7)
        np.testing.assert_allclose(actual, np.where(before, ramp, main), rtol=1e-5, atol=1e-9)


def test_a_cosine_shorter_than_its_warmup_still_climbs():
    np.testing.assert_allclose(
        rates([0, 2, 5], 3, schedule="cosine", warmup_steps=10), [0, 4e-4, 1e-3], rtol=1e-6
    )


def test_the_log_says_what_rates_a_step_was_made_with():
    config = helpers.parsed(
        **{
            "unet_optim__schedule": "cosine",
            "unet_optim__rate": 0.5,
            "unet_optim__warmup_steps": 2,
        },
        **{"segmentation_optim__schedule": "constant", "segmentation_optim__rate": 0.25},
        segmentation_optim__warmup_steps=0,
    )
    with jax.transfer_guard("disallow"):  # as in the training loop
        said = [optim.learning_rates(config, step, 6) for step in (1, 2, 3, 5)]
    unet = [0.0, 0.25, 0.5, 0.25]  # half a cosine over the four steps that are left
    np.testing.assert_allclose([rates["unet_rate"] for rates in said], unet, rtol=1e-6)
    assert {rates["segmentation_rate"] for rates in said} == {0.25}


def test_segmentation_rate_is_the_reference_s(float64):
    expected = goldens_io.load("train_a")["seg_lr"]
    schedule = optim.learning_rate(helpers.golden_config("train_a").segmentation_optim, 12)
    actual = [float(schedule(jnp.asarray(step))) for step in range(len(expected))]
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-18)
