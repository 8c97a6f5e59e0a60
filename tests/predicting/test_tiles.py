"""Tiles cover every pixel, and nothing of their edges is left in the blended map."""

import numpy as np
import pytest

from diffad_jax.predicting import tiles

SIZES = [(32, 32), (33, 32), (100, 47), (61, 129), (5, 90), (1, 1), (40, 3)]


def blended(picture, tile=32, overlap=0.25, change=lambda number, value: value):
    """The picture cut into tiles and put together again."""
    grid = tiles.grid(*picture.shape[:2], tile, overlap)
    canvas = tiles.Canvas(grid, picture.shape[2])
    for number in range(len(grid.corners)):
        canvas.add(number, change(number, grid.cut(picture, number).astype(np.float32)))
    return canvas.mean


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0.05, 0.25, 0.5, 0.9])
def test_what_all_tiles_agree_on_stays_to_the_last_bit(size, overlap):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(blended(noise, overlap=overlap), noise)
    third = blended(noise, overlap=overlap, change=lambda _, tile: tile * 0 + np.float32(1 / 3))
    np.testing.assert_array_equal(third, np.full_like(third, np.float32(1 / 3)))


def test_a_ramp_has_no_seams():
    ramp = np.linspace(0, 1, 150, dtype=np.float32)[:, None] + np.linspace(0, 2, 77)
    ramp = ramp.astype(np.float32)[..., None]
    np.testing.assert_array_equal(blended(ramp), ramp)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_tiles_that_disagree_flow_into_each_other(overlap):
    """Black and white tiles: over the shared pixels the map goes from one to the other."""
    plain = np.zeros((32, 32 + int(32 * (1 - overlap)), 1), np.uint8)
    map_ = blended(plain, overlap=overlap, change=lambda n, tile: tile + n)[..., 0]
    shared = int(32 * overlap)
    assert map_.min() == 0 and map_.max() == 1
    steps = np.diff(map_, axis=1)
    # A straight line would rise 1 / shared a pixel; this one starts and ends flat.
    assert 0 <= steps.min() and steps.max() < 3 / shared
    assert steps[:, 32 - shared - 1].max() < 0.15 and np.abs(steps.sum(1) - 1).max() < 1e-6
    # The weighted mean, written out.
    sine = np.sin(np.pi * (np.arange(32) + 0.5) / 32) ** 2
    second = sine[:shared] / (sine[:shared] + sine[32 - shared :])
    np.testing.assert_allclose(map_[7, 32 - shared : 32], second, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 1000])
def test_neighbours_share_enough(length, overlap):
    starts = tiles.starts(length, 32, overlap)
    assert starts[0] == 0 and starts[-1] == max(0, length - 32)
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    if len(gaps):
        assert gaps.max() <= np.ceil(32 * (1 - overlap))  # a fraction of a pixel is not shared
        assert (len(gaps) - 1) * int(32 * (1 - overlap)) < length - 32  # no tile too many
        assert gaps.max() - gaps.min() <= 1


def test_a_missing_part_is_the_mirror_image():
    strip = np.arange(5, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 3), np.uint8)
    grid = tiles.grid(5, 40, 8, 0.5)
    np.testing.assert_array_equal(grid.cut(strip, 0)[:, 0, 0], [0, 1, 2, 3, 4, 4, 3, 2])
