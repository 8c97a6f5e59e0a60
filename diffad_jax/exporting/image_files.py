"""Pictures for an exported model: files decoded, squares made, and what was found put back.

Needs NumPy and Pillow. To the grey level it is what training and `diffad --mode predict` do; files
that would need more than Pillow are refused, not read in another way.
"""

import io
import os
import pathlib
import sys
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

MAX_PIXELS = 2**28
_OPENERS: dict[bytes, Any] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
} | dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile)
# The values of a TIFF's tags that are read here, the one that a missing tag means first.
_TIFF = {254: (0, 2), 255: (1,), 258: (1, 2, 4, 8, 16), 262: (None, 0, 1, 2, 3, 6), 266: (1,)}
_TIFF |= {259: (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000), 284: (1,), 317: (1, 2)}
_TIFF |= {330: (None,), 338: (2,), 339: (1,), 32997: (1,)}


class Refused(Exception):
    """What the user can mend, in one line."""


def read_picture(picture: Any) -> np.ndarray:
    """u8[h,w,3] of a file (its path, or what is in it: bytes), upright and without transparency,
    or of an array. Raises Refused.
    """
    array = picture
    if isinstance(picture, (bytes, str, os.PathLike)):
        try:
            data = picture if isinstance(picture, bytes) else _whole(pathlib.Path(picture))
            levels, white = _decoded(data)
        except Exception as error:  # decoders raise many kinds for a damaged file
            told = getattr(error, "strerror", None) or " ".join(str(error).split())
            told = told or type(error).__name__
            name = "this" if isinstance(picture, bytes) else os.fspath(picture)
            raise Refused(f"{name} cannot be read as a picture: {told}") from error
        array = levels if white == 255 else np.round(levels * np.float32(255 / white))
        array = array.astype(np.uint8)
    array = np.asarray(array)
    levels = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or levels.shape[2:] not in ((1,), (3,)) or not array.size:
        told = f"{array.dtype} {array.shape}"
        raise Refused(f"a picture must be uint8 (h, w, 3) or (h, w), got {told}")
    return np.repeat(levels, 3 // levels.shape[2], axis=2)


def _whole(path: pathlib.Path) -> bytes:
    """What is in a file."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise Refused("it is a pipe, a socket or a device, no file")
    return path.read_bytes()


def _decoded(data: bytes) -> tuple[np.ndarray, int]:
    """Levels [h,w] or [h,w,3] of a file, and that of white."""
    opener = next((one for start, one in _OPENERS.items() if data.startswith(start)), None)
    if opener is None:
        raise Refused("it is no PNG, JPEG, BMP, TIFF or WebP file" if data else "it is empty")

    def opened() -> Any:
        image = opener(io.BytesIO(data))
        if image.format == "TIFF":
            image.info.pop("xmp", None)  # its own tag says how it is turned
        return image

    image = opened()
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Refused(f"it claims {width}x{height} px; the limit is {MAX_PIXELS:,} in all")
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise Refused(f"it holds {pages} pictures: save the one that is meant as its own file")
    format, tags = image.format, getattr(image, "tag_v2", {})
    if format == "TIFF":
        _check_tiff(image, tags)
    elif format == "PNG":
        opened().verify()
    elif format == "JPEG" and b"\xff\xd9" not in data[image.fp.tell() :]:
        raise Refused("it is cut: its end marker is missing")
    deep = tags.get(258, (0,))[0] == 16 or (format == "PNG" and data[24] == 16)
    image.load()
    turned = image.getexif().get(0x0112, 1)
    levels, white = None, 255
    if deep:
        levels, white = _deep(opened), 65535
    elif image.mode in ("P", "PA") and format == "TIFF":  # Pillow keeps 8 of the 16 bits
        table = np.reshape(np.asarray(tags[320], np.uint16), (3, -1)).T
        levels = table[np.atleast_3d(np.asarray(image))[..., 0]]
        white = 255 if table.max() < 256 else 65535
    else:  # palettes with transparency need the step through RGBA
        image = image.convert("RGBA") if image.mode in ("P", "PA") else image
        levels = np.asarray(image.convert("RGB"))
    levels = levels.swapaxes(0, 1) if turned in (5, 6, 7, 8) else levels
    levels = levels[::-1] if turned in (3, 4, 7, 8) else levels
    return levels[:, ::-1] if turned in (2, 3, 6, 7) else levels, white


def _check_tiff(image: Any, tags: Any) -> None:
    """Refuse what Pillow would read as something else."""
    for tag, allowed in _TIFF.items():
        value = tags.get(tag, allowed[0])
        if not set(value if isinstance(value, tuple) else (value,)) <= set(allowed):
            raise Refused(f"its TIFF tag {tag} is {value}, which is not read: save it as PNG")
    colours, packing, note = tags.get(262), tags.get(259, 1), str(tags.get(270))
    stack = note.startswith("ImageJ=") and "images=" in note
    shown = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in image.tile)
    places = [place for tag in (273, 279, 324, 325) for place in tags.get(tag, ())]
    odd = (colours == 6 and packing != 7) or (packing == 1 and tags.get(317, 1) != 1) or stack
    if odd or (colours == 0 and 16 in tags.get(258, ())):
        raise Refused("it is a kind of TIFF that is not read: save it as PNG")
    if 0 in places or shown < image.size[0] * image.size[1]:
        raise Refused("it is damaged or cut: a part of its pixels is missing")


def _deep(opened: Any) -> np.ndarray:
    """16-bit samples. Of colours Pillow keeps one byte: the high and the low are read in turn."""

    def levels(mode: str) -> np.ndarray:
        image = opened()
        image.tile = [
            tile._replace(args=(mode, *(tile.args[1:] if isinstance(tile.args, tuple) else ())))
            for tile in image.tile
        ]
        image.load()
        return np.asarray(image).astype(np.uint16)

    args = opened().tile[0].args
    mode = args[0] if isinstance(args, tuple) else args
    if mode.startswith("I;16"):
        return levels(mode)[..., None]
    big = mode[-1] == "B" or (mode[-1] == "N" and sys.byteorder == "big")
    high, low = (levels(mode[:-1] + order)[..., :3] for order in ("BL" if big else "LB"))
    return high << 8 | low


def resize_picture(picture: np.ndarray, size: int, resize: str, fit: str) -> np.ndarray:
    """u8[h,w,3] -> u8[s,s,3], as in training."""
    height, width, inner = *picture.shape[:2], (size, size)
    top, left, rows, columns = _window(height, width, fit)
    if fit == "crop":
        picture = picture[top : top + rows, left : left + columns]
    elif fit == "pad":
        inner = (max(1, round(height * size / rows)), max(1, round(width * size / rows)))
    if picture.shape[:2] != inner:
        along = _antialiased if resize == "antialias" else _bilinear
        picture = np.clip(np.round(along(picture, *inner)), 0, 255).astype(np.uint8)
    missing = [size - side for side in inner]
    return np.pad(picture, [*((m // 2, m - m // 2) for m in missing), (0, 0)], mode="edge")


def _bilinear(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Between the four nearest pixels; the order of the operations decides about the last bit."""
    half = np.float32(0.5)
    for new in (width, height):
        picture, old = picture.swapaxes(0, 1), picture.shape[1]
        step = np.float32(old) / np.float32(new)
        position = (np.arange(new, dtype=np.float32) + half) * step - half
        before = np.floor(position)
        near = picture[np.maximum(before, 0).astype(np.intp)].astype(np.float32)
        far = picture[np.minimum(before.astype(np.intp) + 1, old - 1)]
        picture = near + (far - near) * (position - before)[:, None, None]
    return picture


def _antialiased(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """By a triangle as wide as the pixels it makes."""
    for new in (height, width):
        old, each = len(picture), np.arange(new)
        distance = np.arange(old) + 0.5 - (each[:, None] + 0.5) * (old / new)
        weights = np.maximum(1.0 - np.abs(distance) / max(old / new, 1.0), 0.0)
        weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        first, most = (weights > 0).argmax(1), int((weights > 0).sum(1).max())
        weights = np.pad(weights, ((0, 0), (0, most)))
        lines, picture = picture, np.zeros((new, *picture.shape[1:]), np.float32)
        for place in (first + tap for tap in range(most)):  # added up in this order
            picture += weights[each, place, None, None] * lines[np.minimum(place, old - 1)]
        picture = picture.swapaxes(0, 1)
    return picture


def put_back(values: np.ndarray, picture: np.ndarray, fit: str) -> np.ndarray:
    """What the model says of its square [s,s,*c], where that lies in a picture [h,w,*c]."""
    (height, width), size, result = picture.shape[:2], values.shape[0], picture.copy()
    if picture.shape == values.shape:
        return values
    top, left, rows, columns = _window(height, width, fit)
    y0, y1, x0, x1 = max(0, top), min(height, top + rows), max(0, left), min(width, left + columns)
    shown = (x0 - left) / columns, (y0 - top) / rows, (x1 - left) / columns, (y1 - top) / rows
    box = (size * shown[0], size * shown[1], size * shown[2], size * shown[3])
    image = Image.fromarray(np.ascontiguousarray(values))
    image = image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box)
    # Rounding must not make a value larger than all it comes from.
    result[y0:y1, x0:x1] = np.clip(np.asarray(image), values.min(), values.max())
    return result


def _window(height: int, width: int, fit: str) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of a picture that the square shows."""
    if fit == "stretch":
        return 0, 0, height, width
    side = min(height, width) if fit == "crop" else max(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
