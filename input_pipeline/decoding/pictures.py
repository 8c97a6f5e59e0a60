"""Picture files decoded to 8-bit arrays: NumPy, Pillow, and tifffile for TIFF."""

import io
import pathlib
import struct
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from configs.errors import UserError
from input_pipeline.decoding import damage, tiff
from input_pipeline.decoding.formats import (
    EXTENSIONS,
    MAX_PIXELS,
    Samples,
    check_size,
    known,
    whole,
)

__all__ = ["EXTENSIONS", "MAX_PIXELS", "decode_foreground", "decode_mask", "decode_rgb"]

# `Image.open` is not used: it tries every format there is, one of which starts other programs, and
# its own limit of pixels, lower than ours, could only be lifted for the whole program.
_OPENERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,  # of an MPO, the first picture
    "BMP": BmpImagePlugin.BmpImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}
_GREY = (64, 191)  # levels that are neither black nor white
_MOST_GREY = 0.1  # of a foreground: soft edges
_SMEARED = 16  # levels that a lossy black may reach
_BORDER_WHITE, _INSIDE_BLACK = 0.95, 0.1  # shares from which a foreground is taken for inverted


def _open(path: pathlib.PurePath, data: bytes | None = None, most: int = MAX_PIXELS) -> Samples:
    """A picture fully decoded and turned upright by its EXIF orientation."""
    try:
        data = whole(pathlib.Path(path)) if data is None else data
        format = known(data)
        if format == "TIFF":
            samples, orientation = tiff.read(data, most)
        else:
            samples, orientation = _by_pillow(data, format, most)
        levels = _upright(samples.levels, orientation)
        return Samples(levels, samples.white, samples.kind, samples.lossy)
    except Exception as error:  # decoders raise many kinds for a damaged file
        reason = getattr(error, "strerror", None) or str(error).replace(f" {str(path)!r}", "")
        reason = " ".join(reason.split()) or type(error).__name__
        raise UserError(f"{path} cannot be read as a picture: {reason}") from error


def _by_pillow(data: bytes, format: str, most: int) -> tuple[Samples, int]:
    """A picture that is no TIFF, and its EXIF orientation."""
    image = _OPENERS[format](io.BytesIO(data))
    check_size(*image.size, most)
    lossy = format == "JPEG"
    if format == "PNG":
        width, height = image.size
        damage.check_png(data, 8 * (width + 8) * (height + 8))
    elif format == "JPEG":
        damage.check_jpeg(data)
    elif format == "WEBP":
        lossy = damage.check_webp(data)
    else:
        _check_bmp(data, *image.size)
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    if format == "PNG" and data[24] == 16:  # Pillow drops the lower 8 bits of colours
        import imagecodecs  # for those who have such files

        levels = imagecodecs.png_decode(data)
        levels = levels.reshape(*levels.shape[:2], -1)
        channels = 3 if levels.shape[-1] > 2 else 1
        return Samples(levels[..., :channels], 65535, "16-bit unsigned", lossy), orientation
    if image.mode in ("P", "PA"):  # palettes with transparency need the step through RGBA
        image = image.convert("RGBA")
    return Samples(np.asarray(image.convert("RGB")), 255, "8-bit unsigned", lossy), orientation


def _check_bmp(data: bytes, width: int, height: int) -> None:
    """Holes in a BMP that is not compressed."""
    (start, header) = struct.unpack_from("<II", data, 10)
    bits = struct.unpack_from("<H", data, 24 if header == 12 else 28)[0]
    if header == 12 or struct.unpack_from("<I", data, 30)[0] in (0, 3, 6):
        stride = (width * bits + 31) // 32 * 4
        damage.check_rows(data, start, min(len(data), start + stride * height), stride)


def _upright(levels: np.ndarray, orientation: int) -> np.ndarray:
    """Turned by its EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        levels = levels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        levels = levels[::-1]
    if orientation in (2, 3, 6, 7):
        levels = levels[:, ::-1]
    return np.ascontiguousarray(levels)


def _to_8_bits(samples: Samples, path: pathlib.PurePath) -> np.ndarray:
    if samples.white is None:
        raise UserError(
            f"{path} holds {samples.kind} samples, whose white is not known: save it as unsigned "
            f"8 or 16 bit"
        )
    if samples.white == 255:
        return samples.levels.astype(np.uint8)
    return np.round(samples.levels * np.float32(255 / samples.white)).astype(np.uint8)


def decode_rgb(
    path: pathlib.PurePath, data: bytes | None = None, most: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as 8-bit RGB. Other unsigned widths are scaled to it; transparency is dropped.

    Args:
      path: the file.
      data: what is in it, where that is known already: `path` is then only what it is called.
      most: pixels that it may have.

    Raises:
      UserError: not a whole picture, a damaged one, several in one file, one of over `most`
        pixels, or one of signed, 32-bit or floating-point samples.
    """
    levels = _to_8_bits(_open(path, data, most), path)
    return np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels


def decode_mask(
    path: pathlib.PurePath, data: bytes | None = None, most: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 1"]:
    """A ground-truth mask: 1 where any colour of the original is above 0, however small.

    Where the file's compression is lossy (JPEG, also inside TIFF; most WebP) and black comes back
    as a little more than 0: above 127.

    Args:
      path: as `decode_rgb`.
      data: as `decode_rgb`.
      most: as `decode_rgb`.

    Raises:
      UserError: as `decode_rgb`, but samples of every kind are read; negative ones or NaN.
    """
    samples = _open(path, data, most)
    levels = samples.levels.max(-1, keepdims=True)
    if samples.lossy:
        return (_to_8_bits(samples, path).max(-1, keepdims=True) > 127).astype(np.uint8)
    if not (levels >= 0).all():
        raise UserError(f"{path} marks with negative or missing numbers: save it as 8 bit")
    return (levels > 0).astype(np.uint8)


def decode_foreground(
    path: pathlib.Path, shape: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 1"]:
    """Where anomalies may lie: 255, and 0 elsewhere. Soft edges are cut in the middle.

    White is the highest level of a file of two levels, the lower of which is 0 (0 and 1, or 0 and
    128), else what is above the middle.

    Args:
      path: a picture file.
      shape: height and width of the picture that it belongs to; None: it belongs to none, and may
        cover any border.

    Raises:
      UserError: as `decode_rgb`; another size than `shape`; grey levels; black and white swapped.
    """
    samples = _open(path)
    if shape is not None and samples.levels.shape[:2] != tuple(shape):
        height, width = samples.levels.shape[:2]
        raise UserError(
            f"{path} is {width}x{height} px, but its picture is {shape[1]}x{shape[0]} px"
        )
    known = np.unique(samples.levels.max(-1))
    if not samples.lossy and len(known) == 2 and known[0] == 0 < known[1]:
        plane = samples.levels.max(-1, keepdims=True) > 0
    elif not samples.lossy and known.tolist() == [1]:  # of 0 and 1, everywhere
        plane = np.ones((*samples.levels.shape[:2], 1), bool)
    else:
        levels = _to_8_bits(samples, path).max(-1, keepdims=True)
        plane = _white(levels, path, _SMEARED if samples.lossy else 0)
    border = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
    if (
        shape is not None
        and border.mean() >= _BORDER_WHITE
        and (share := 1 - plane.mean()) >= _INSIDE_BLACK
    ):
        raise UserError(
            f"{path} is white all around its border and black on {100 * share:.0f} % of the "
            f"picture: is it inverted? White is where anomalies may lie; if it is meant so, make "
            f"its outermost pixels black"
        )
    return np.where(plane, np.uint8(255), np.uint8(0))


def _white(levels: UInt8[np.ndarray, "h w 1"], path: pathlib.Path, black: int) -> np.ndarray:
    """bool[h, w, 1]: what is above the middle, where nearly all is up to `black`, or white."""
    grey = ((levels >= _GREY[0]) & (levels <= _GREY[1])).mean()
    if grey > _MOST_GREY or black < levels.max() <= 127:
        raise UserError(
            f"{path} is no foreground: it needs black (0) and white (255), but {100 * grey:.0f} % "
            f"of its pixels are grey and its highest level is {levels.max()}"
        )
    return levels > 127
