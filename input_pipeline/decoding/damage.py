"""Damage that decoders pass over: checksums, missing ends, and holes of zero bytes.

A copy that went wrong, a full disk or a failing one leave blocks of zeros where data was.
"""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from configs.errors import UserError

_PAGE = 4096  # bytes: what file systems and networks lose at a time
_SECTOR = 512  # bytes: what disks lose at a time
# Zero bytes in a row of a JPEG's scan that are damage. 484 photographs of textures, all of their
# scans, hold no more than 5. Flat pictures, whose runs are legitimate, are told by their tables.
_ZERO_RUN = 64
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # ends a scan: no stuffing, no restart
_SLACK = 2  # bytes beside a hole that may be zero by chance


def check_jpeg(data: bytes) -> None:
    """Raise UserError where a JPEG ends early or a scan of it has a hole.

    Zero bits are the shortest Huffman code. Where that stands for 'as the block before' and 'no
    detail', a flat region is a long run of them, and only a run that fills whole sectors of the
    file is a hole; everywhere else it is noise that no picture holds for long.
    """
    for start, stop, flat in _scans(data):
        if flat:
            hole = _hole(data, start, stop, _SECTOR)
        else:
            hole = data.find(bytes(_ZERO_RUN), start, stop)
        if hole >= 0:
            raise UserError(f"it is damaged: from byte {hole:,} on its data is zeros")


def _scans(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """(first byte, byte after, whether zero bits mean 'flat') of the scans of the first picture."""
    first_symbols: dict[int, int] = {}  # of each Huffman table, by its class and number
    place = 2
    while True:
        while data[place : place + 2] == b"\xff\xff":  # padding
            place += 1
        marker = data[place + 1 : place + 2]
        if data[place : place + 1] != b"\xff" or (len(data) < place + 4 and marker != b"\xd9"):
            raise UserError("it is damaged or cut: its end marker is missing")
        if marker == b"\xd9":
            return
        (length,) = struct.unpack_from(">H", data, place + 2)
        body = data[place + 4 : place + 2 + length]
        place += 2 + length
        if marker == b"\xc4":
            first_symbols |= _tables(body)
        elif marker == b"\xda":
            end = _MARKER.search(data, place)
            if end is None:
                raise UserError("it is cut: its end marker is missing")
            yield place, end.start(), _flat(body, first_symbols)
            place = end.start()


def _tables(body: bytes) -> dict[int, int]:
    """The symbol that zero bits stand for in each Huffman table of a segment."""
    found = {}
    while len(body) > 17:
        found[body[0]] = body[17]
        body = body[17 + sum(body[1:17]) :]
    return found


def _flat(header: bytes, first_symbols: dict[int, int]) -> bool:
    """Whether zero bits of a scan stand for blocks like the one before, without detail."""
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return False
    low, _, bits = header[1 + 2 * count : 4 + 2 * count]
    high = header[2 + 2 * count]
    if low == 0 and bits >> 4:  # the last bit of every block's mean, without any table
        return True
    tables = header[2 : 2 + 2 * count : 2]
    means = low > 0 or all(first_symbols.get(t >> 4) == 0 for t in tables)
    ends = range(0x00, 0xF0, 0x10)  # the end of one block, or of 2, 4, 8, ... of them
    details = high == 0 or all(first_symbols.get(0x10 | t & 15) in ends for t in tables)
    return means and details


def check_png(data: bytes, most: int) -> None:
    """Raise UserError where a PNG is cut, a checksum is wrong, or it is an animation.

    Args:
      data: the file.
      most: bytes that its pixels can take; what follows them is not looked at.
    """
    stream, place, produced = zlib.decompressobj(), 8, 0
    while True:
        if place + 12 > len(data):
            raise UserError("it is cut: its end is missing")
        (length,) = struct.unpack_from(">I", data, place)
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        after = data[place + 8 + length : place + 12 + length]
        if len(body) < length or after != struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))):
            raise UserError(f"it is damaged or cut: a checksum at byte {place:,} is wrong")
        if kind == b"acTL" and body[:4] > b"\0\0\0\1":
            frames(struct.unpack_from(">I", body)[0])
        if kind == b"IDAT":
            try:
                while body and not stream.eof and produced <= most:
                    produced += len(stream.decompress(body, 2**20))
                    body = stream.unconsumed_tail
            except zlib.error as error:
                raise UserError(f"it is damaged: {error}") from error
        if kind == b"IEND":
            break
        place += 12 + length
    if not stream.eof and produced <= most:
        raise UserError("it is damaged or cut: the end of its pixels is missing")


def frames(count: int) -> None:
    """Raise UserError for a file of several pictures: which of them is meant is not guessed."""
    if count != 1:
        raise UserError(f"it holds {count} pictures: save the one that is meant as its own file")


def check_webp(data: bytes) -> bool:
    """Whether a WebP is lossy. UserError where it is cut, or an animation."""
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise UserError("it is cut: its end is missing")
    kinds, place = [], 12
    while place + 8 <= len(data):
        kinds.append(data[place : place + 4])
        length = struct.unpack_from("<I", data, place + 4)[0]
        if kinds[-1] in (b"VP8 ", b"VP8L"):
            hole = _hole(data, place, place + 8 + length, _SECTOR)
            if hole >= 0:
                raise UserError(f"it is damaged: from byte {hole:,} on its data is zeros")
        place += 8 + length + length % 2
    if b"ANMF" in kinds:
        frames(max(2, kinds.count(b"ANMF")))
    return b"VP8 " in kinds


def check_rows(data: bytes, start: int, stop: int, stride: int) -> None:
    """Raise UserError where pixels that are not compressed have a hole.

    Black is legitimate. A hole fills whole pages of the file; black regions begin and end where
    the picture has them, at such a place once in about a million, or they are whole rows.

    Args:
      data: the file.
      start: first byte of the pixels.
      stop: the byte after them.
      stride: bytes from one row to the next.
    """
    hole = _hole(data, start, stop, _PAGE)
    if hole >= 0 and (hole - start) % stride:
        raise UserError(
            f"it is damaged: from byte {hole:,} on whole {_PAGE}-byte blocks are zeros; if that is "
            f"truly black, save it as PNG"
        )


def _hole(data: bytes, start: int, stop: int, block: int) -> int:
    """First byte of a run of zeros that fills whole blocks of the file, and no more; -1: none.

    It may reach the end of the data.
    """
    first, last = -(-start // block), stop // block
    if last <= first:
        return -1
    blocks = np.frombuffer(data, np.uint8, (last - first) * block, first * block)
    empty = np.concatenate([[False], ~blocks.reshape(-1, block).any(1), [False]])
    edges = (np.flatnonzero(np.diff(empty.astype(np.int8))) + first) * block
    for begin, end in edges.reshape(-1, 2).tolist():
        before = any(data[max(start, begin - _SLACK) : begin])
        after = any(data[end : min(stop, end + _SLACK)])
        to_the_end = stop - end < block and not any(data[end:stop])
        if before and (after or to_the_end):
            return begin
    return -1
