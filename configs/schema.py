"""Every key of a configuration: its type, its range and its unit.

`parse` makes frozen, checked dataclasses of a ConfigDict, so a misspelt key or an impossible value
is reported before data is read or anything is compiled. What a key means is said in default.py.
"""

import dataclasses
import difflib
import itertools
import operator
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import ml_collections

from configs.errors import UserError
from configs.rules import (
    ABOVE_0,
    CATEGORY,
    FILLED,
    GROUPS,
    LARGEST,
    LOCAL,
    SEED,
    SPAN,
    THRESHOLD,
    TIMESTEPS,
    WHOLE,
    WHOLE_GROUPS,
    Rule,
    Share,
    Steps,
    StepsOr0,
    Weight,
    at_least,
    one_of,
    within,
)

# What papers report: the key of each measure, and its name for people. `mean` averages these.
MEASURES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro_30": "AUPRO 0.30",
    "aupro_05": "AUPRO 0.05",
}
# Channel multipliers of the paper's U-Net by picture size (px), used when none are given. A size
# between two entries takes those of the smaller one.
DEFAULT_MULTIPLIERS = {
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    32: (1.0, 2.0, 3.0, 4.0),
}
LIMITS = {int: WHOLE - 1, float: LARGEST}  # nothing is <= a limit that is not a number
FINITE = "a finite number (of float32)"
KINDS = {int: "a whole number of 32 bits", float: FINITE, str: "text", bool: "true or false"}
RISING = (
    "0 < diffusion.train_split < diffusion.train_end <= diffusion.timesteps",
    "0 <= evaluate.less_noisy < evaluate.noisier < diffusion.timesteps",
    "data.blend_min <= data.blend_max",
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Both networks. Widths in channels, sizes in pixels."""

    image_size: Annotated[int, at_least(min(DEFAULT_MULTIPLIERS), "px")]
    image_range: Literal["unit", "signed"]
    prediction: Literal["epsilon", "preconditioned"]
    difference: Weight
    unet_base: Annotated[int, WHOLE_GROUPS]
    unet_multipliers: tuple[Annotated[float, ABOVE_0], ...]
    res_blocks: Annotated[int, at_least(1, "a level")]
    attention_widths: tuple[Annotated[int, at_least(1, "px")], ...]
    heads: Annotated[int, at_least(1)]
    head_channels: Annotated[int, at_least(0, "channels")]
    dropout: Annotated[float, within(0, 1, "[)")]
    segmentation_base: Annotated[int, at_least(1, "channel")]
    compute_dtype: Literal["float32", "bfloat16"]
    matmul_precision: Literal["default", "highest"]
    attention: Literal["xla", "cudnn"]
    remat: Literal["none", "norms", "blocks"]

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Channel multipliers of the U-Net's levels: those given, else the paper's for the size."""
        size = max(size for size in DEFAULT_MULTIPLIERS if size <= self.image_size)
        return self.unet_multipliers or DEFAULT_MULTIPLIERS[size]

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each U-Net level, the full resolution first."""
        return tuple(int(self.unet_base * m) for m in self.multipliers)


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule, time steps (0-indexed) and guidance."""

    timesteps: Annotated[int, TIMESTEPS]
    schedule: Literal["linear", "cosine"]
    train_split: int
    train_end: int
    guidance_weight: Weight


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """loss = noise + focal_weight * focal + smooth_l1_weight * smooth-L1."""

    target: Literal["normal", "clean"]
    snr_gamma: Weight
    focal_weight: Weight
    focal_alpha: Share
    focal_gamma: Weight
    smooth_l1_weight: Weight
    smooth_l1_beta: Annotated[float, ABOVE_0]


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Adam for one network; AdamW where weight_decay > 0."""

    rate: Annotated[float, ABOVE_0]
    schedule: Literal["constant", "cosine", "oscillating"]
    warmup_steps: StepsOr0
    half_period: Steps
    weight_decay: Weight


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the pictures are and how training anomalies are made."""

    root: Annotated[str, FILLED, LOCAL]
    category: Annotated[str, CATEGORY]
    layout: Literal["auto", "folder", "mvtec", "visa", "visa_csv", "dagm", "dagm_raw", "prepared"]
    kind: Literal["auto", "object", "texture"]
    textures: Annotated[str, LOCAL]
    corrections: Annotated[str, LOCAL]
    cache_dir: Annotated[str, FILLED]
    resize: Literal["bilinear", "antialias"]
    fit: Literal["stretch", "crop", "pad"]
    foreground: Literal["auto", "object", "random", "full"]
    missing_masks: Literal["error", "ignore"]
    normal_share: Share
    matched_share: Share
    blend_min: Share
    blend_max: Share
    holdout: Annotated[float, Rule(lambda v: v == -1 or 0 <= v < 1, "-1 or in [0, 1)")]
    memory_gib: Annotated[float, at_least(0, "GiB")]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch, EMA and how often things are written."""

    batch_size: Annotated[int, at_least(1, "picture")]
    steps: StepsOr0
    epochs: Annotated[int, at_least(0, "epochs")]
    accumulation_steps: Annotated[int, at_least(1, "part")]
    ema_decay: Annotated[float, within(0, 1, "[)")]
    log_every: Steps
    image_every: StepsOr0
    evaluate_every: StepsOr0
    checkpoint_every: Steps
    deterministic: bool
    keep_checkpoints: Annotated[int, at_least(1, "checkpoint")]
    keep_best: Annotated[str, one_of(("", *MEASURES))]
    profile_steps: Annotated[tuple[int, ...], SPAN]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """How pictures are judged. Time steps are 0-indexed."""

    batch_size: Annotated[int, at_least(1, "picture")]
    less_noisy: int
    noisier: int
    draws: Annotated[int, at_least(1)]
    weights: Literal["ema", "raw"]
    checkpoint: Literal["last", "best"]
    residual: Weight
    smoothing: Weight
    top_pixels: Annotated[int, at_least(1, "pixel")]
    threshold: Annotated[str, THRESHOLD]
    grid_rows: Annotated[int, at_least(1, "row")]
    exact_pictures: Annotated[int, at_least(0, "pictures")]


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Pictures without ground truth."""

    tile_overlap: Annotated[float, within(0, 0.9)]


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: Annotated[int, SEED]
    model: ModelConfig
    diffusion: DiffusionConfig
    loss: LossConfig
    unet_optim: OptimConfig
    segmentation_optim: OptimConfig
    data: DataConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    predict: PredictConfig

    def to_dict(self) -> dict[str, Any]:
        """Nested plain dict, as written to `config.json`."""
        return dataclasses.asdict(self)


def parse(config: ml_collections.ConfigDict) -> Config:
    """Turn the ConfigDict of a configuration file into a checked Config.

    Raises:
      UserError: an unknown or missing key, a value of the wrong type, or an impossible value.
    """
    parsed = _build(Config, config.to_dict(), "")
    _check_widths(parsed.model)
    _check_pairs(parsed)
    return parsed


def check_key(name: str) -> None:
    """Raise UserError where `name`, such as 'train.steps', is no key; says which there are."""
    kind, prefix = Config, ""
    for part in name.split("."):
        if not dataclasses.is_dataclass(kind):
            raise UserError(f"unknown config key {name}: {prefix[:-1]} is a key, not a section")
        hints = typing.get_type_hints(kind)
        _check_known(part, list(hints), prefix)
        kind, prefix = hints[part], f"{prefix}{part}."
    if dataclasses.is_dataclass(kind):
        keys = ", ".join(typing.get_type_hints(kind))
        raise UserError(f"config key {name} is a section: give one of its keys, {keys}")


def _build(cls, values: Mapping[str, Any], prefix: str):
    """One dataclass from one mapping, recursively."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for key in values:
        _check_known(key, list(hints), prefix)
    missing = [name for name in hints if name not in values]
    if missing:
        raise UserError(f"missing config key {prefix}{missing[0]}")
    return cls(**{key: _value(hints[key], values[key], f"{prefix}{key}") for key in hints})


def _check_known(key: str, known: list[str], prefix: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(known)}"
        raise UserError(f"unknown config key {prefix}{key}: {hint}")


def _value(kind, value, name: str):
    """`value` as `kind`, or a UserError that names the key and the value."""
    if dataclasses.is_dataclass(kind):
        _require(isinstance(value, Mapping), f"{name}={value!r} must be a section of keys")
        return _build(kind, value, f"{name}.")
    kind, *rules = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind,)
    if typing.get_origin(kind) is Literal:
        rules = [one_of(typing.get_args(kind))]
    elif typing.get_origin(kind) is tuple:
        _require(isinstance(value, (tuple, list)), f"{name}={value!r} must be a tuple")
        element = typing.get_args(kind)[0]
        value = tuple(_value(element, v, f"{name}[{i}]") for i, v in enumerate(value))
    else:
        value = float(value) if kind is float and type(value) is int else value
        _require(
            type(value) is kind and (kind not in LIMITS or abs(value) <= LIMITS[kind]),
            f"{name}={value!r} must be {KINDS[kind]}",
        )
    for rule in rules:
        _require(rule.holds(value), f"{name}={value!r} must be {rule.words}")
        value = rule.plain(value)
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _check_widths(model: ModelConfig) -> None:
    """Each level of the U-Net halves the picture and splits its channels into groups and heads."""
    # The segmentation network's five poolings shrink the picture to a 32nd of its width.
    size, stride = model.image_size, max(2**5, 2 ** (len(model.multipliers) - 1))
    _require(size % stride == 0, f"model.image_size={size} must be a multiple of {stride} px")
    split = "head_channels" if model.head_channels else "heads"
    divisor = getattr(model, split)
    for level, channels in enumerate(model.level_channels):
        has = f"level {level} of the U-Net has {channels} channels"
        _require(
            channels > 0 and channels % GROUPS == 0,
            f"{has}, not a multiple of its {GROUPS} normalisation groups "
            f"(model.unet_base={model.unet_base}, multiplier {model.multipliers[level]})",
        )
        _require(channels % divisor == 0, f"{has}, not divisible by model.{split}={divisor}")


def _check_pairs(config: Config) -> None:
    """Values that limit each other."""
    for order in RISING:
        words = order.split()
        values = [operator.attrgetter(w)(config) if "." in w else int(w) for w in words[::2]]
        signs = [operator.lt if sign == "<" else operator.le for sign in words[1::2]]
        steps = zip(signs, itertools.pairwise(values), strict=True)
        rises = all(sign(a, b) for sign, (a, b) in steps)
        _require(rises, f"need {order}, got {', '.join(map(str, values))}")
    model, train, top = config.model, config.train, config.evaluate.top_pixels
    pixels = model.image_size**2
    able = model.attention == "xla" or model.compute_dtype == "bfloat16"
    _require(able, "model.attention='cudnn' needs model.compute_dtype='bfloat16', got 'float32'")
    _require(
        (train.steps > 0) != (train.epochs > 0),
        f"give train.steps or train.epochs, the other 0, got {train.steps} and {train.epochs}",
    )
    batch, parts = train.batch_size, train.accumulation_steps
    told = f"train.batch_size={batch} is not divisible by train.accumulation_steps={parts}"
    _require(batch % parts == 0, told)
    _require(top <= pixels, f"evaluate.top_pixels={top} is above the {pixels} pixels of a map")
