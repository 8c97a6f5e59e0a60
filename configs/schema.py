"""Configuration: an ml_collections ConfigDict becomes frozen, typed, checked dataclasses.

Everything after `parse` works on the dataclasses, so a misspelt key or an impossible value is
reported here, before data is read or anything is compiled.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, Literal

import ml_collections

# Channel multipliers of the paper's U-Net by picture size (px), used when none are given. A size
# between two entries takes those of the smaller one.
DEFAULT_MULTIPLIERS = {
    512: (0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    256: (1.0, 1.0, 2.0, 2.0, 4.0, 4.0),
    128: (1.0, 1.0, 2.0, 3.0, 4.0),
    64: (1.0, 2.0, 3.0, 4.0),
    32: (1.0, 2.0, 3.0, 4.0),
}
# The segmentation network's five poolings shrink the picture to a 32nd of its width.
SEGMENTATION_STRIDE = 32
GROUPS = 32  # groups of every GroupNorm in the U-Net


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Both networks. Widths in channels, sizes in pixels."""

    image_size: int
    image_range: Literal["unit", "signed"]
    prediction: Literal["epsilon", "preconditioned"]
    spread: float
    unet_base: int
    unet_multipliers: tuple[float, ...]
    res_blocks: int
    attention_widths: tuple[int, ...]
    heads: int
    head_channels: int
    dropout: float
    segmentation_base: int
    compute_dtype: Literal["float32", "bfloat16"]
    attention: Literal["xla", "cudnn"]
    remat: Literal["none", "norms", "blocks"]

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Channel multipliers of the U-Net's levels: those given, else the paper's for the size."""
        sizes = [size for size in DEFAULT_MULTIPLIERS if size <= self.image_size]
        return self.unet_multipliers or (DEFAULT_MULTIPLIERS[max(sizes)] if sizes else ())

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each U-Net level, the full resolution first."""
        return tuple(int(self.unet_base * m) for m in self.multipliers)


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """Noise schedule, time steps (0-indexed) and guidance."""

    timesteps: int
    schedule: Literal["linear", "cosine"]
    train_split: int
    train_end: int
    eval_less_noisy: int
    eval_noisier: int
    guidance_weight: float


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """loss = noise + focal_weight * focal + smooth_l1_weight * smooth-L1."""

    target: Literal["normal", "clean"]
    focal_weight: float
    focal_alpha: float
    focal_gamma: float
    smooth_l1_weight: float
    smooth_l1_beta: float


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Adam for one network; AdamW where weight_decay > 0."""

    rate: float
    schedule: Literal["constant", "cosine", "oscillating"]
    warmup_steps: int
    half_period: int
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the pictures are and how training anomalies are made."""

    root: str
    category: str
    layout: Literal["auto", "folder", "mvtec", "visa", "visa_csv", "dagm", "dagm_raw", "prepared"]
    kind: Literal["auto", "object", "texture"]
    textures: str
    cache_dir: str
    resize: Literal["bilinear", "antialias"]
    fit: Literal["stretch", "crop", "pad"]
    foreground: Literal["auto", "object", "random", "full"]
    missing_masks: Literal["error", "ignore"]
    normal_share: float
    blend_min: float
    blend_max: float
    holdout: float
    memory_gib: float


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Length, batch, EMA and how often things are written."""

    batch_size: int
    steps: int
    epochs: int
    accumulation_steps: int
    ema_decay: float
    log_every: int
    image_every: int
    evaluate_every: int
    checkpoint_every: int
    keep_checkpoints: int
    keep_best: Literal[
        "", "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max",
        "aupro_30", "aupro_05",
    ]  # fmt: skip
    profile_steps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation on the test split."""

    batch_size: int
    top_pixels: int
    weights: Literal["ema", "raw"]
    draws: int
    checkpoint: Literal["last", "best"]
    grid_rows: int
    threshold_quantile: float
    exact_pictures: int


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Pictures without ground truth."""

    tile_overlap: float
    maps: Literal["png", "npy"]


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int
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
      ValueError: an unknown or missing key, a value of the wrong type, or an impossible value.
    """
    parsed = _build(Config, config.to_dict(), "")
    for check in (_check_model, _check_diffusion, _check_optim, _check_data, _check_train):
        check(parsed)
    return parsed


def check_key(name: str) -> None:
    """Raise ValueError where `name`, such as 'train.steps', is no key; names the nearest one."""
    kind, prefix = Config, ""
    for part in name.split("."):
        key = part.partition("[")[0]  # an element of a tuple: model.unet_multipliers[0]
        hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        if not hints:
            raise ValueError(f"unknown config key {name}: {prefix[:-1]} is not a section")
        _check_known(key, list(hints), prefix)
        kind, prefix = hints[key], f"{prefix}{key}."


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested dicts, as 'key: old -> new' lines."""
    lines = []
    for key in sorted(set(old) | set(new)):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{name}.")
        elif _plain(a) != _plain(b):
            lines.append(f"{name}: {_plain(a)!r} -> {_plain(b)!r}")
    return lines


def _plain(value):
    """Tuples become lists, as JSON would make them."""
    return list(value) if isinstance(value, tuple) else value


def _build(cls, values: Mapping[str, Any], prefix: str):
    """One dataclass from one mapping, recursively."""
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        _check_known(key, known, prefix)
    missing = [name for name in known if name not in values]
    if missing:
        raise ValueError(f"missing config key {prefix}{missing[0]}")
    return cls(**{name: _value(hints[name], values[name], f"{prefix}{name}") for name in known})


def _check_known(key: str, known: list[str], prefix: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown config key {prefix}{key}: did you mean {prefix}{near}?")


def _value(kind, value, name: str):
    """`value` as `kind`, or a ValueError that names the key."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"config key {name} is a section, got {value!r}")
        return _build(kind, value, f"{name}.")
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise ValueError(f"config key {name} is {value!r}: choose one of {choices}")
        return value
    if origin is tuple:
        element = typing.get_args(kind)[0]
        if isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise ValueError(f"config key {name} must be a tuple, got {value!r}")
        return tuple(_value(element, v, name) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"config key {name} must be {kind.__name__}, got {value!r}")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_model(config: Config) -> None:
    model = config.model
    size, multipliers = model.image_size, model.multipliers
    _require(
        bool(multipliers),
        f"model.image_size={size} is below {min(DEFAULT_MULTIPLIERS)}, the smallest size with "
        f"default channel multipliers",
    )
    stride = max(SEGMENTATION_STRIDE, 2 ** (len(multipliers) - 1))
    _require(
        size > 0 and size % stride == 0,
        f"model.image_size={size} is not divisible by the networks' total stride {stride}",
    )
    _require(
        model.attention == "xla" or model.compute_dtype == "bfloat16",
        f"model.attention={model.attention!r} needs model.compute_dtype='bfloat16', got "
        f"{model.compute_dtype!r}",
    )
    _require(model.spread > 0.0, f"model.spread={model.spread} is not positive")
    _require(0.0 <= model.dropout < 1.0, f"model.dropout={model.dropout} is not in [0, 1)")
    _require(model.res_blocks > 0, f"model.res_blocks={model.res_blocks} is not positive")
    _require(
        model.segmentation_base > 0,
        f"model.segmentation_base={model.segmentation_base} is not positive",
    )
    _require(
        model.unet_base % GROUPS == 0,
        f"model.unet_base={model.unet_base} is not a multiple of the {GROUPS} normalisation groups",
    )
    per_head = model.head_channels or 0
    for level, channels in enumerate(model.level_channels):
        _require(
            channels > 0 and channels % GROUPS == 0,
            f"level {level} of the U-Net has {channels} channels, not a multiple of its {GROUPS} "
            f"normalisation groups (model.unet_base={model.unet_base}, multiplier "
            f"{multipliers[level]})",
        )
        divisor = per_head or model.heads
        _require(
            divisor > 0 and channels % divisor == 0,
            f"level {level} of the U-Net has {channels} channels, not divisible by "
            f"{'model.head_channels' if per_head else 'model.heads'}={divisor}",
        )


def _check_diffusion(config: Config) -> None:
    d = config.diffusion
    _require(d.timesteps > 0, f"diffusion.timesteps={d.timesteps} is not positive")
    _require(
        0 < d.train_split < d.train_end <= d.timesteps,
        f"need 0 < diffusion.train_split < diffusion.train_end <= diffusion.timesteps, got "
        f"{d.train_split}, {d.train_end}, {d.timesteps}",
    )
    _require(
        0 <= d.eval_less_noisy < d.eval_noisier < d.timesteps,
        f"need 0 <= diffusion.eval_less_noisy < diffusion.eval_noisier < diffusion.timesteps, got "
        f"{d.eval_less_noisy}, {d.eval_noisier}, {d.timesteps}",
    )


def _check_optim(config: Config) -> None:
    for name, optim in (
        ("unet_optim", config.unet_optim),
        ("segmentation_optim", config.segmentation_optim),
    ):
        _require(optim.rate > 0, f"{name}.rate={optim.rate} is not positive")
        _require(optim.half_period > 0, f"{name}.half_period={optim.half_period} is not positive")
        _require(optim.warmup_steps >= 0, f"{name}.warmup_steps={optim.warmup_steps} is negative")
        _require(optim.weight_decay >= 0, f"{name}.weight_decay={optim.weight_decay} is negative")


def _check_data(config: Config) -> None:
    data = config.data
    _require(bool(data.root), "data.root is empty: give the folder that holds the categories")
    _require(bool(data.category), "data.category is empty: give the name of one category folder")
    _require(
        0.0 <= data.normal_share <= 1.0, f"data.normal_share={data.normal_share} is not in [0, 1]"
    )
    _require(
        0.0 <= data.blend_min <= data.blend_max <= 1.0,
        f"need 0 <= data.blend_min <= data.blend_max <= 1, got {data.blend_min}, {data.blend_max}",
    )
    _require(
        data.holdout == -1.0 or 0.0 <= data.holdout < 1.0,
        f"data.holdout={data.holdout} is neither -1 nor in [0, 1)",
    )
    _require(data.memory_gib >= 0.0, f"data.memory_gib={data.memory_gib} is negative")


def _check_train(config: Config) -> None:
    train, evaluate = config.train, config.evaluate
    for name in (
        "batch_size",
        "accumulation_steps",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ):
        value = getattr(train, name)
        _require(value > 0, f"train.{name}={value} is not positive")
    for name in ("steps", "epochs", "image_every", "evaluate_every"):
        value = getattr(train, name)
        _require(value >= 0, f"train.{name}={value} is negative")
    _require(
        (train.steps > 0) != (train.epochs > 0),
        f"give the length either as train.steps or as train.epochs (the other 0), got "
        f"{train.steps} and {train.epochs}",
    )
    _require(
        train.batch_size % train.accumulation_steps == 0,
        f"train.batch_size={train.batch_size} is not divisible by "
        f"train.accumulation_steps={train.accumulation_steps}",
    )
    profiled = train.profile_steps
    _require(
        not profiled or (len(profiled) == 2 and 1 <= profiled[0] <= profiled[1]),
        f"train.profile_steps={profiled} is neither () nor (first, last) with 1 <= first <= last",
    )
    _require(0.0 <= train.ema_decay < 1.0, f"train.ema_decay={train.ema_decay} is not in [0, 1)")
    _require(evaluate.batch_size > 0, f"evaluate.batch_size={evaluate.batch_size} is not positive")
    pixels = config.model.image_size**2
    _require(
        0 < evaluate.top_pixels <= pixels,
        f"evaluate.top_pixels={evaluate.top_pixels} is not in 1..{pixels} (pixels of a map)",
    )
    _require(evaluate.draws > 0, f"evaluate.draws={evaluate.draws} is not positive")
    overlap = config.predict.tile_overlap
    _require(0.0 <= overlap <= 0.9, f"predict.tile_overlap={overlap} is not in [0, 0.9]")
    _require(evaluate.grid_rows > 0, f"evaluate.grid_rows={evaluate.grid_rows} is not positive")
    quantile = evaluate.threshold_quantile
    _require(0.0 < quantile < 1.0, f"evaluate.threshold_quantile={quantile} is not in (0, 1)")
    exact = evaluate.exact_pictures
    _require(exact >= 0, f"evaluate.exact_pictures={exact} is negative")
