"""A picture's line of the tables, and its map and overlay: the same whoever judges it.

Importing this loads no JAX.
"""

import io
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8
from PIL import Image, PngImagePlugin

from diffad_jax.predicting.files import MARK, Source
from diffad_jax.predicting.results import COLUMNS
from diffad_jax.reporting import drawing
from diffad_jax.runs import files

_BOX = ("x", "y", "width", "height", "area", "peak")


@runtime_checkable
class Found(Protocol):
    """What a model makes of a picture: `results.Prediction`, or `exporting.infer.Result`."""

    @property
    def score(self) -> float: ...

    @property
    def anomaly_map(self) -> Float32[np.ndarray, "h w"]: ...

    @property
    def boxes(self) -> Sequence[Any]: ...

    @property
    def reconstruction(self) -> UInt8[np.ndarray, "h w 3"]: ...


def unreadable(name: str, error: str) -> dict[str, Any]:
    """The line of a picture that cannot be read."""
    return dict.fromkeys(COLUMNS) | {"picture": name, "error": error}


def judged(
    name: str, found: Found, threshold: float | None, confidence: float | None
) -> dict[str, Any]:
    """The line of a picture that was judged; map and overlay are None until they are written."""
    height, width = found.anomaly_map.shape
    verdict = None if threshold is None else ("good", "defective")[found.score >= threshold]
    return dict.fromkeys(COLUMNS) | {
        "picture": name,
        "score": found.score,
        "threshold": threshold,
        "confidence": confidence,
        "verdict": verdict,
        "width": width,
        "height": height,
        "boxes": [{key: getattr(box, key) for key in _BOX} for box in found.boxes],
    }


def write_maps(
    folder: epath.PathLike,
    source: Source,
    picture: UInt8[np.ndarray, "h w 3"],
    found: Found,
    verdict: str | None,
    pixel_threshold: float | None,
    kind: str = "png",
) -> dict[str, str]:
    """Write maps/NAME.png, or .npy, and overlays/NAME.png; returns the two columns about them."""
    paths = {
        "map": f"maps/{source.output(f'.{kind}')}",
        "overlay": f"overlays/{source.output('.png')}",
    }
    files.write(epath.Path(folder) / paths["map"], _encoded(found.anomaly_map, kind))
    drawn = marked(picture, found, verdict, pixel_threshold)
    files.write(epath.Path(folder) / paths["overlay"], _png(drawn))
    return paths


def marked(
    picture: UInt8[np.ndarray, "h w 3"],
    found: Found,
    verdict: str | None,
    pixel_threshold: float | None,
) -> UInt8[np.ndarray, "h w 3"]:
    """The map in colours over the picture, and a frame around each box of what is not good."""
    boxes = () if verdict == "good" else found.boxes
    corners = [(box.x, box.y, box.width, box.height) for box in boxes]
    drawn = drawing.overlay(picture, found.anomaly_map, drawing.full_scale(pixel_threshold))
    return drawing.frames(drawn, corners)


def _encoded(anomaly_map: Float32[np.ndarray, "h w"], kind: str) -> bytes:
    """A map in [0, 1] as 16-bit PNG (65535 is 1), or as float32 .npy."""
    if kind == "png":
        return _png(np.round(anomaly_map * 65535.0).astype(np.uint16))
    buffer = io.BytesIO()
    np.save(buffer, anomaly_map)
    return buffer.getvalue()


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*MARK)
    Image.fromarray(array).save(buffer, "png", pnginfo=mark)
    return buffer.getvalue()
