"""A run's model, or an exported one, ready to judge pictures as its evaluation did."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

import diffad_jax
from configs import stored
from configs.errors import UserError
from configs.nested import flat
from configs.schema import Config
from diffad_jax.predicting.predictor import Predictor
from diffad_jax.runs import folder, sharding
from diffad_jax.scoring import scorer
from diffad_jax.scoring.scorer import Judge
from diffad_jax.scoring.threshold import Threshold, read

logger = logging.getLogger(__name__)


def load(
    workdir: epath.PathLike,
    config: Config | None = None,
    threshold: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Predictor:
    """A run's model or an exported one, ready to be called: scores are those of the evaluation.

    What decides a score (`identity.SETTINGS`) and the checkpoint are those that the stored
    threshold was found with. With a threshold of your own they may be others.

    Args:
      workdir: the run's folder, local or gs://; or a bundle of `--mode export`, which ONNX Runtime
        then judges with, and whose configuration is fixed.
      config: by default the run's own; another must be of the same model.
      threshold: a picture is called defective where its score, in [0, 1], is at least this; by
        default what `--mode evaluate` stored. It takes the place of the threshold of the score
        only; confidences are then 0.5 at it, with the stored slope. Where none is stored, it also
        says which pixels belong to a region, and there are no confidences.
      overrides: dotted keys to change in the run's configuration, such as {"evaluate.draws": 4}.

    Raises:
      UserError: no run, no checkpoint, no whole bundle, another model's run, scores made in
        another way than those that the stored threshold was found on, a threshold outside of
        [0, 1], or a process of several hosts.
    """
    check_threshold(threshold)
    if jax.process_count() > 1:
        raise UserError(f"predict works on one host, this is one of {jax.process_count()}")
    if is_bundle(workdir):
        from diffad_jax.exporting import runtime  # late: a run needs no ONNX Runtime

        if config is not None or overrides:
            raise UserError(f"{workdir} is an exported model: its configuration cannot be changed")
        exported = runtime.Runtime(workdir)
        known = [exported.facts["thresholds"][name] for name in ("image", "pixel", "slope")]
        return _predictor(exported, known, threshold, workdir)
    model, found = restored(workdir, config, overrides or {}, must_fit=threshold is None)
    known = [None] * 3
    if found is not None:
        known = [_number(value) for value in (found.image, found.pixel, found.slope)]
    return _predictor(model, known, threshold, workdir)


def is_bundle(folder: epath.PathLike) -> bool:
    """Whether a folder is what `--mode export` writes."""
    return (epath.Path(folder) / "bundle.json").exists()


def _predictor(
    model: Judge,
    known: Sequence[float | None],
    threshold: float | None,
    place: epath.PathLike,
) -> Predictor:
    """With the thresholds and the slope that are known, the first replaced where one is given."""
    image = known[0] if threshold is None else threshold
    pixel = image if known[1] is None else known[1]
    if model.config.predict.tile_overlap and threshold is None and image is not None:
        logger.warning("the threshold was found on whole pictures; for tiles, give --threshold")
    if image is None:
        logger.warning(
            "%s has no threshold: scores only, no verdicts; --mode evaluate finds one, "
            "--threshold gives one",
            place,
        )
    return Predictor(model, image, pixel, slope=known[2])


def restored(
    workdir: epath.PathLike,
    config: Config | None,
    overrides: Mapping[str, Any],
    must_fit: bool = True,
) -> tuple[scorer.Scorer, Threshold | None]:
    """A run's model as its stored threshold was found, and that threshold; see `load`.

    Args:
      workdir: as `load`.
      config: as `load`.
      overrides: as `load`.
      must_fit: raise where the settings are others; else the newest checkpoint is taken.
    """
    found = read(workdir)
    identity = found.identity if found is not None and must_fit else None
    config = _config(workdir, config, overrides, found, must_fit)
    step = identity.step if identity is not None else None
    model = scorer.restored(config, workdir, sharding.data_mesh(), step)
    if identity is not None and identity.program != diffad_jax.__version__:
        logger.warning(
            "the threshold was found by version %s of this program, this is %s",
            identity.program,
            diffad_jax.__version__,
        )
    return model, found


def _config(
    workdir: epath.PathLike,
    config: Config | None,
    overrides: Mapping[str, Any],
    found: Threshold | None,
    must_fit: bool,
) -> Config:
    """The configuration to predict with: the one given, or the run's as it was evaluated.

    Raises:
      UserError: `must_fit`, and a setting is another than the threshold was found with.
    """
    settings = {} if found is None else dict(found.identity.settings)
    wanted = dict(overrides)
    if config is None:
        values = stored.get_config(workdir)
        with values.unlocked():
            values.update_from_flattened_dict(settings | wanted)
        if values.model.compute_dtype != "bfloat16":
            values.model.attention = "xla"  # the other kernel knows no other precision
        config = folder.parsed(workdir, values)
    else:
        own = flat(config.to_dict())
        wanted |= {key: own[key] for key in settings}
    for key, value in settings.items():
        if must_fit and key in wanted and wanted[key] != value:
            raise UserError(
                f"{key} is {wanted[key]!r}, but the threshold of {workdir} was found with "
                f"{value!r}: leave it, run --mode evaluate with it, or give --threshold"
            )
    return config


def check_threshold(threshold: float | None) -> None:
    """Raise UserError for one that no score can have."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"the threshold is {threshold}, but scores lie in [0, 1]")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
