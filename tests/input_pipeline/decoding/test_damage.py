"""Damaged files: a hole of zeros, a cut, a wrong checksum. And what only looks like damage."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from configs.errors import UserError
from input_pipeline.decoding import damage, pictures
from tests.input_pipeline.decoding import odd_formats as odd


def photograph():
    """Soft shapes with the grain of a camera, 320x480 px."""
    rng = np.random.default_rng(3)
    soft = ndimage.gaussian_filter(rng.normal(size=(320, 480, 3)), (12, 12, 0)) * 900
    grain = rng.normal(0, 6, soft.shape)
    return np.clip(128 + soft + grain, 1, 255).astype(np.uint8)


PHOTOGRAPH = photograph()
JPEGS = {
    "usual": {"quality": 90},
    "coarse": {"quality": 80},
    "optimised": {"quality": 90, "optimize": True},
    "fine": {"quality": 95, "subsampling": 0},
    "progressive": {"quality": 92, "progressive": True},
    "restarts": {"quality": 90, "restart_marker_rows": 1},
}


def refused(tmp_path, data, reason="damaged|cut", decode=pictures.decode_rgb):
    path = tmp_path / "damaged.jpg"
    path.write_bytes(data)
    with pytest.raises(UserError, match=reason) as error:
        decode(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def with_hole(data, start, size=4096):
    return data[:start] + bytes(size) + data[start + size :]


@pytest.mark.parametrize("page", range(1, 4))
@pytest.mark.parametrize("name", JPEGS)
def test_a_zeroed_page_of_a_jpeg_is_found(tmp_path, name, page):
    data = odd.saved(PHOTOGRAPH, "JPEG", **JPEGS[name])
    assert len(data) > 4 * 4096
    (tmp_path / "whole.jpg").write_bytes(data)
    pictures.decode_rgb(tmp_path / "whole.jpg")
    refused(tmp_path, with_hole(data, 4096 * page))
    refused(tmp_path, with_hole(data, 4096 * page), decode=pictures.decode_mask)


@pytest.mark.parametrize("size", [64, 512, 4096])
@pytest.mark.parametrize("start", [5001, 9003])
def test_a_hole_anywhere_in_a_usual_jpeg_is_found(tmp_path, start, size):
    refused(tmp_path, with_hole(odd.saved(PHOTOGRAPH, "JPEG", quality=90), start, size))


WHOLE = {
    "png": odd.saved(PHOTOGRAPH, "PNG"),
    "jpeg": odd.saved(PHOTOGRAPH, "JPEG"),
    "progressive": odd.saved(PHOTOGRAPH, "JPEG", progressive=True),
    "bmp": odd.saved(PHOTOGRAPH, "BMP"),
    "tiff": odd.saved(PHOTOGRAPH, "TIFF"),
    "tiff deflate": odd.saved(PHOTOGRAPH, "TIFF", compression="tiff_adobe_deflate"),
    "tiff lzw": odd.saved(PHOTOGRAPH, "TIFF", compression="tiff_lzw"),
    "tiff jpeg": odd.saved(PHOTOGRAPH, "TIFF", compression="jpeg"),
    "webp": odd.saved(PHOTOGRAPH, "WEBP"),
    "webp lossless": odd.saved(PHOTOGRAPH, "WEBP", lossless=True),
}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_that_was_cut_is_refused(tmp_path, name, share):
    refused(tmp_path, WHOLE[name][: int(len(WHOLE[name]) * share)], "cannot be read as a picture")


@pytest.mark.parametrize("name", WHOLE)
def test_a_page_of_zeros_is_found_in_every_format(tmp_path, name):
    place = len(WHOLE[name]) // 2 // 4096 * 4096
    refused(tmp_path, with_hole(WHOLE[name], place), "cannot be read as a picture")


@pytest.mark.parametrize("name", ["bmp", "tiff"])
def test_the_end_of_pixels_that_was_never_written_is_found(tmp_path, name):
    data = WHOLE[name] if name == "bmp" else odd.by_tifffile(PHOTOGRAPH, photometric="rgb")
    place = len(data) * 3 // 4 // 4096 * 4096
    refused(tmp_path, with_hole(data, place, len(data) - place), "whole 4096-byte blocks are zeros")


def scenes():
    y, x = np.mgrid[:400, :600]
    disc = (y - 200) ** 2 + (x - 300) ** 2 < 120**2
    for name, levels in {
        "black": 0 * x,
        "white": 255 + 0 * x,
        "grey": 128 + 0 * x,
        "ramp": x * 255 // 600,
        "white disc": 255 * disc,
        "black disc": 255 * ~disc,
        "lower half black": np.where(y < 200, PHOTOGRAPH[y % 320, x % 480, 0], 0),
        "black frame": np.where(disc, PHOTOGRAPH[y % 320, x % 480, 0], 0),
    }.items():
        yield name, np.repeat(levels[..., None], 3, -1).astype(np.uint8)


SCENES = dict(scenes())
WAYS = {
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "jpeg": ("JPEG", {}),
    "jpeg optimised": ("JPEG", {"optimize": True}),
    "jpeg coarse": ("JPEG", {"quality": 20, "optimize": True}),
    "jpeg progressive": ("JPEG", {"progressive": True}),
    "jpeg in tiff": ("TIFF", {"compression": "jpeg"}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scene", SCENES)
def test_black_and_flat_pictures_are_no_damage(tmp_path, scene, way):
    """Their files have long runs of zeros, rightly."""
    format, options = WAYS[way]
    path = tmp_path / "flat"
    path.write_bytes(odd.saved(SCENES[scene], format, **options))
    shown = pictures.decode_rgb(path).astype(int)
    assert np.abs(shown - SCENES[scene]).mean() < 12


def test_whole_black_rows_that_begin_a_page_are_no_hole():
    rows = np.full((12, 4096), 9, np.uint8)
    rows[3:7] = 0
    damage.check_rows(rows.tobytes(), 0, rows.size, 4096)
    with pytest.raises(UserError, match="4096-byte blocks"):
        damage.check_rows(rows.tobytes(), 0, rows.size, 3000)


def chunks(data):
    place = 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield place, data[place + 4 : place + 8], length
        place += 12 + length


def text_png():
    image, file = Image.fromarray(PHOTOGRAPH), io.BytesIO()
    image.save(file, "PNG", dpi=(300, 300))
    return file.getvalue()


@pytest.mark.parametrize("kind", [b"IHDR", b"pHYs", b"IDAT", b"IEND"])
def test_every_checksum_of_a_png_is_verified(tmp_path, kind):
    data = text_png()
    place, _, length = next(chunk for chunk in chunks(data) if chunk[1] == kind)
    flipped = bytearray(data)
    flipped[place + 8 + length] ^= 1
    refused(tmp_path, bytes(flipped), "cannot be read as a picture")


def test_the_checksum_of_a_png_s_pixels_is_verified(tmp_path):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + row.tobytes() for row in odd.GREY)
    header = struct.pack(">IIBBBBB", odd.W, odd.H, 8, 0, 0, 0, 0)
    for last, reason in ((0, None), (1, "data check|damaged")):
        packed = bytearray(zlib.compress(rows))
        packed[-1] ^= last
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", bytes(packed)) + chunk(b"IEND", b"")
        data = b"\x89PNG\r\n\x1a\n" + parts
        if reason:
            refused(tmp_path, data, reason)
        else:
            (tmp_path / "good.png").write_bytes(data)
            shown = pictures.decode_rgb(tmp_path / "good.png")
            np.testing.assert_array_equal(shown[..., 0], odd.GREY)
