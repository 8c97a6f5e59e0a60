"""From which score on a picture is called defective: found once, stored with the model.

A picture is defective where its score >= `image`, a pixel where its value in the map >= `pixel`.
"""

import dataclasses
import json
import math

from etils import epath

from diffad_jax import workdir as workdirs


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Two thresholds and where they come from.

    image, pixel: on the image score and on the anomaly map, both in [0, 1] or a little above.
    source: 'f1_max' of labelled pictures, or a 'quantile' of good ones.
    quantile: the configured one; None for f1_max.
    pictures: how many pictures the image threshold was found with.
    false_alarm_rate: share of good pictures that it calls defective; NaN where there was none.
    step: of the checkpoint it belongs to.
    """

    image: float
    pixel: float
    source: str
    quantile: float | None
    pictures: int
    false_alarm_rate: float
    step: int


def path(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its threshold."""
    return epath.Path(workdir) / "threshold.json"


def write(workdir: epath.PathLike, threshold: Threshold) -> None:
    """Write WORKDIR/threshold.json; a NaN becomes null, which JSON can hold."""
    values = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in dataclasses.asdict(threshold).items()
    }
    workdirs.write(path(workdir), json.dumps(values, indent=2, allow_nan=False) + "\n")


def read(workdir: epath.PathLike) -> Threshold | None:
    """What `write` wrote, to the last bit; None where there is no such file.

    Raises:
      ValueError: the file is not a threshold; names it.
    """
    file = path(workdir)
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text())
        for name in ("image", "pixel", "false_alarm_rate"):
            values[name] = math.nan if values[name] is None else float(values[name])
        return Threshold(**values)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not a threshold: {error}") from error
