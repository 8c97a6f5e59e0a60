"""From the model's square back to the picture, and the regions of a map."""

import itertools

import numpy as np
import pytest

from diffad_jax.predicting import predictor, results
from input_pipeline.decoding import resizing


def bilinear(values, height, width):
    """Half-pixel centres, the border continued, written out pixel by pixel."""
    result = np.zeros((height, width))
    h, w = values.shape
    for i, j in np.ndindex(height, width):
        y, x = (i + 0.5) * h / height - 0.5, (j + 0.5) * w / width - 0.5
        top, left = int(np.floor(y)), int(np.floor(x))
        for u, v in itertools.product((0, 1), (0, 1)):
            weight = abs(1 - u - (y - top)) * abs(1 - v - (x - left))
            row, column = np.clip(top + u, 0, h - 1), np.clip(left + v, 0, w - 1)
            result[i, j] += weight * values[row, column]
    return result


def test_a_map_at_the_pictures_own_size():
    values = np.random.default_rng(3).random((16, 16), np.float32)
    for size in ((37, 53), (16, 16), (16, 90)):
        own = predictor.put_back(values, np.zeros(size, np.float32), "stretch")
        np.testing.assert_allclose(own, bilinear(values, *size), atol=2e-6)
    # Where it shrinks nothing is skipped: one pixel holds the mean.
    pixel = predictor.put_back(values, np.zeros((1, 1), np.float32), "stretch")
    assert pixel[0, 0] == pytest.approx(values.mean(), abs=0.02)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(90, 150), (151, 64), (64, 64), (300, 41)])
def test_what_the_square_shows_comes_back_to_its_place(fit, size):
    """A soft picture, brought to the square and back, is itself where the square shows it."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = 128 + 60 * np.sin(y / size[0] * 5 + 1) + 60 * np.cos(x / size[1] * 4)
    picture = np.repeat(waves.astype(np.uint8)[..., None], 3, axis=-1)
    square = resizing.resize_picture(picture, 64, "antialias", fit)
    nothing = np.full_like(picture, 0)
    back = predictor.put_back(square, nothing, fit)
    shown = back.max(-1) > 0
    # With 'pad', the place is rounded to a pixel of the square.
    slope, rounding = 300 / size[0] + 240 / size[1], max(size) / 64 / 2 if fit == "pad" else 0
    error = np.abs(back[shown] - picture[shown].astype(int)).max()
    assert error < 9 + slope * rounding
    side = min(size) if fit == "crop" else None
    assert shown.sum() == (side**2 if side else picture[..., 0].size)
    assert predictor.put_back(square, picture, fit)[~shown].tolist() == picture[~shown].tolist()


def test_regions_as_a_flood_fill_finds_them():
    rng = np.random.default_rng(1)
    values = rng.random((23, 31)).astype(np.float32)
    left, expected = set(zip(*np.nonzero(values >= np.float32(0.75)), strict=True)), []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            around = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= around
            edge += around
        ys, xs = ([int(v) for v in axis] for axis in zip(*region, strict=True))
        peak = max(float(values[place]) for place in region)
        size = (max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        expected.append(results.Box(min(xs), min(ys), *size, len(region), peak))
    found = results.find_boxes(values, 0.75)
    assert len(found) > 5
    assert list(found) == sorted(expected, key=lambda box: -box.peak)
    assert results.find_boxes(values, 2.0) == results.find_boxes(values, None) == ()
