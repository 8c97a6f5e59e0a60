"""What a score depends on besides the picture, kept beside every number that rests on it.

Two evaluations compare, and a threshold fits a score, only where all of this is equal.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import diffad_jax
from configs.nested import flat
from configs.schema import Config

# The keys of the configuration that decide a score, once the model is trained. (What the model is
# made of is the run's own: `runs.folder.check_model`.)
SETTINGS = (
    "seed",  # the noise follows from it
    "model.compute_dtype",
    "model.matmul_precision",
    "diffusion.guidance_weight",
    "evaluate.checkpoint",
    "evaluate.weights",
    "evaluate.draws",
    "evaluate.residual",
    "evaluate.smoothing",
    "evaluate.top_pixels",
    "evaluate.less_noisy",
    "evaluate.noisier",
)
Value = str | int | float


@dataclasses.dataclass(frozen=True)
class Identity:
    """What an evaluation was made with.

    category: its name.
    pictures: fingerprint of the pictures judged, 12 hexadecimal digits: names and files, no path.
    step: of the checkpoint.
    program: version of this program.
    settings: the values of SETTINGS.
    """

    category: str
    pictures: str
    step: int
    program: str
    settings: Mapping[str, Value]

    def to_dict(self) -> dict[str, Any]:
        """As stored in metrics.json and threshold.json."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Identity":
        """What `to_dict` gave, read back from JSON.

        Raises:
          TypeError, KeyError: something is missing or not known.
        """
        return Identity(**values)


def identify(config: Config, step: int, pictures: str) -> Identity:
    """The identity of scores of a configuration, at a checkpoint's step, on these pictures."""
    made_by = diffad_jax.__version__
    return Identity(config.data.category, pictures, step, made_by, settings(config))


def settings(config: Config) -> dict[str, Value]:
    """The values of SETTINGS."""
    values = flat(config.to_dict())
    return {key: values[key] for key in SETTINGS}
