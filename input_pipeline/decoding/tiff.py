"""TIFF files, read by their tags. tifffile is imported when the first one is read."""

import io
import logging
from typing import Any

import numpy as np

from configs.errors import UserError
from input_pipeline.decoding import damage
from input_pipeline.decoding.formats import MAX_PIXELS, Samples, check_size

_JPEG = 7
# Compression: none, CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard.
_READ = {1, 2, 3, 4, 5, _JPEG, 8, 32773, 32946, 34925, 50000}
_WHITE_0, _BLACK_0, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6  # photometric
_COLOUR_MAP, _JPEG_TABLES, _INK_SET, _SAMPLE_FORMAT = 320, 347, 332, 339  # tags
_OLD_SUBFILE, _BITS, _ORIENTATION = 255, 258, 274
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


def read(data: bytes, most: int = MAX_PIXELS) -> tuple[Samples, int]:
    """The one full picture of a TIFF, and its orientation as in EXIF: not yet turned.

    Raises:
      UserError: one of over `most` pixels, none or several full pictures, a kind of sample or
        colour that is not read, damage.
    """
    import tifffile  # a tenth of a second, for those who have no TIFFs

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # we speak for ourselves
    with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
        page = _full_page(file)
        check_size(page.imagewidth, page.imagelength, most)
        bits, form = _sample_kind(page)
        _check_segments(page, data)
        shape = page.shaped  # planes, depth, rows, columns, channels
        if shape[1] != 1:
            raise UserError(f"it holds {shape[1]} layers: save one as its own file")
        levels = page.asarray().reshape(shape)[:, 0]
        levels = np.concatenate(list(levels), axis=-1)
        return _samples(page, levels, bits, form), page.tags.valueof(_ORIENTATION, 1)


def _full_page(file: Any) -> Any:
    """The page that is neither a thumbnail nor a mask of transparency."""
    pages = [page for top in file.pages for page in (top, *(top.pages or ()))]
    full = [
        page
        for page in pages
        if not (page.is_reduced or page.is_mask or page.tags.valueof(_OLD_SUBFILE) == 2)
    ]
    if not full:
        raise UserError("it holds only thumbnails")
    count = len(full)
    if file.is_imagej and count == 1:  # stacks may have one page that stands for all
        count = int((file.imagej_metadata or {}).get("images", 1))
    damage.frames(count)
    return full[0]


def _check_segments(page: Any, data: bytes) -> None:
    """Whether all strips or tiles are there, whole, and of a compression that is read."""
    if page.compression not in _READ:
        raise UserError(f"its compression ({_name(page.compression)}) is not read: save it as PNG")
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(places) < int(np.prod(page.chunked)) or any(
        not count or not start or start + count > len(data) for start, count in places
    ):
        raise UserError("it is damaged or cut: a part of its pixels is missing")
    if page.compression == 1:
        columns, rows = page.imagewidth, page.imagelength
        together = page.planarconfig == 1  # the channels of a pixel, not each in its plane
        channels, planes = page.samplesperpixel if together else 1, page.samplesperpixel
        if page.is_tiled:
            columns, rows, planes = page.tilewidth, page.tilelength, len(places)
        elif together:
            planes = 1
        stride = -(-columns * page.bitspersample * channels // 8)
        if sum(count for _, count in places) < stride * rows * planes:
            raise UserError("it is damaged or cut: a part of its pixels is missing")
        begin = min(start for start, _ in places)
        damage.check_rows(data, begin, max(start + count for start, count in places), stride)
    if page.compression == _JPEG:
        tables = page.tags.valueof(_JPEG_TABLES) or b"\xff\xd8\xff\xd9"
        for start, count in places:
            damage.check_jpeg(tables[:-2] + data[start + 2 : start + count])


def _sample_kind(page: Any) -> tuple[int, int]:
    """Bits of a sample, and whether it is unsigned, signed or a float."""
    forms = page.tags.valueof(_SAMPLE_FORMAT, _UNSIGNED)
    forms = set(forms) if isinstance(forms, tuple) else {forms}
    widths = page.tags.valueof(_BITS, 1)
    widths = set(widths) if isinstance(widths, tuple) else {widths}
    form = forms.pop() if len(forms) == 1 else 0
    if len(widths) != 1 or form not in (_UNSIGNED, _SIGNED, _FLOAT):
        raise UserError("its channels are of several or unknown kinds: save it as 8 or 16 bit")
    return int(widths.pop()), int(form)


def _samples(page: Any, levels: np.ndarray, bits: int, form: int) -> Samples:
    """The colours of decoded levels [h, w, channels]."""
    white = 2**bits - 1 if form == _UNSIGNED and bits <= 16 else None
    kind = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "floating-point"}[form]
    kind, lossy = f"{bits}-bit {kind}", page.compression == _JPEG
    colours, channels = page.photometric, levels.shape[-1]
    if levels.dtype == bool:
        levels = levels.astype(np.uint8)
    extra = tuple(page.extrasamples or ())
    known = {_WHITE_0: 1, _BLACK_0: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4}
    if lossy:
        known[_YCBCR] = 3  # decoded to RGB
        del known[_CMYK]  # whether its inks are inverted is not said
    if colours not in known or channels < known[colours]:
        raise UserError(f"its colours ({_name(colours)}) are not read: save it as RGB")
    if colours in (_WHITE_0, _BLACK_0) and channels > 1 and not set(map(int, extra)) & {1, 2}:
        raise UserError(f"it holds {channels} channels that are no colours: save it as RGB")
    if 1 in map(int, extra) and white is not None and levels[..., known[colours]].min() < white:
        raise UserError("its colours are multiplied by its transparency: save it without")
    levels = levels[..., : known[colours]]
    if colours == _BLACK_0 or colours in (_RGB, _YCBCR):
        return Samples(levels, white, kind, lossy)
    if white is None:
        raise UserError(f"its {kind} samples with colours {_name(colours)} are not read")
    if colours == _WHITE_0:
        return Samples(np.asarray(white - levels, levels.dtype), white, kind, lossy)
    if colours == _PALETTE:
        table = np.asarray(page.tags.valueof(_COLOUR_MAP), np.uint16).reshape(3, -1)
        # Some writers keep 8 bits where the format has 16.
        return Samples(table.T[levels[..., 0]], 255 if table.max() < 256 else 65535, kind, lossy)
    if page.tags.valueof(_INK_SET, 1) != 1:
        raise UserError("its inks are other than CMYK: save it as RGB")
    left = white - levels.astype(np.int64)  # the light that each ink lets through
    rgb = np.round(left[..., :3] * left[..., 3:] / white).astype(levels.dtype)
    return Samples(rgb, white, kind, lossy)


def _name(value: Any) -> str:
    return getattr(value, "name", str(value))
