"""The pictures of a split, in memory or read by index from disk; files that are written whole."""

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from configs.errors import UserError
from input_pipeline.folders.scan import digest


def chunks(count: int, size: int = 64) -> Iterator[Int[np.ndarray, "rows"]]:
    """The row numbers 0..count - 1 in order, `size` at a time, which bounds the memory used."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[epath.Path]:
    """Write a file or a folder so that it is there whole or not at all.

    Yields another path in the same folder (made where it is missing), which no other process or
    thread uses and which ends as `path` does. What was written there is renamed to `path` when
    the block ends, and removed when it raises. A file takes the place of an old one; a folder
    does not.

    Args:
      path: local, or on an object store such as gs://.

    Raises:
      OSError: it cannot be written or renamed; what was at `path` stays.
    """
    path = epath.Path(path)
    partial = path.parent / f".{path.stem[:40]}-{uuid.uuid4().hex[:12]}.partial{path.suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            if partial.is_dir():
                partial.rmtree()
            else:
                partial.unlink(missing_ok=True)
        raise


def files_of(path: epath.Path, above: str = "") -> Iterator[str]:
    """Paths of all files below a folder, relative to it."""
    for child in path.iterdir():
        if child.is_dir():
            yield from files_of(child, f"{above}{child.name}/")
        else:
            yield f"{above}{child.name}"


class Stored:
    """One plane of a prepared split, read from its ArrayRecord shards at each use.

    Takes the place of a u8[n, s, s, c] that would not fit into memory: `len`, `shape`, `dtype` and
    picking by an array of indices work alike and give the same values. Any number of threads may
    read at once; nothing is kept between two reads.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        source: Sequence,
        plane: str,
        shape: tuple[int, int, int],
        rows: Int[np.ndarray, "n"],
    ):
        """Pictures `rows` of `source`, whose elements are dicts with a u8[shape] at `plane`."""
        self._source, self._plane, self._rows = source, plane, rows
        self.shape = (len(rows), *shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(
        self, index: Int[np.ndarray, "..."] | Bool[np.ndarray, "n"] | slice | int | np.integer
    ) -> UInt8[np.ndarray, "... s s c"]:
        """The pictures at these places, in this order, read now."""
        rows = self._rows[index]
        planes = np.empty((rows.size, *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.flat):
            planes[place] = self._source[int(row)][self._plane]
        return planes.reshape(*rows.shape, *self.shape[1:])


_ROWS = ("images", "has_mask", "labels", "has_foreground")  # a row of each array is a picture
_PLANES = ("masks", "foregrounds")
_LISTS = ("defects", "names", "stamps")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of one split, sorted by name. s is the picture size in px."""

    images: UInt8[np.ndarray, "n s s 3"] | Stored
    masks: UInt8[np.ndarray, "n s s 1"] | None  # 1 where defective; None in a training split
    has_mask: Bool[np.ndarray, "n"]  # masks[i] is the truth (all-zero for a good test picture)
    labels: Int32[np.ndarray, "n"]  # 0 good, 1 defective
    defects: list[str]
    names: list[str]  # paths relative to the category's folder
    # 12 hexadecimal digits for each picture, which change with the content of its file, its mask's
    # or its foreground's.
    stamps: list[str]
    # 255 where anomalies may lie, soft between; None: no file for any picture, or a test split
    foregrounds: UInt8[np.ndarray, "n s s 1"] | Stored | None
    has_foreground: Bool[np.ndarray, "n"]  # foregrounds[i] was read from a file
    parts_stamp: str = ""  # of the files of `Category.parts`, in its training pictures

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits for all of it: equal where names, stamps and defects are equal.

        The folder's path has no part in it.
        """
        pictures = list(zip(self.names, self.stamps, self.defects, strict=True))
        return digest([pictures, self.parts_stamp])

    @property
    def unmarked(self) -> Bool[np.ndarray, " n"]:
        """Which are defective and have no mask: nobody knows where."""
        return (self.labels == 1) & ~self.has_mask

    def picked(self, rows: Sequence[int]) -> "Pictures":
        """Some of them."""
        index = np.array(rows, np.int64)
        changes: dict[str, Any] = {}
        for name in (*_ROWS, *_PLANES):
            plane = getattr(self, name)
            changes[name] = None if plane is None else plane[index]
        for name in _LISTS:
            changes[name] = [getattr(self, name)[row] for row in rows]
        return dataclasses.replace(self, **changes)

    def and_then(self, others: "Pictures") -> "Pictures":
        """These pictures, then the others, in memory.

        Raises:
          UserError: one of the two is too large for memory.
        """
        if not len(others.names):
            return self
        both = (self, others)
        if any(isinstance(one.images, Stored) for one in both):
            count = len(self.names) + len(others.names)
            raise UserError(
                f"the {count} pictures with corrections do not fit into data.memory_gib: raise it"
            )
        changes: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in both]) for n in _ROWS}
        changes |= {n: getattr(self, n) + getattr(others, n) for n in _LISTS}
        for name in _PLANES:
            planes = [getattr(one, name) for one in both]
            if any(plane is not None for plane in planes):
                empty = [np.zeros((*one.images.shape[:3], 1), np.uint8) for one in both]
                filled = [e if p is None else p for e, p in zip(empty, planes, strict=True)]
                changes[name] = np.concatenate(filled)
        return dataclasses.replace(self, **changes)


def mean_and_spread(
    images: UInt8[np.ndarray, "n h w c"] | Stored,
) -> tuple[Float32[np.ndarray, "h w c"], np.float32]:
    """The mean picture, and the standard deviation of all values about it; both in [0, 1].

    Never below one grey level, so that pictures that are all alike can be told from others.
    """
    shape = images.shape[1:]
    total, squares = np.zeros(shape, np.int64), 0
    for rows in chunks(len(images)):
        some = np.asarray(images[rows]).astype(np.int64)
        total += some.sum(0)
        squares += int(np.square(some).sum())
    mean = total / len(images)
    variance = squares / (len(images) * mean.size) - np.square(mean).mean()
    spread = max(np.sqrt(max(variance, 0.0)), 1.0) / 255
    return (mean / 255).astype(np.float32), np.float32(spread)


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is on an object store, such as gs://, which checks contents by itself."""
    return "://" in os.fspath(path)
