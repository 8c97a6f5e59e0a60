"""Files of many pixel formats: their bytes, with the 8-bit RGB that they show, or the refusal.

The expected pixels are computed from the samples here, never by a decoder.
"""

import io

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.input_pipeline.decoding.tiff_by_hand import page, tiff

H, W = 16, 24
_rng = np.random.default_rng(7)
GREY = _rng.integers(0, 256, (H, W), np.uint8)
RGB = _rng.integers(0, 256, (H, W, 3), np.uint8)
FLAT = np.full((H, W, 3), (200, 90, 40), np.uint8)  # that lossy formats keep
DEEP = _rng.integers(0, 65536, (H, W, 3)).astype(np.uint16)
BITS = GREY > 127
TWO, FOUR, TWELVE = GREY >> 6, GREY >> 4, DEEP[..., 0] >> 4


def grey(levels: np.ndarray, white: int = 255) -> np.ndarray:
    """What levels up to `white` look like."""
    return np.repeat(np.rint(levels / white * 255).astype(np.uint8)[..., None], 3, -1)


def saved(array: np.ndarray | Image.Image, format: str, **options) -> bytes:
    """By Pillow."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file := io.BytesIO(), format, **options)
    return file.getvalue()


def by_tifffile(array: np.ndarray, **options) -> bytes:
    """One or several pages, without tifffile's own description."""
    tifffile.imwrite(file := io.BytesIO(), array, metadata=None, **options)
    return file.getvalue()


def packed(levels: np.ndarray, bits: int) -> bytes:
    """Rows of `bits` a sample, each from a whole byte on."""
    places = np.unpackbits(levels.astype(">u2").view(np.uint8).reshape(*levels.shape, 2), axis=-1)
    return np.packbits(places[..., 16 - bits :].reshape(len(levels), -1), axis=-1).tobytes()


def one(samples: np.ndarray | bytes, bits, photometric: int, order: str = "<", **tags) -> bytes:
    """A TIFF by hand."""
    data = samples if isinstance(samples, bytes) else samples.tobytes()
    return tiff(page(data, W, H, bits, photometric, **tags), order=order)


def _palette() -> tuple[Image.Image, np.ndarray]:
    image = Image.fromarray(FOUR, "L")
    image = Image.frombytes("P", (W, H), FOUR.tobytes())
    colours = _rng.integers(0, 256, (16, 3), np.uint8)
    image.putpalette(colours.tobytes())
    return image, colours[FOUR]


PALETTE, COLOURED = _palette()
_TABLE = tuple(_rng.integers(0, 65536, 3 * 16).tolist())
_SMALL_TABLE = tuple(_rng.integers(0, 256, 3 * 16).tolist())
_CMYK = _rng.integers(0, 256, (H, W, 4), np.uint8)
_LIGHT = 255 - _CMYK.astype(int)
_RGBA = np.dstack([RGB, GREY])
_PLANES = np.ascontiguousarray(RGB.transpose(2, 0, 1))
_SMALL = page(GREY[:4, :6].tobytes(), 6, 4, 8, 1, t254=1)
_ALPHA = page(packed(BITS, 1), W, H, 1, 4, t254=4)
_FULL = page(RGB.tobytes(), W, H, (8, 8, 8), 2)
_TURNED = Image.Exif()
_TURNED[0x0112] = 6
_TWO_FRAMES = {"save_all": True, "append_images": [Image.fromarray(255 - FLAT)]}

FORMATS: dict[str, tuple[bytes, np.ndarray]] = {
    "png 1 bit": (saved(BITS, "PNG"), grey(BITS, 1)),
    "png grey": (saved(GREY, "PNG"), grey(GREY)),
    "png grey, 16 bit": (saved(DEEP[..., 0], "PNG"), grey(DEEP[..., 0], 65535)),
    "png grey and alpha": (saved(Image.fromarray(_RGBA[..., 2:], "LA"), "PNG"), grey(RGB[..., 2])),
    "png rgb": (saved(RGB, "PNG"), RGB),
    "png rgba": (saved(_RGBA, "PNG"), RGB),
    "png rgb, 16 bit": (
        imagecodecs.png_encode(DEEP),
        np.rint(DEEP / 257).astype(np.uint8),
    ),
    "png palette": (saved(PALETTE, "PNG"), COLOURED),
    "png palette of 4 bit": (saved(PALETTE, "PNG", bits=4), COLOURED),
    "png turned": (saved(RGB, "PNG", exif=_TURNED), np.rot90(RGB, -1)),
    "jpeg": (saved(FLAT, "JPEG", quality=100, subsampling=0), FLAT),
    "jpeg progressive": (saved(FLAT, "JPEG", quality=100, progressive=True), FLAT),
    "jpeg grey": (saved(FLAT[..., 0], "JPEG"), grey(FLAT[..., 0])),
    "jpeg cmyk": (
        saved(Image.fromarray(np.dstack([255 - FLAT, 0 * FLAT[..., :1]]), "CMYK"), "JPEG"),
        FLAT,
    ),
    "mpo: its first": (saved(FLAT, "MPO", **_TWO_FRAMES), FLAT),
    "bmp 1 bit": (saved(BITS, "BMP"), grey(BITS, 1)),
    "bmp grey": (saved(GREY, "BMP"), grey(GREY)),
    "bmp palette": (saved(PALETTE, "BMP"), COLOURED),
    "bmp rgb": (saved(RGB, "BMP"), RGB),
    "bmp rgba": (saved(_RGBA, "BMP"), RGB),
    "webp lossless": (saved(RGB, "WEBP", lossless=True), RGB),
    "webp lossless with alpha": (saved(_RGBA, "WEBP", lossless=True, exact=True), RGB),
    "tiff 1 bit": (one(packed(BITS, 1), 1, 1), grey(BITS, 1)),
    "tiff 1 bit, min is white": (one(packed(BITS, 1), 1, 0), grey(~BITS, 1)),
    "tiff 1 bit, last bit first": (
        one(np.packbits(BITS, axis=-1, bitorder="little"), 1, 1, t266=2),
        grey(BITS, 1),
    ),
    "tiff ccitt": (saved(BITS, "TIFF", compression="group4"), grey(BITS, 1)),
    "tiff 2 bit": (one(packed(TWO, 2), 2, 1), grey(TWO, 3)),
    "tiff 4 bit": (one(packed(FOUR, 4), 4, 1), grey(FOUR, 15)),
    "tiff 8 bit": (one(GREY, 8, 1), grey(GREY)),
    "tiff 8 bit, min is white": (one(GREY, 8, 0), grey(255 - GREY)),
    "tiff 12 bit": (one(packed(TWELVE, 12), 12, 1), grey(TWELVE, 4095)),
    "tiff 16 bit": (one(DEEP[..., 0], 16, 1), grey(DEEP[..., 0], 65535)),
    "tiff 16 bit, big-endian": (
        one(DEEP[..., 0].astype(">u2"), 16, 1, ">"),
        grey(DEEP[..., 0], 65535),
    ),
    "tiff 16 bit, min is white": (one(DEEP[..., 0], 16, 0), grey(65535 - DEEP[..., 0], 65535)),
    "tiff rgb, 16 bit": (one(DEEP, (16, 16, 16), 2), np.rint(DEEP / 257).astype(np.uint8)),
    "tiff planar": (by_tifffile(_PLANES, photometric="rgb", planarconfig="separate"), RGB),
    "tiff planar by hand": (one(b"", (8,) * 3, 2, t273=list(map(bytes, _PLANES)), t284=2,
                                t279=(H * W,) * 3), RGB),
    "tiff tiles": (by_tifffile(RGB, photometric="rgb", tile=(16, 16)), RGB),
    "tiff rgba": (one(_RGBA, (8,) * 4, 2, t338=2), RGB),
    "tiff palette": (
        one(packed(FOUR, 4), 4, 3, t320=_TABLE),
        np.rint(np.reshape(_TABLE, (3, 16)).T[FOUR] / 257).astype(np.uint8),
    ),
    "tiff palette of 8-bit colours": (
        one(packed(FOUR, 4), 4, 3, t320=_SMALL_TABLE),
        np.reshape(_SMALL_TABLE, (3, 16)).T[FOUR].astype(np.uint8),
    ),
    "tiff cmyk": (
        one(_CMYK, (8,) * 4, 5),
        np.rint(_LIGHT[..., :3] * _LIGHT[..., 3:] / 255).astype(np.uint8),
    ),
    "tiff lzw": (by_tifffile(RGB, photometric="rgb", compression="lzw", predictor=True), RGB),
    "tiff deflate": (by_tifffile(DEEP, photometric="rgb", compression="zlib"),
                     np.rint(DEEP / 257).astype(np.uint8)),
    "tiff packbits": (by_tifffile(RGB, photometric="rgb", compression="packbits"), RGB),
    "tiff zstd": (by_tifffile(RGB, photometric="rgb", compression="zstd"), RGB),
    "tiff jpeg": (by_tifffile(FLAT, photometric="rgb", compression="jpeg"), FLAT),
    "tiff jpeg ycbcr": (saved(FLAT, "TIFF", compression="jpeg", quality=95), FLAT),
    "tiff turned": (one(RGB, (8,) * 3, 2, t274=6), np.rot90(RGB, -1)),
    "tiff mirrored": (one(RGB, (8,) * 3, 2, t274=5), RGB.transpose(1, 0, 2)),
    "tiff thumbnail first": (tiff(_SMALL, _FULL), RGB),
    "tiff with its transparency": (tiff(_FULL, _ALPHA), RGB),
    "bigtiff": (by_tifffile(RGB, photometric="rgb", bigtiff=True), RGB),
}  # fmt: skip

_SIGNED = GREY.astype(np.int16) - 90
REFUSED: dict[str, tuple[bytes, str]] = {
    "apng": (saved(FLAT, "PNG", **_TWO_FRAMES), "it holds 2 pictures"),
    "animated webp": (saved(FLAT, "WEBP", **_TWO_FRAMES), "it holds 2 pictures"),
    "tiff of two pages": (tiff(_FULL, _FULL), "it holds 2 pictures"),
    "tiff, small page first": (tiff(_SMALL | {254: 0}, _FULL), "it holds 2 pictures"),
    "tiff of a thumbnail": (tiff(_SMALL), "only thumbnails"),
    "imagej stack": (
        saved(GREY, "TIFF", description="ImageJ=1.53t\nimages=5\nslices=5\n"),
        "it holds 5 pictures",
    ),
    "tiff 16 bit, signed": (one(_SIGNED, 16, 1, t339=2), "16-bit signed"),
    "tiff 8 bit, signed": (one(GREY.view(np.int8), 8, 1, t339=2), "8-bit signed"),
    "tiff 32 bit": (one(GREY.astype(np.uint32), 32, 1), "32-bit unsigned"),
    "tiff float": (one(GREY.astype(np.float32), 32, 1, t339=3), "32-bit floating-point"),
    "tiff half float": (one(GREY.astype(np.float16), 16, 1, t339=3), "16-bit floating-point"),
    "tiff double": (one(GREY.astype(np.float64), 64, 1, t339=3), "64-bit floating-point"),
    "tiff lab": (one(RGB, (8,) * 3, 8), "colours .*LAB"),
    "tiff ycbcr": (one(RGB, (8,) * 3, 6, t530=(1, 1)), "colours .*YCBCR"),
    "tiff of many bands": (one(RGB, (8,) * 3, 1, t338=(0, 0)), "3 channels that are no colours"),
    "tiff multiplied alpha": (one(_RGBA, (8,) * 4, 2, t338=1), "multiplied by its transparency"),
    "tiff 5, 6 and 5 bit": (one(DEEP[..., 0], (5, 6, 5), 2), "of several or unknown kinds"),
    "tiff webp": (by_tifffile(FLAT, photometric="rgb", compression="webp"), "its compression"),
    "tiff of other inks": (one(_CMYK, (8,) * 4, 5, t332=2), "inks"),
    "gif": (saved(GREY, "GIF"), "it is no PNG, JPEG, BMP, TIFF or WebP"),
    "jpeg 2000": (saved(RGB, "JPEG2000"), "it is no PNG, JPEG, BMP, TIFF or WebP"),
    "postscript": (saved(RGB, "EPS"), "it is no PNG, JPEG, BMP, TIFF or WebP"),
    "riff, but no webp": (b"RIFF\x24\0\0\0WAVEfmt ", "it is no PNG"),
    "empty": (b"", "it is empty"),
}
