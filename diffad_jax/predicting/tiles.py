"""Pictures larger than the model: overlapping tiles, and one seamless map from theirs.

Tiles are blended by a weighted mean whose weights fall smoothly to almost 0 at a tile's edges, so
no edge of a tile shows. The weights of all tiles over a pixel, divided by their sum, sum to one.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Int64, Shaped


def starts(length: int, tile: int, overlap: float) -> Int64[np.ndarray, " k"]:
    """Where tiles of `tile` px begin that cover `length` px: as few as can be, evenly spaced.

    Neighbours share at least `overlap` (in [0, 1)) of a tile. One tile, at 0, where length <= tile.
    """
    step = max(1, int(tile * (1 - overlap)))
    count = 1 + max(0, -(-(length - tile) // step))
    return np.round(np.linspace(0, max(0, length - tile), count)).astype(np.int64)


def window(tile: int) -> Float32[np.ndarray, "tile tile"]:
    """A tile's weights: sin^2(pi (i + 1/2) / tile) down times the same across; above 0."""
    edge = np.sin(np.pi * (np.arange(tile) + 0.5) / tile) ** 2
    return (edge[:, None] * edge).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Grid:
    """The tiles of one picture of height x width px, `tile` px square, row by row.

    A picture narrower than a tile is continued by its mirror image.
    """

    height: int
    width: int
    tile: int
    corners: tuple[tuple[int, int], ...]  # upper, left

    def cut(self, picture: Shaped[np.ndarray, "h w c"], number: int) -> Shaped[np.ndarray, "t t c"]:
        """Tile `number` of the picture."""
        y, x = self.corners[number]
        part = picture[y : y + self.tile, x : x + self.tile]
        missing = ((0, self.tile - part.shape[0]), (0, self.tile - part.shape[1]), (0, 0))
        return np.pad(part, missing, mode="symmetric")


def grid(height: int, width: int, tile: int, overlap: float) -> Grid:
    """The tiles that cover a picture; see `starts`."""
    rows, columns = starts(height, tile, overlap), starts(width, tile, overlap)
    corners = tuple((int(y), int(x)) for y in rows for x in columns)
    return Grid(height, width, tile, corners)


class Canvas:
    """What the tiles added so far make of the whole picture.

    The mean is kept up to date tile by tile, mean += w / (sum of w so far) * (value - mean): where
    all tiles over a pixel agree the result is their value to the last bit, and no tile is kept.
    """

    def __init__(self, grid: Grid, channels: int):
        self._grid, self._window = grid, window(grid.tile)
        self._mean = np.zeros((grid.height, grid.width, channels), np.float32)
        self._weight = np.zeros((grid.height, grid.width), np.float32)

    def add(self, number: int, value: Float[np.ndarray, "t t c"]) -> None:
        """Blend in the values of tile `number`."""
        y, x = self._grid.corners[number]
        mean = self._mean[y : y + self._grid.tile, x : x + self._grid.tile]
        weight = self._weight[y : y + self._grid.tile, x : x + self._grid.tile]
        height, width = weight.shape
        new = self._window[:height, :width]
        weight += new
        mean += (new / weight)[..., None] * (value[:height, :width] - mean)

    @property
    def mean(self) -> Float32[np.ndarray, "h w c"]:
        """The blended values; 0 where no tile was added yet."""
        return self._mean
