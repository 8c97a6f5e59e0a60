"""How well pictures are reconstructed."""

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from diffad_jax.scoring.scorer import Judge
from input_pipeline.pipeline import Painted

_PEAK = 255.0


def psnr(
    pictures: UInt8[np.ndarray, "n s s 3"],
    reconstructions: UInt8[np.ndarray, "n s s 3"],
    where: Bool[np.ndarray, "n s s"] | None = None,
) -> np.ndarray:
    """Peak signal-to-noise ratio of each reconstruction: 10 log10(255^2 / mean square), in dB.

    Args:
      pictures: what should have come, 0..255.
      reconstructions: what came.
      where: only these pixels count; None: all.

    Returns:
      f64[n]; infinite where there is no difference, NaN for a picture without a pixel that counts.
    """
    values = np.full(len(pictures), np.nan)
    for row in range(len(pictures)):  # one at a time: they may lie on disk
        error = np.square(np.subtract(pictures[row], reconstructions[row], dtype=np.float64))
        error = error if where is None else error[where[row]]
        if error.size:
            with np.errstate(divide="ignore"):
                values[row] = 10 * np.log10(_PEAK**2 / error.mean())
    return values


def of_good(
    labels: Int32[np.ndarray, " n"],
    pictures: UInt8[np.ndarray, "n s s 3"],
    reconstructions: UInt8[np.ndarray, "n s s 3"],
) -> float:
    """Mean PSNR of the good pictures' (label 0) reconstructions, in dB; NaN where there is none.

    What the repaint does to a part without a defect. A defective one's has no right answer.
    """
    rows = np.flatnonzero(labels == 0)
    each = [psnr(pictures[r : r + 1], reconstructions[r : r + 1])[0] for r in rows]
    return float(np.mean(each)) if each else float("nan")


def of_painted(model: Judge, painted: Painted) -> float:
    """How well synthetic anomalies are repainted, in dB.

    Mean PSNR of the guided reconstruction against the picture as it was before, over the pixels
    of each anomaly; NaN where no picture has one.
    """
    found = [np.round(judged.reconstruction * 255) for judged in model.stream(painted.after)]
    values = psnr(painted.before, np.concatenate(found).astype(np.uint8), painted.where)
    values = values[~np.isnan(values)]
    return float(np.mean(values)) if values.size else float("nan")
