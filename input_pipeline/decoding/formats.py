"""The formats that are read: how their files are called, begin, and are read whole."""

import dataclasses
import pathlib
import stat

import numpy as np

from configs.errors import UserError

EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".bmp", ".tif", ".tiff", ".webp"),
)
# A larger picture is refused by what its header claims, before anything is allocated for it.
MAX_PIXELS = 2**28  # 16,384 x 16,384: 0.8 GB decoded
MAX_BYTES = 8 * MAX_PIXELS  # of a file: RGBA of 16 bits, not compressed
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # of 64 bits
    b"MM\0+": "TIFF",
    b"RIFF": "WEBP",
}
_ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif"}


@dataclasses.dataclass(frozen=True)
class Samples:
    """A decoded picture as its file holds it: upright, black 0, transparency dropped."""

    levels: np.ndarray  # [h, w, 1 or 3], of any number type
    white: int | None  # level of white; None: the file does not say
    kind: str  # what the samples are, for a person: '32-bit floating-point'
    lossy: bool  # black may have come back as a little more than 0


def whole(path: pathlib.Path) -> bytes:
    """The bytes of a file.

    Raises:
      UserError: no ordinary file (a pipe would be waited for without end), or none of a picture.
      OSError: it cannot be read.
    """
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        raise UserError("it is a pipe, a socket or a device, no file")
    if facts.st_size > MAX_BYTES:
        raise UserError(f"it has {facts.st_size:,} bytes; the limit is {MAX_BYTES:,}")
    with open(path, "rb") as file:
        start = file.read(12)
        known(start)
        return start + file.read()


def known(data: bytes) -> str:
    """The format of a file: a name of `_BEGINNINGS`, by what it begins with.

    Raises:
      UserError: another format.
    """
    format = next((f for first, f in _BEGINNINGS.items() if data.startswith(first)), "")
    if not format or (format == "WEBP" and data[8:12] != b"WEBP"):
        raise UserError("it is no PNG, JPEG, BMP, TIFF or WebP file" if data else "it is empty")
    return format


def extension(data: bytes) -> str:
    """What the name of a file with these bytes should end with, '.png'; '' for no picture."""
    format = next((f for first, f in _BEGINNINGS.items() if data.startswith(first)), "")
    return _ENDINGS.get(format, f".{format.lower()}" if format else "")


def check_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """UserError where a header claims more than `most` pixels."""
    if width * height > most:
        raise UserError(
            f"it claims {width}x{height} px, {width * height:,} in all; the limit is {most:,}"
        )
