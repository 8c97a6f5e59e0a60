"""How pictures look, in five numbers: what drift is found in, and what an evaluation leaves for it.

WORKDIR/eval/STEP and a bundle hold reference.json (`reference`): what the evaluated pictures look
like and which scores they have. Importing this loads NumPy alone.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, UInt8

if TYPE_CHECKING:
    from diffad_jax.scoring.results import Judged

FILE = "reference.json"
STATISTICS = ("brightness", "sharpness", "red", "green", "blue")
_GREY = np.array([299.0, 587.0, 114.0])  # thousandths


def statistics(images: UInt8[np.ndarray, "n s s 3"]) -> dict[str, Float64[np.ndarray, " n"]]:
    """Five numbers for each picture, by the names in STATISTICS.

    brightness: the mean grey, in [0, 1].
    sharpness: how much neighbouring pixels differ, as the mean square of the difference in grey to
      the right and to the lower neighbour, each divided by twice the variance of grey; in [0, 2]
      or little above: 0 where all is smooth (or one grey), 1 where neighbours have nothing in
      common. A lamp that becomes brighter does not change it, a lens out of focus does.
    red, green, blue: their shares of the sum of all three, in [0, 1]: 1/3 each in a grey (or black)
      picture, whatever its brightness.

    Args:
      images: RGB. One that is read from disk is read picture by picture.
    """
    values = np.array([_numbers(np.asarray(image)) for image in images], np.float64)
    return dict(zip(STATISTICS, values.reshape(-1, len(STATISTICS)).T, strict=True))


def _numbers(image: UInt8[np.ndarray, "s s 3"]) -> list[float]:
    # Sums of whole numbers are exact: a grey picture's shares are equal to the last bit.
    grey = image.astype(np.float64) @ _GREY
    spread = 2 * grey.var()
    steps = [np.mean(np.square(np.diff(grey, axis=axis))) for axis in (0, 1)]
    sums = image.sum((0, 1), dtype=np.int64)
    shares = sums / sums.sum() if sums.any() else np.full(3, 1 / 3)
    sharpness = float(np.mean(steps)) / float(spread) if spread else 0.0
    return [float(grey.mean()) / 255_000, sharpness, *shares.tolist()]


def reference(judged: "Judged") -> dict[str, list[dict[str, Any]]]:
    """What reference.json holds: of each evaluated picture name, label, score and STATISTICS.

    A score that is not finite is null, which JSON can hold.
    """
    looks = statistics(judged.images)
    # A file name on disk need not be valid Unicode; its odd bytes are then shown, not lost.
    names = [name.encode("utf-8", "backslashreplace").decode() for name in judged.names]
    return {
        "pictures": [
            {
                "picture": name,
                "label": int(judged.labels[row]),
                "score": score if np.isfinite(score := float(judged.scores[row])) else None,
                **{key: float(values[row]) for key, values in looks.items()},
            }
            for row, name in enumerate(names)
        ]
    }


def of_good(
    pictures: Sequence[Mapping[str, Any]], threshold: float | None = None
) -> dict[str, list[float]]:
    """The values of the good pictures of a reference by name: "score" and STATISTICS.

    Args:
      pictures: what reference.json has under "pictures".
      threshold: if given, only of those with a score below it. Parts that are judged good have
        none above, so only these can be compared with them.
    """
    chosen = [
        picture
        for picture in pictures
        if picture["label"] == 0
        and picture["score"] is not None
        and (threshold is None or picture["score"] < threshold)
    ]
    return {key: [picture[key] for picture in chosen] for key in ("score", *STATISTICS)}
