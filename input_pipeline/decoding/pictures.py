"""Picture files decoded to 8-bit arrays and brought to a square: NumPy, SciPy and Pillow only."""

import functools
import pathlib
from typing import BinaryIO, Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import (
    BmpImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from scipy import sparse

from configs.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# A larger picture is refused by what its header claims, before anything is allocated for it.
MAX_PIXELS = 2**28  # 16,384 x 16,384: 0.8 GB decoded
Border: TypeAlias = Literal["edge", "constant"]
_LOSSY = ("JPEG", "MPO", "WEBP")  # formats that smear a mask's black
# How a file begins, and what opens it. `Image.open` is not used: its own limit of pixels, lower
# than ours, could only be lifted for the whole program.
_OPENERS = (
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", JpegImagePlugin.jpeg_factory),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"RIFF", WebPImagePlugin.WebPImageFile),
)


def _open(path: pathlib.Path) -> tuple[Image.Image, str]:
    """A picture fully decoded and turned upright by its EXIF orientation, and its format."""
    try:
        with open(path, "rb") as file:
            image = _identified(file, str(path))
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"it claims {width}x{height} px, {width * height:,} in all; the limit is "
                    f"{MAX_PIXELS:,}"
                )
            image.load()
            return ImageOps.exif_transpose(image), image.format or ""
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        reason = getattr(error, "strerror", None) or str(error).replace(f" {str(path)!r}", "")
        reason = " ".join(reason.split())
        raise UserError(f"{path} cannot be read as a picture: {reason}") from error


def _identified(file: BinaryIO, name: str) -> Image.Image:
    """The picture in an open file, its header read: by the file's content, not by its name."""
    start = file.read(12)
    file.seek(0)
    for first, opener in _OPENERS:
        if start.startswith(first) and (first != b"RIFF" or start.endswith(b"WEBP")):
            return opener(file, name)
    raise UserError("it is empty" if not start else "it is no PNG, JPEG, BMP, TIFF or WebP file")


def decode_rgb(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as 8-bit RGB. 16-bit greys are divided by 257; transparency is dropped.

    Raises:
      UserError: not a whole picture, one of floating-point pixels, or of over `MAX_PIXELS`.
    """
    image, _ = _open(path)
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point pixels: save it as 8 or 16 bit")
    if image.mode.startswith("I"):  # I;16 and I: one channel of 16 bits
        deep = np.clip(np.asarray(image), 0, 65535)
        grey = np.round(deep / 257.0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("P", "PA"):  # palettes with transparency need the step through RGBA
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def decode_mask(path: pathlib.Path) -> UInt8[np.ndarray, "h w 1"]:
    """A ground-truth mask: 1 where any colour of the original is above 0, however small.

    In JPEG and WebP, where black comes back as a little more than 0: above 127.

    Raises:
      UserError: not a whole picture, or one of over `MAX_PIXELS`.
    """
    image, format = _open(path)
    if image.mode.startswith("I") or image.mode == "F":
        return (np.asarray(image) > 0)[..., None].astype(np.uint8)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    least = 127 if format in _LOSSY else 0
    return (np.asarray(image.convert("RGB")).max(-1, keepdims=True) > least).astype(np.uint8)


def resize_picture(
    picture: UInt8[np.ndarray, "h w c"], size: int, resize: str, fit: str, border: Border = "edge"
) -> UInt8[np.ndarray, "s s c"]:
    """To size x size px.

    Args:
      picture: of any shape.
      size: px.
      resize: 'bilinear' interpolates between the four nearest pixels (half-pixel centres), as
        OpenCV does, and aliases when it shrinks; 'antialias' widens the kernel.
      fit: 'stretch' changes the proportions where the picture is no square; 'crop' shows its
        middle square; 'pad' shows all of it, in the middle of the square.
      border: what 'pad' adds, as in `np.pad`: 'edge' repeats the picture's border, 'constant' is 0.
    """
    picture = _cropped(picture, fit)
    height, width = _inner(picture.shape[:2], size, fit)
    if picture.shape[:2] != (height, width):
        smooth = (_antialiased if resize == "antialias" else _bilinear)(picture, height, width)
        picture = np.clip(np.round(smooth), 0, 255).astype(np.uint8)
    return _padded(picture, size, border)


def _bilinear(
    picture: UInt8[np.ndarray, "h w c"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width} c"]:
    """Between the four nearest pixels, in the arithmetic of `tf.image.resize`: the same bits."""
    top, bottom, down = _neighbours(height, picture.shape[0])
    left, right, along = _neighbours(width, picture.shape[1])
    along = along[:, None]

    def row(index: np.ndarray) -> np.ndarray:
        pixels = picture[index]
        near = np.take(pixels, left, axis=1).astype(np.float32)
        return near + (np.take(pixels, right, axis=1) - near) * along

    upper = row(top)
    return upper + (row(bottom) - upper) * down[:, None, None]


@functools.lru_cache(maxsize=256)
def _neighbours(new: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `new` pixels on an axis of `old`: the pixel before its centre and the one after,
    int[new], and the share f32[new] of the way between them. The border repeats.
    """
    centre = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * (
        np.float32(old) / np.float32(new)
    )
    position = centre - np.float32(0.5)
    before = np.floor(position)
    first = np.maximum(before, 0).astype(np.intp)
    return first, np.minimum(before.astype(np.intp) + 1, old - 1), position - before


def _antialiased(
    picture: UInt8[np.ndarray, "h w c"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width} c"]:
    """By a triangle that is as wide as the pixels it makes: nothing is skipped."""
    h, w, channels = picture.shape
    lines = _kernel(height, h) @ picture.reshape(h, -1).astype(np.float32)
    lines = lines.reshape(height, w, channels).transpose(1, 0, 2).reshape(w, -1)
    return (_kernel(width, w) @ lines).reshape(width, height, channels).transpose(1, 0, 2)


@functools.lru_cache(maxsize=256)
def _kernel(new: int, old: int) -> sparse.csr_array:
    """f32[new, old]: the weight of each old pixel in each new one. Rows add up to 1."""
    scale = old / new
    distance = np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * scale
    weights = np.maximum(1.0 - np.abs(distance) / max(scale, 1.0), 0.0)
    weights /= weights.sum(1, keepdims=True)
    return sparse.csr_array(weights.astype(np.float32))


def resize_nearest(
    mask: UInt8[np.ndarray, "h w 1"], size: int, fit: str
) -> UInt8[np.ndarray, "s s 1"]:
    """To size x size px: each new pixel takes the old one that its centre falls in; 0 where there
    is none. `fit` as in `resize_picture`.
    """
    mask = _cropped(mask, fit)
    inner = _inner(mask.shape[:2], size, fit)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(inner, mask.shape[:2], strict=True)
    )
    return _padded(mask[rows][:, columns], size, "constant")


def window(height: int, width: int, fit: str) -> tuple[int, int, int, int]:
    """The part of a picture that the square shows: top, left, height and width in its px.

    With 'pad' it reaches beyond the picture, up to a pixel of rounding.
    """
    if fit == "stretch":
        return 0, 0, height, width
    side = min(height, width) if fit == "crop" else max(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _cropped(picture: np.ndarray, fit: str) -> np.ndarray:
    """The middle square where `fit` is 'crop'."""
    if fit != "crop":
        return picture
    height, width = picture.shape[:2]
    top, left, height, width = window(height, width, fit)
    return picture[top : top + height, left : left + width]


def _inner(shape: tuple[int, int], size: int, fit: str) -> tuple[int, int]:
    """Height and width, in the square, of a picture of `shape`."""
    if fit != "pad":
        return size, size
    height, width = (max(1, round(side * size / max(shape))) for side in shape)
    return height, width


def _padded(picture: np.ndarray, size: int, border: Border) -> np.ndarray:
    """In the middle of a square."""
    missing = [size - side for side in picture.shape[:2]]
    if not any(missing):
        return picture
    return np.pad(picture, [*((m // 2, m - m // 2) for m in missing), (0, 0)], mode=border)
