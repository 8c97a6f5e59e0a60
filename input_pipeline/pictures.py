"""Picture files decoded to 8-bit arrays and resized to a square."""

import pathlib

import numpy as np
import tensorflow as tf
from jaxtyping import UInt8
from PIL import Image, ImageOps

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def _open(path: pathlib.Path) -> Image.Image:
    """A picture fully decoded and turned upright by its EXIF orientation."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as a picture: {reason}") from error


def decode_rgb(path: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as 8-bit RGB. 16-bit greys are divided by 257; transparency is dropped.

    Raises:
      ValueError: not a whole picture, or one of floating-point pixels.
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

    Raises:
      ValueError: not a whole picture.
    """
    image = _open(path)
    if image.mode.startswith("I") or image.mode == "F":
        return (np.asarray(image) > 0)[..., None].astype(np.uint8)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return (np.asarray(image.convert("RGB")).max(-1, keepdims=True) > 0).astype(np.uint8)


def resize_picture(
    picture: UInt8[np.ndarray, "h w c"], size: int, resize: str
) -> UInt8[np.ndarray, "s s c"]:
    """To size x size px. 'bilinear' interpolates between the four nearest pixels (half-pixel
    centres), as OpenCV does, and aliases when it shrinks; 'antialias' widens the kernel.
    """
    if picture.shape[:2] == (size, size):
        return picture
    resized = tf.image.resize(picture, (size, size), "bilinear", antialias=resize == "antialias")
    return np.clip(np.round(resized.numpy()), 0, 255).astype(np.uint8)


def resize_nearest(mask: UInt8[np.ndarray, "h w 1"], size: int) -> UInt8[np.ndarray, "s s 1"]:
    """To size x size px: each new pixel takes the old one that its centre falls in."""
    rows, columns = (
        ((np.arange(size) + 0.5) * old / size).astype(np.int64) for old in mask.shape[:2]
    )
    return mask[rows][:, columns]
