"""How a picture, its anomaly map and its regions look, the same everywhere."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

# Perceptually uniform, told apart with every kind of colour blindness, and still in order in grey.
COLOURS = "inferno"
OUTLINE = "#2fe6e6"  # of the truth; far from every colour of inferno and from grey
COLUMNS = ("input", "truth", "reconstruction", "anomaly map", "overlay")


def full_scale(maps: Float[np.ndarray, "n h w"]) -> float:
    """The anomaly that gets the brightest colour: the largest of a whole set, 1 where all are 0."""
    top = float(np.max(maps, initial=0.0))
    return top if top > 0 else 1.0


def colours(anomaly_map: Float[np.ndarray, "h w"], scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """The map in colours, RGB: 0 is the darkest, `scale` and all above it the brightest."""
    return matplotlib.colormaps[COLOURS](unit(anomaly_map / scale), bytes=True)[..., :3]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], anomaly_map: Float[np.ndarray, "h w"], scale: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The map in colours over the picture in grey, the more opaque the more anomalous."""
    grey = image @ np.array([[0.299], [0.587], [0.114]])
    opacity = 0.85 * np.minimum(1.5 * unit(anomaly_map / scale), 1.0)[..., None]
    heat = colours(anomaly_map, scale)
    return np.rint((1 - opacity) * grey + opacity * heat).astype(np.uint8)


def frames(
    picture: UInt8[np.ndarray, "h w 3"], boxes: Sequence[tuple[int, int, int, int]]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with a frame around each box (x, y, width, height, px), outside of its pixels."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    line = max(1, round(min(picture.shape[:2]) / 250))
    for x, y, width, height in boxes:
        corners = (x - line, y - line, x + width - 1 + line, y + height - 1 + line)
        draw.rectangle(corners, outline=OUTLINE, width=line)
    return np.asarray(image)


def views(
    image: UInt8[np.ndarray, "h w 3"],
    truth: Bool[np.ndarray, "h w"] | None,
    reconstruction: UInt8[np.ndarray, "h w 3"],
    anomaly_map: Float[np.ndarray, "h w"],
    scale: float,
) -> list[UInt8[np.ndarray, "h w 3"] | Bool[np.ndarray, "h w"] | None]:
    """The five pictures that COLUMNS names, the truth as it came."""
    heat, laid = colours(anomaly_map, scale), overlay(image, anomaly_map, scale)
    return [image, truth, reconstruction, heat, laid]


def unit(values: np.ndarray) -> np.ndarray:
    """float32, cut to [0, 1]."""
    return np.clip(values.astype(np.float32), 0.0, 1.0)
