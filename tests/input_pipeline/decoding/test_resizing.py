"""Resizing: proportions, kernels, and masks that stay sharp."""

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline.decoding import resizing


def noise(name, *shape):
    rng = np.random.default_rng(sum(name.encode()))
    return rng.integers(0, 256, shape, np.uint8)


def nearest_oracle(mask, size):
    """Pixel by pixel: the old pixel in which the new one's centre lies."""
    height, width = mask.shape[:2]
    out = np.zeros((size, size, 1), np.uint8)
    for y in range(size):
        for x in range(size):
            out[y, x] = mask[(2 * y + 1) * height // (2 * size), (2 * x + 1) * width // (2 * size)]
    return out


@pytest.mark.parametrize("shape", [(90, 90), (47, 101), (17, 9)])
def test_masks_shrink_by_nearest_not_by_blurring(shape):
    mask = np.zeros((*shape, 1), np.uint8)
    mask[shape[0] // 2] = 1  # one pixel thin: interpolating and cutting would lose it
    mask[:, ::3] = 1
    np.testing.assert_array_equal(
        resizing.resize_nearest(mask, 24, "stretch"), nearest_oracle(mask, 24)
    )


def bilinear_oracle(picture, size):
    """OpenCV's formula in float64: source coordinate (x + 0.5) scale - 0.5, edges repeated."""

    def weights(old):
        matrix = np.zeros((size, old))
        for new in range(size):
            position = (new + 0.5) * old / size - 0.5
            low = int(np.floor(position))
            for index, weight in ((low, low + 1 - position), (low + 1, position - low)):
                matrix[new, min(max(index, 0), old - 1)] += weight
        return matrix

    height, width = picture.shape[:2]
    return np.einsum("yh,xw,hwc->yxc", weights(height), weights(width), picture)


@pytest.mark.parametrize("shape", [(90, 90), (47, 101), (17, 9)])
def test_bilinear_is_opencv_s(shape):
    picture = noise("bilinear", *shape, 3)
    ours = resizing.resize_picture(picture, 32, "bilinear", "stretch")
    np.testing.assert_allclose(ours, bilinear_oracle(picture, 32), atol=0.501)


@pytest.mark.parametrize("new", [32, 48, 56, 256])
@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (17, 9), (33, 65), (90, 90), (301, 517)])
def test_resizing_is_tensorflow_s(shape, new):
    """Bilinear to the last bit, as the pictures were resized by it before; antialiased nearly."""
    picture = noise("tensorflow", *shape, 3)
    for resize, most in (("bilinear", 0), ("antialias", 1)):
        ours = resizing.resize_picture(picture, new, resize, "stretch").astype(int)
        theirs = tf.image.resize(
            picture, (new, new), "bilinear", antialias=resize == "antialias"
        ).numpy()
        theirs = picture if shape == (new, new) else np.round(theirs).astype(int)
        assert np.abs(ours - theirs).max() <= most
        assert (ours != theirs).mean() <= 0.001 * most


def test_antialias_averages_what_bilinear_skips():
    checker = np.indices((128, 128)).sum(0) % 2 * np.uint8(255)
    picture = np.repeat(checker[..., None], 3, -1).astype(np.uint8)
    smooth = resizing.resize_picture(picture, 16, "antialias", "stretch")
    assert np.abs(smooth[2:-2, 2:-2].astype(int) - 127).max() <= 2
    lines = np.zeros((128, 128, 3), np.uint8)
    lines[::8] = 255  # bilinear looks at rows 3 and 4 of every 8
    assert resizing.resize_picture(lines, 16, "bilinear", "stretch").max() == 0


def test_a_fitting_picture_is_not_touched():
    picture = noise("fits", 32, 32, 3)
    assert resizing.resize_picture(picture, 32, "bilinear", "stretch") is picture


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (31, 64), (48, 48)])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_square_shows_the_window_of_the_picture(height, width, fit):
    """A ramp's values tell where a pixel comes from: in the picture, the mask and the window."""
    size = 24
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(height)[:, None]
    ramp[..., 1] = np.arange(width)
    shown = resizing.resize_picture(ramp, size, "bilinear", fit).astype(int)
    top, left, tall, wide = resizing.window(height, width, fit)
    assert {
        "stretch": (tall, wide) == (height, width),
        "crop": tall == wide == min(height, width),
    }.get(fit, tall == wide == max(height, width))
    centres = (np.arange(size) + 0.5) / size
    rows = np.clip(top + tall * centres - 0.5, 0, height - 1)
    columns = np.clip(left + wide * centres - 0.5, 0, width - 1)
    step = max(tall, wide) / size
    assert np.abs(shown[..., 0] - rows[:, None]).max() <= step
    assert np.abs(shown[..., 1] - columns).max() <= step
    # A mask that covers everything shows what of the square lies in the picture.
    mask = resizing.resize_nearest(np.ones((height, width, 1), np.uint8), size, fit)
    inside_rows = (top + tall * centres >= 0) & (top + tall * centres < height)
    inside_columns = (left + wide * centres >= 0) & (left + wide * centres < width)
    assert abs(int(mask.sum()) - inside_rows.sum() * inside_columns.sum()) <= size
    soft = resizing.resize_picture(ramp[..., :1] // 255 + 9, size, "bilinear", fit, "constant")
    np.testing.assert_array_equal(soft > 0, mask > 0)


def test_crop_is_exactly_the_middle_and_keeps_thin_masks():
    picture = noise("crop", 32, 60, 3)
    shown = resizing.resize_picture(picture, 32, "bilinear", "crop")
    np.testing.assert_array_equal(shown, picture[:, 14:46])
    mask = (picture[..., :1] > 128).astype(np.uint8)
    np.testing.assert_array_equal(resizing.resize_nearest(mask, 32, "crop"), mask[:, 14:46])


def test_pad_keeps_every_pixel_and_repeats_the_border():
    picture = noise("pad", 20, 32, 3)
    shown = resizing.resize_picture(picture, 32, "bilinear", "pad")
    np.testing.assert_array_equal(shown[6:26], picture)
    np.testing.assert_array_equal(shown[:6], np.repeat(picture[:1], 6, 0))
    np.testing.assert_array_equal(shown[26:], np.repeat(picture[-1:], 6, 0))
