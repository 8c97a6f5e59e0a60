"""Pixel formats: read right by the file's own tags, or refused in one line."""

import os
import re
import socket

import numpy as np
import pytest

from configs.errors import UserError
from input_pipeline.decoding import pictures
from tests.input_pipeline.decoding import odd_formats as odd


def write(path, data):
    path.write_bytes(data)
    return path


def about_equal(name, shown, expected):
    most = 3 if "jpeg" in name or "mpo" in name else 0
    assert shown.dtype == np.uint8 and shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).max() <= most


@pytest.mark.parametrize("name", odd.FORMATS)
def test_a_format_is_read_as_what_it_shows(tmp_path, name):
    data, expected = odd.FORMATS[name]
    about_equal(name, pictures.decode_rgb(write(tmp_path / "it.png", data)), expected)


@pytest.mark.parametrize("name", odd.REFUSED)
def test_what_is_not_read_is_one_line(tmp_path, name):
    data, reason = odd.REFUSED[name]
    path = write(tmp_path / "photo.png", data)
    with pytest.raises(UserError, match=reason) as error:
        pictures.decode_rgb(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


MASK = np.zeros((odd.H, odd.W), bool)
MASK[3:9, 5:17] = True
MASKS = {
    f"tiff of {dtype}": odd.one(
        MASK.astype(dtype), 8 * np.dtype(dtype).itemsize, 1, t339={"u": 1, "i": 2, "f": 3}[dtype[0]]
    )
    for dtype in ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
} | {
    "png of 0 and 1": odd.saved(MASK.astype(np.uint8), "PNG"),
    "png rgb of 16 bit, 0 and 1": odd.imagecodecs.png_encode(np.dstack([MASK.astype("u2")] * 3)),
    "tiff, min is white": odd.one(odd.packed(~MASK, 1), 1, 0),
    "tiff rgb of 16 bit, 0 and 1": odd.one(np.dstack([MASK.astype("u2")] * 3), (16,) * 3, 2),
    "webp lossless of 0 and 1": odd.saved(MASK.astype(np.uint8), "WEBP", lossless=True),
    "webp lossy": odd.saved(MASK * np.uint8(255), "WEBP", quality=95),
    "jpeg": odd.saved(MASK * np.uint8(255), "JPEG", quality=95),
    "jpeg in tiff": odd.by_tifffile(
        MASK * np.uint8(255), compression="jpeg", compressionargs={"level": 95}
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_any_kind(tmp_path, name):
    mask = pictures.decode_mask(write(tmp_path / "mask", MASKS[name]))[..., 0]
    lossy = name in ("webp lossy", "jpeg", "jpeg in tiff")
    assert (mask != MASK).mean() <= 0.02 * lossy


@pytest.mark.parametrize("value", [-1, np.nan])
def test_a_mask_of_negative_or_missing_numbers_is_refused(tmp_path, value):
    levels = np.where(MASK, value, 0).astype(np.float32)
    with pytest.raises(UserError, match="negative or missing numbers"):
        pictures.decode_mask(write(tmp_path / "mask.tif", odd.one(levels, 32, 1, t339=3)))


@pytest.mark.parametrize("ending", [".jfif", ".jpe", ".png", ".jpg", ".jpeg", ".tif", ".webp"])
def test_promised_endings(ending):
    assert ending in pictures.EXTENSIONS


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # its path may have 108 letters


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, bound_socket, device])
@pytest.mark.parametrize(
    "decode", [pictures.decode_rgb, pictures.decode_mask, pictures.decode_foreground]
)
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, make, decode):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "x.png")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'x.png'} cannot be read")) as error:
        decode(tmp_path / "x.png")
    assert "a pipe, a socket or a device" in str(error.value)
