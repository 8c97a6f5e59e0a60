"""Foregrounds and parts: levels, sizes, polarity."""

import numpy as np
import pytest
from scipy import ndimage

from configs.errors import UserError
from input_pipeline.decoding import pictures
from tests.input_pipeline.decoding import odd_formats as odd

SHAPE = (60, 80)
INSIDE = np.zeros(SHAPE, bool)
INSIDE[15:40, 20:60] = True
FULL = np.ones(SHAPE, bool)
SOFT = ndimage.gaussian_filter(255.0 * INSIDE, 0.6).round().astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def decoded(tmp_path, data, shape=SHAPE):
    (tmp_path / "fore.png").write_bytes(data)
    return pictures.decode_foreground(tmp_path / "fore.png", shape)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        *(
            (f"0 and {white}", odd.saved(INSIDE * np.uint8(white), "PNG"), INSIDE)
            for white in (1, 2, 128, 254, 255)
        ),
        ("16 bit, 0 and 255", odd.saved(INSIDE * np.uint16(255), "PNG"), INSIDE),
        ("1 bit", odd.saved(INSIDE, "PNG"), INSIDE),
        ("rgb", odd.saved(np.dstack([INSIDE * np.uint8(255)] * 3), "PNG"), INSIDE),
        ("float", odd.by_tifffile(INSIDE.astype(np.float32)), INSIDE),
        ("soft edge", odd.saved(SOFT, "PNG"), INSIDE),
        ("jpeg", odd.saved(INSIDE * np.uint8(255), "JPEG", quality=90), INSIDE),
        ("full", odd.saved(FULL * np.uint8(255), "PNG"), FULL),
        ("full, of 1", odd.saved(FULL * np.uint8(1), "PNG"), FULL),
        ("empty", odd.saved(INSIDE * np.uint8(0), "PNG"), ~FULL),
        ("a small hole", odd.saved(255 - 255 * (INSIDE & (NOISE < 20)).astype("u1"), "PNG"), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_levels_are_read_right(tmp_path, name, data, expected):
    plane = decoded(tmp_path, data)
    assert (
        plane.shape == (*SHAPE, 1) and plane.dtype == np.uint8 and set(np.unique(plane)) <= {0, 255}
    )
    if expected is not None:
        np.testing.assert_array_equal(plane[..., 0] > 0, expected)


@pytest.mark.parametrize(
    ("name", "levels", "reason"),
    [
        ("the photograph itself", NOISE, "of its pixels are grey"),
        ("grey on black", np.where(INSIDE, NOISE // 2, 0).astype(np.uint8), "its highest level is"),
        ("labels", np.where(INSIDE, NOISE % 4, 0).astype(np.uint8), "its highest level is 3"),
        ("half grey", np.where(INSIDE, 128, 64).astype(np.uint8), "of its pixels are grey"),
        ("inverted", 255 - INSIDE * np.uint8(255), "black on 21 % of the picture: is it inverted"),
        ("inverted 0 and 1", 1 - INSIDE.astype(np.uint8), "is it inverted"),
        ("another size", INSIDE[:-1] * np.uint8(255), "80x59 px, but its picture is 80x60 px"),
        ("turned", INSIDE.T * np.uint8(255), "60x80 px, but its picture is 80x60 px"),
    ],
)
def test_what_is_no_foreground_is_refused_by_name(tmp_path, name, levels, reason):
    with pytest.raises(UserError, match=reason) as error:
        decoded(tmp_path, odd.saved(np.ascontiguousarray(levels), "PNG"))
    assert str(tmp_path / "fore.png") in str(error.value) and "\n" not in str(error.value)


def test_a_part_may_cover_the_border_and_has_no_picture(tmp_path):
    plane = decoded(tmp_path, odd.saved(255 - INSIDE * np.uint8(255), "PNG"), None)
    np.testing.assert_array_equal(plane[..., 0] > 0, ~INSIDE)
