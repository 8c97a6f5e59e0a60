"""Decoding: kinds of files, masks, and the size limit."""

import os
import pathlib
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from input_pipeline.decoding import pictures


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def noise(name, *shape):
    rng = np.random.default_rng(sum(name.encode()))
    return rng.integers(0, 256, shape, np.uint8)


def test_pictures_of_every_kind_become_rgb(tmp_path):
    grey = noise("grey", 6, 9)
    rgb = noise("rgb", 6, 9, 3)
    expected_grey = np.repeat(grey[..., None], 3, -1)

    def decoded(name, array, **options):
        return pictures.decode_rgb(save(tmp_path / name, array, **options))

    np.testing.assert_array_equal(decoded("grey.png", grey), expected_grey)
    # 16 bits: 257 v is the 16-bit value of the 8-bit v.
    np.testing.assert_array_equal(decoded("deep.png", grey.astype(np.uint16) * 257), expected_grey)
    np.testing.assert_array_equal(decoded("deep.tif", grey.astype(np.uint16) * 257), expected_grey)
    rgba = np.concatenate([rgb, noise("alpha", 6, 9, 1)], -1)
    np.testing.assert_array_equal(decoded("rgba.png", rgba), rgb)
    np.testing.assert_array_equal(decoded("bits.png", grey > 127), (expected_grey > 127) * 255)
    np.testing.assert_array_equal(decoded("rgb.bmp", rgb), rgb)
    np.testing.assert_array_equal(decoded("rgb.webp", rgb, lossless=True), rgb)
    with pytest.raises(UserError, match="floating-point samples"):
        decoded("float.tif", grey.astype(np.float32))


def test_palette_pictures(tmp_path):
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:2] = 250, 10, 60
    image = Image.fromarray(rgb).quantize(4)
    image.info["transparency"] = bytes([255, 0, 255, 255])  # the form that Pillow warns about
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(pictures.decode_rgb(tmp_path / "palette.png"), rgb)


def test_exif_orientation_is_applied(tmp_path):
    rgb = noise("exif", 4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: to be rotated by 90 degrees clockwise
    path = save(tmp_path / "turned.png", rgb, exif=exif)
    np.testing.assert_array_equal(pictures.decode_rgb(path), np.rot90(rgb, -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mask_is_anything_above_zero(tmp_path, dtype):
    truth = noise("mask", 5, 7) > 128
    path = save(tmp_path / "mask.png", truth.astype(dtype))  # VisA's masks hold small integers
    np.testing.assert_array_equal(pictures.decode_mask(path)[..., 0], truth)
    colour = np.zeros((5, 7, 4), np.uint8)
    colour[..., 3] = 255  # opaque black is background
    colour[truth, 1] = 1
    path = save(tmp_path / "colour.png", colour)
    np.testing.assert_array_equal(pictures.decode_mask(path)[..., 0], truth)


def test_a_lossy_mask_is_cut_in_the_middle(tmp_path):
    """JPEG turns black into a little more than 0: above 0 would be nearly everywhere."""
    truth = np.zeros((32, 48), np.uint8)
    truth[9:21, 13:30] = 255
    for name, options in (("mask.jpg", {"quality": 60}), ("mask.webp", {"quality": 40})):
        path = save(tmp_path / name, truth, **options)
        above_zero = (np.asarray(Image.open(path).convert("L")) > 0).mean()
        assert above_zero > 1.2 * (truth > 0).mean()
        decoded = pictures.decode_mask(path)[..., 0]
        assert (decoded != truth // 255).mean() < 0.02


def claim(path, width, height):
    """A PNG whose header claims a size, with next to no data."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


@pytest.mark.parametrize("decode", [pictures.decode_rgb, pictures.decode_mask])
def test_a_picture_that_claims_too_much_is_refused_at_once(tmp_path, decode):
    path = claim(tmp_path / "huge.png", 60_000, 60_000)
    began = time.process_time()
    with pytest.raises(UserError, match="60000x60000 px, 3,600,000,000 in all") as error:
        decode(path)
    assert time.process_time() - began < 1  # 3.6 GB would take longer to fill
    assert "268,435,456" in str(error.value) and "\n" not in str(error.value)


def test_pillow_s_own_limit_does_not_matter(tmp_path, monkeypatch):
    """Neither its error nor its warning, which is an error in these tests."""
    for limit in (
        3,
        40,
    ):  # px; Pillow refuses 54 px or more with the first and warns with the other
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        path = save(tmp_path / "large.png", noise("large", 6, 9, 3))
        np.testing.assert_array_equal(pictures.decode_rgb(path), noise("large", 6, 9, 3))


@pytest.mark.parametrize("decode", [pictures.decode_rgb, pictures.decode_mask])
def test_other_formats_under_a_promised_ending_are_refused(tmp_path, decode):
    Image.fromarray(noise("gif", 6, 9)).save(tmp_path / "animation.png", "GIF")
    Image.fromarray(noise("gif", 6, 9)).save(tmp_path / "camera.jpg", "PPM")
    for name in ("animation.png", "camera.jpg"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a picture: it is no PNG,"):
            decode(tmp_path / name)


def test_a_promised_format_may_have_another_s_ending(tmp_path):
    rgb = noise("ending", 6, 9, 3)
    Image.fromarray(rgb).save(tmp_path / "really a png.jpg", "PNG")
    np.testing.assert_array_equal(pictures.decode_rgb(tmp_path / "really a png.jpg"), rgb)
    pair = [Image.fromarray(np.full((64, 64, 3), level, np.uint8)) for level in (200, 90)]
    pair[0].save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=pair[1:])
    assert np.abs(pictures.decode_rgb(tmp_path / "stereo.jpg").astype(int) - 200).max() < 3
    assert pictures.decode_mask(tmp_path / "stereo.jpg").all()


IMPORTED = """
import os, pathlib, sys
from PIL import Image
before, limit = dict(os.environ), Image.MAX_IMAGE_PIXELS
import input_pipeline
from input_pipeline.folders import layouts, scan
from input_pipeline import on_disk
from input_pipeline.decoding import pictures, resizing
heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "jax", "tifffile", "imagecodecs"}
assert not heavy & set(sys.modules)
assert (dict(os.environ), Image.MAX_IMAGE_PIXELS) == (before, limit) and limit
picture = pictures.decode_rgb(pathlib.Path(sys.argv[1]))
assert resizing.resize_picture(picture, 8, "antialias", "pad").any()
assert "tensorflow" not in sys.modules
from input_pipeline import datasets
assert "tensorflow" not in sys.modules  # until batches are made
"""


def test_importing_is_light_and_changes_nothing(tmp_path):
    path = save(tmp_path / "one.png", noise("one", 30, 20, 3) | 1)
    result = subprocess.run(
        [sys.executable, "-c", IMPORTED, str(path)],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
