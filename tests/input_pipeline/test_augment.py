"""The ten ops against the reference's pictures and Pillow, and what `random_ops` draws."""

import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from input_pipeline import augment
from tests.support import goldens_io

GOLDENS = goldens_io.load("augment")
OPS = {
    "gamma_contrast": augment.gamma_contrast,
    "multiply_brightness_hsv": augment.multiply_brightness,
    "sharpness": augment.sharpness,
    "hue_saturation": augment.hue_saturation,
    "solarize": augment.solarize,
    "posterize": augment.posterize,
    "invert": augment.invert,
    "autocontrast": augment.autocontrast,
    "equalize": augment.equalize,
    "rotate": augment.rotate,
}


def apply(case: str, image) -> tf.Tensor:
    """A golden's case, such as 'rotate[degrees=30]'."""
    name, parameters = re.fullmatch(r"(\w+)(?:\[(.*)\])?", case).groups()
    values = [float(value.split("=")[-1]) for value in (parameters or "").split(",") if value]
    if name == "gamma_contrast":
        values = [tf.constant(values)]
    elif name in ("posterize", "autocontrast"):
        values = [int(value) for value in values]
    return OPS[name](tf.constant(image), *values)


def seeds(count: int) -> list[tf.Tensor]:
    return [tf.constant([3, i], tf.int64) for i in range(count)]


@pytest.mark.parametrize("case", [key for key in GOLDENS if key != "image"])
def test_matches_the_reference(case):
    result = apply(case, GOLDENS["image"]).numpy()
    assert result.dtype == np.uint8 and result.shape == GOLDENS[case].shape
    inside = np.ones(result.shape, bool)
    if case.startswith("rotate"):
        # Away from the border, where the two differ in how they fade to black.
        inside = apply(case, np.full(result.shape, 255, np.uint8)).numpy() == 255
        assert inside.mean() > 0.4
    error = np.abs(result.astype(int) - GOLDENS[case].astype(int))[inside]
    assert error.mean() < 0.3
    assert error.max() <= 5


def test_graph_and_eager_agree():
    cases = [key for key in GOLDENS if key != "image"]

    def all_ops(_):
        return [apply(case, GOLDENS["image"]) for case in cases]

    data = tf.data.Dataset.range(1).map(tf.autograph.experimental.do_not_convert(all_ops))
    for case, result in zip(cases, next(data.as_numpy_iterator()), strict=True):
        np.testing.assert_array_equal(result, apply(case, GOLDENS["image"]).numpy())


def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)
    return {
        "noise": noise,
        "dark": noise // 5,
        "two levels": (noise > 200).astype(np.uint8) * 90 + 30,
        "two neighbouring levels": (noise > 200).astype(np.uint8) + 30,
        "one level, channel": noise * np.array([1, 0, 1], np.uint8),
        "skewed": (255 * (noise / 255.0) ** 6).astype(np.uint8),
    }


@pytest.mark.parametrize("picture", list(pictures()))
def test_matches_pillow(picture):
    image = pictures()[picture]
    pil, tensor = Image.fromarray(image), tf.constant(image)
    cases = [
        (ImageOps.invert(pil), augment.invert(tensor)),
        (ImageOps.equalize(pil), augment.equalize(tensor)),
    ]
    for cutoff in (0, 1, 7, 20):
        cases.append((ImageOps.autocontrast(pil, cutoff), augment.autocontrast(tensor, cutoff)))
    for threshold in (32, 77, 128):
        cases.append((ImageOps.solarize(pil, threshold), augment.solarize(tensor, threshold)))
    for bits in range(1, 9):
        cases.append((ImageOps.posterize(pil, bits), augment.posterize(tensor, bits)))
    for expected, result in cases:
        np.testing.assert_array_equal(result.numpy(), np.asarray(expected))
    for factor in (0.0, 0.3, 1.0, 2.0):
        expected = np.asarray(ImageEnhance.Sharpness(pil).enhance(factor)).astype(int)
        result = augment.sharpness(tensor, factor).numpy().astype(int)
        assert np.abs(result - expected).max() <= 1  # a cut fraction may fall either way


def test_brightness_turns_black_to_grey_and_clips():
    image = np.array([[[0, 0, 0], [250, 125, 0]]], np.uint8)
    result = augment.multiply_brightness(tf.constant(image), 1.2, 10.0).numpy()
    np.testing.assert_array_equal(result[0, 0], [10, 10, 10])
    np.testing.assert_allclose(result[0, 1], [255, 127.5, 0], atol=1.5)


def test_quarter_turn_is_exact_and_clockwise():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    result = augment.rotate(tf.constant(image), 90.0).numpy().astype(int)
    error = np.abs(result - np.rot90(image, -1))[1:-1, 1:-1]  # rounding may push the rim outside
    assert error.max() <= 1


def test_three_different_ops_every_order_alike():
    count = 4000
    chosen = tf.data.Dataset.range(count).map(lambda i: augment.choose_ops(tf.stack([i, 5])))
    chosen = np.stack(list(chosen.as_numpy_iterator()))
    assert chosen.shape == (count, 3)
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    for place in range(3):
        share = np.bincount(chosen[:, place], minlength=10) / count
        assert np.abs(share - 0.1).max() < 5 * np.sqrt(0.09 / count)
    assert len({tuple(row) for row in chosen.tolist()}) > 700  # of 720


@pytest.mark.parametrize(
    ("op", "ranges"),
    [
        ("gamma_contrast", [(0.5, 2.0)] * 3),
        ("multiply_brightness", [(0.8, 1.2), (-30.0, 30.0)]),
        ("sharpness", [(0.0, 2.0)]),
        ("hue_saturation", [(-50, 50)] * 2),
        ("solarize", [(32, 128)]),
        ("posterize", [(1, 8)]),
        ("autocontrast", [(0, 20)]),
        ("rotate", [(-45.0, 45.0)]),
    ],
)
def test_parameters_fill_their_ranges(op, ranges, monkeypatch):
    drawn = []

    def record(image, *values):
        drawn.append(np.concatenate([np.atleast_1d(value) for value in values]))
        return image

    monkeypatch.setattr(augment, op, record)
    random_op = getattr(augment, f"_random_{op}")
    for seed in seeds(400):
        random_op(tf.zeros([4, 4, 3], tf.uint8), seed)
    drawn = np.stack(drawn).astype(float)
    share = 0.5 if op == "solarize" else 1.0  # solarize acts on every second picture
    assert abs(len(drawn) / 400 - share) < 0.1
    for values, (low, high) in zip(drawn.T, ranges, strict=True):
        span = high - low
        assert low <= values.min() <= low + 0.04 * span
        assert high - 0.04 * span <= values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.07 * span
        if isinstance(low, int):
            assert set(values) <= set(range(low, high + 1))
    if len(ranges) > 1:
        correlation = np.corrcoef(drawn.T)
        assert np.abs(correlation - np.eye(len(ranges))).max() < 0.2


def test_random_ops_follow_the_seed():
    image = tf.constant(GOLDENS["image"])
    data = tf.data.Dataset.range(40).map(
        lambda i: augment.random_ops(image, tf.stack([tf.constant(3, tf.int64), i]))
    )
    results, again = list(data.as_numpy_iterator()), list(data.as_numpy_iterator())
    assert all(result.shape == image.shape for result in results)
    for result, same in zip(results, again, strict=True):
        np.testing.assert_array_equal(result, same)
    assert len({result.tobytes() for result in results}) == 40
    eager = augment.random_ops(image, seeds(1)[0]).numpy()
    np.testing.assert_array_equal(eager, results[0])


def test_random_ops_apply_the_chosen_ones_in_order(monkeypatch):
    called = []
    recorders = tuple(
        lambda image, seed, index=index: called.append((index, seed.numpy().tolist())) or image
        for index in range(10)
    )
    monkeypatch.setattr(augment, "RANDOM_OPS", recorders)
    monkeypatch.setattr(augment, "_apply", augment._apply.python_function)
    seed = seeds(5)[4]
    augment.random_ops(tf.zeros([4, 4, 3], tf.uint8), seed)
    chosen = augment.choose_ops(seed).numpy().tolist()
    assert [index for index, _ in called] == chosen
    assert len({tuple(op_seed) for _, op_seed in called}) == 3
