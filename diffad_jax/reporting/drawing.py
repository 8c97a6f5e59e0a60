"""How a picture, its anomaly map and its regions look, the same everywhere.

Importing this loads neither JAX nor matplotlib: prediction needs it.
"""

import base64
from collections.abc import Sequence

import contourpy
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

COLUMNS = ("input", "truth", "reconstruction", "anomaly map", "overlay")
OUTLINE = "#2fe6e6"  # of regions; far from every colour of inferno and from grey
# Perceptually uniform, told apart with every kind of colour blindness, and still in order in grey.
COLOURS = "inferno"
# Its 256 colours as matplotlib has them, RGB: matplotlib itself takes a third of a second to load.
_INFERNO = np.frombuffer(
    base64.b64decode(
        "AAADAAAEAAAGAQAHAQEJAQELAgEOAgIQAwISBAMUBAMWBQQYBgQbBwUdCAYfCQYhCgcjCwcmDQgoDggqDwktEAkvEgoy"
        "Ewo0FAs2Fgs5Fws7GQs+GgtAHAxDHQxFHwxHIAxKIgtMJAtOJgtQJwtSKQtUKwpWLQpYLgpaMApcMgldNAlfNQlgNwlh"
        "OQliOwlkPAllPglmQAlmQQlnQwpoRQppRgppSAtqSgtqSwxrTQxrTw1sUA1sUg5sUw5tVQ9tVw9tWBBtWhFtWxFuXRJu"
        "XxJuYBNuYhRuYxRuZRVuZhVuaBZuahduaxdubRhubhhucBluchltcxptdRttdhtteBxtehxtex1sfR1sfh5sgB9rgR9r"
        "gyBrhSBqhiFqiCFqiSJpiyJpjSNpjiRokCRokSVnkyVnlSZmliZmmCdlmShkmyhknCljniljoCpioSthoythpCxgpixf"
        "py1fqS5eqy5drC9crjBbrzFbsTFasjJZtDNYtTNXtzRWuDVWujZVuzdUvTdTvjhSvzlRwTpQwjtPxDxOxT1Nxz5MyD5L"
        "yT9Ky0BJzEFIzUJHz0RG0EVE0UZD0kdC1EhB1UlA1ko/10s+2U092k4720863FA53VI43lM331Q24FY04lcz41gy5Fox"
        "5Vsw5lwu5l4t518s6GEr6WIq6mQo62Un7Gcm7Wgl7Woj7mwi720h8G8f8HAe8XId8nQc8nUa83cZ83kY9HoW9XwV9X4U"
        "9oAS9oER94MQ94UO+IcN+IgM+IoL+YwJ+Y4I+ZAI+pEH+pMG+pUG+pcG+5kG+5sG+50G+54H+6AH+6II+6QK+6YL+6gN"
        "+6oO+6wQ+64S+7AU+7EW+7MY+7Ua+7cc+7ke+rsh+r0j+r8l+sEo+cMq+cUs+ccv+Mkx+Ms0+M03988699E89tM/9tVC"
        "9ddF9dlI9NtL9NxP895S8+BW8+JZ8uRd8uZg8ehk8elo8ets8e1w8e508fB58fJ98vOB8vSF8/aJ9PeN9fiR9vqV9/uZ"
        "+fyd+v2g/P6k"
    ),
    np.uint8,
).reshape(256, 3)


def full_scale(
    pixel_threshold: float | None, maps: Float[np.ndarray, "n h w"] | None = None
) -> float:
    """The anomaly that gets the brightest colour, one for all pictures of a run.

    Twice the threshold of pixels, so that the threshold has the colour in the middle: what is
    called defective looks so, however small the values of a model's maps are.

    Args:
      pixel_threshold: None or NaN: there is none. Then the scale ends at the largest value of the
        maps.
      maps: of the whole set; None: not known beforehand. Without a threshold, and where all are 0,
        the scale then ends at 1.
    """
    if pixel_threshold is not None and pixel_threshold > 0:  # NaN is not
        return 2 * pixel_threshold
    top = 0.0 if maps is None else float(np.max(maps, initial=0.0))
    return top if top > 0 else 1.0


def levels(anomaly_map: Float[np.ndarray, "*shape"], scale: float) -> UInt8[np.ndarray, "*shape"]:
    """The map as places among the 256 colours: 0 at 0, 255 at `scale` and above."""
    return np.minimum(unit(anomaly_map / scale) * 256, 255).astype(np.uint8)


def colours(
    anomaly_map: Float[np.ndarray, "*shape"], scale: float
) -> UInt8[np.ndarray, "*shape 3"]:
    """The map in colours, RGB: 0 is the darkest, `scale` and all above it the brightest."""
    return _INFERNO[levels(anomaly_map, scale)]


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


def outlines(region: Bool[np.ndarray, "h w"]) -> list[Float[np.ndarray, "k 2"]]:
    """The borders of a region, closed lines of (x, y) in px; none where it is empty.

    (0, 0) is the picture's upper left corner, so the first pixel's centre is (0.5, 0.5). A border
    runs midway between the pixels inside and outside, and along the edge of the picture.
    """
    lines = contourpy.contour_generator(z=np.pad(region, 1).astype(np.float32)).lines(0.5)
    corners = []
    for line in lines:
        steps = np.diff(line, axis=0)
        turns = steps[1:, 0] * steps[:-1, 1] != steps[1:, 1] * steps[:-1, 0]
        corners.append(line[np.concatenate([[True], turns, [True]])] - 0.5)
    return corners


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
