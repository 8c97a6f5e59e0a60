"""8-bit arrays brought to a square: NumPy and SciPy only."""

import functools
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import sparse

Border: TypeAlias = Literal["edge", "constant"]


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
