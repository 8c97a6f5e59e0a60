"""Pictures that stay on disk and are read by index, in the place of an array in memory."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8


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
