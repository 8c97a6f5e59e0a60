"""TIFF files byte by byte, so that no library decides what their tags say."""

import struct

SHORT, LONG = 3, 4


def page(samples: bytes, width: int, height: int, bits, photometric: int, **tags) -> dict:
    """The tags of a page of one strip, by number; `tags` are called t262 and so on."""
    bits = bits if isinstance(bits, tuple) else (bits,)
    known = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 277: len(bits)}
    known |= {278: height, 273: samples, 279: len(samples)}
    return known | {int(name[1:]): value for name, value in tags.items()}


def tiff(*pages: dict, order: str = "<") -> bytes:
    """A file of pages. A tag's value is a number, a tuple of shorts, or of 273 the pixels."""
    out = bytearray(b"II*\0\0\0\0\0" if order == "<" else b"MM\0*\0\0\0\0")
    link = 4
    for tags in pages:
        entries = []
        for tag, value in sorted(tags.items()):
            if isinstance(value, bytes):
                values = [value] if tag == 273 else []
                assert values, tag
                places = [len(out)]
                out += value + b"\0" * (len(value) % 2)
                entries.append((tag, LONG, 1, struct.pack(order + "I", places[0])))
            elif isinstance(value, list):  # strips: their pixels, one after the other
                places = []
                for strip in value:
                    places.append(len(out))
                    out += strip + b"\0" * (len(strip) % 2)
                entries.append((tag, LONG, len(places), _longs(out, order, places)))
            else:
                values = value if isinstance(value, tuple) else (value,)
                kind, form = (LONG, "I") if max(values) > 65535 else (SHORT, "H")
                packed = struct.pack(f"{order}{len(values)}{form}", *values)
                if len(packed) > 4:
                    at = len(out)
                    out += packed + b"\0" * (len(packed) % 2)
                    packed = struct.pack(order + "I", at)
                entries.append((tag, kind, len(values), packed.ljust(4, b"\0")))
        struct.pack_into(order + "I", out, link, len(out))
        out += struct.pack(order + "H", len(entries))
        for tag, kind, count, packed in entries:
            out += struct.pack(order + "HHI", tag, kind, count) + packed
        link = len(out)
        out += b"\0\0\0\0"
    return bytes(out)


def _longs(out: bytearray, order: str, values: list[int]) -> bytes:
    if len(values) == 1:
        return struct.pack(order + "I", values[0])
    at = len(out)
    out += struct.pack(f"{order}{len(values)}I", *values)
    return struct.pack(order + "I", at)
