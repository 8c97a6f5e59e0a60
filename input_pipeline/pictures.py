"""Picture files decoded to 8-bit arrays and brought to a square."""

import pathlib

import numpy as np
import tensorflow as tf
from jaxtyping import UInt8
from PIL import Image, ImageOps

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# A larger picture is refused by what its header claims, before anything is allocated for it.
MAX_PIXELS = 2**28  # 16,384 x 16,384: 0.8 GB decoded
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit, with a message that does not name the size
_LOSSY = ("JPEG", "WEBP")  # formats that smear a mask's black


def _open(path: pathlib.Path) -> Image.Image:
    """A picture fully decoded and turned upright by its EXIF orientation."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"it claims {width}x{height} px, {width * height:,} in all; the limit is "
                    f"{MAX_PIXELS:,}"
                )
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        reason = getattr(error, "strerror", None) or str(error).replace(f" {str(path)!r}", "")
        reason = " ".join(reason.split())
        raise ValueError(f"{path} cannot be read as a picture: {reason}") from error


def decode_rgb(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as 8-bit RGB. 16-bit greys are divided by 257; transparency is dropped.

    Raises:
      ValueError: not a whole picture, one of floating-point pixels, or of over `MAX_PIXELS`.
    """
    image = _open(path)
    if image.mode == "F":
        raise ValueError(f"{path} holds floating-point pixels: save it as 8 or 16 bit")
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
      ValueError: not a whole picture, or one of over `MAX_PIXELS`.
    """
    image = _open(path)
    if image.mode.startswith("I") or image.mode == "F":
        return (np.asarray(image) > 0)[..., None].astype(np.uint8)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    least = 127 if _format(path) in _LOSSY else 0
    return (np.asarray(image.convert("RGB")).max(-1, keepdims=True) > least).astype(np.uint8)


def _format(path: pathlib.Path) -> str:
    """JPEG, PNG and so on: by the file's content, not by its name."""
    with Image.open(path) as image:
        return image.format or ""


def resize_picture(
    picture: UInt8[np.ndarray, "h w c"], size: int, resize: str, fit: str, border: str = "edge"
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
        smooth = tf.image.resize(
            picture, (height, width), "bilinear", antialias=resize == "antialias"
        )
        picture = np.clip(np.round(smooth.numpy()), 0, 255).astype(np.uint8)
    return _padded(picture, size, border)


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
    top, left, height, width = window(*picture.shape[:2], fit)
    return picture[top : top + height, left : left + width]


def _inner(shape: tuple[int, int], size: int, fit: str) -> tuple[int, int]:
    """Height and width, in the square, of a picture of `shape`."""
    if fit != "pad":
        return size, size
    return tuple(max(1, round(side * size / max(shape))) for side in shape)


def _padded(picture: np.ndarray, size: int, border: str) -> np.ndarray:
    """In the middle of a square."""
    missing = [size - side for side in picture.shape[:2]]
    if not any(missing):
        return picture
    return np.pad(picture, [*((m // 2, m - m // 2) for m in missing), (0, 0)], mode=border)
