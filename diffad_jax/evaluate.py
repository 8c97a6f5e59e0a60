"""A category's pictures -> anomaly maps, scores, measures, threshold, report."""

import json
import logging

import jax
import numpy as np
from etils import epath

from configs.errors import UserError
from configs.rules import threshold_rule
from configs.schema import Config
from diffad_jax.reporting import grid, page, tables
from diffad_jax.runs import folder, pictures, sharding
from diffad_jax.scoring import appearance, metrics, reconstruction, results, scorer, threshold
from diffad_jax.scoring.identity import identify
from diffad_jax.scoring.pixel_sketch import Pixels
from diffad_jax.scoring.ranking import Ranking, rank_pixels
from diffad_jax.scoring.scorer import Judge, Scorer
from input_pipeline import pipeline
from input_pipeline.datasets import (
    Category,
    labelled,
    load_category,
    load_textures,
    with_corrections,
)
from input_pipeline.on_disk import Pictures, chunks

logger = logging.getLogger(__name__)
CORRECTED = "corrections/"  # what names of corrected pictures begin with


def run(config: Config, workdir: epath.PathLike, corrections: str = "") -> dict[str, float]:
    """Evaluate a run's checkpoint; see `evaluate`.

    Args:
      config: of the run.
      workdir: its folder.
      corrections: a corrections.jsonl, whose pictures are judged, too; those that the run trains on
        or holds out are left out. "": none.

    Raises:
      UserError: no run, no checkpoint, another model's run, unusable pictures, no defective ones
        where the threshold is chosen by them, or the pictures that the run held out of training
        are needed and gone.
    """
    folder.check_model(workdir, config)  # before the pictures are read
    # What was not trained on, only the run knows: without its list, nothing counts as held out.
    kept_aside = pictures.held_out(workdir) or {}
    category = load_category(config.data, config.model.image_size, kept_aside)
    if corrections:
        category = _corrected(config, category, corrections, pictures.known(workdir))
    check_threshold(config.evaluate.threshold, category)
    if by_held_out(config.evaluate.threshold, category):
        pictures.check_held_out(workdir, category)
    if not len(shown(category).images):
        raise UserError(
            f"no test pictures in {category.folder}, and {workdir} held none out of training "
            "(data.holdout): nothing to evaluate"
        )
    model = scorer.restored(config, workdir, sharding.data_mesh())
    return evaluate(model, category, workdir, painted(config, category))


def _corrected(config: Config, category: Category, file: str, known: set[str]) -> Category:
    """The category with the pictures that people corrected as further test pictures."""
    known = known | set(category.test.stamps)
    size = config.model.image_size
    whole = with_corrections(category, file, config.data, size, known)
    new = whole.test.picked(range(len(category.test.names), len(whole.test.names)))
    good, defective = (int(np.sum(new.labels == label)) for label in (0, 1))
    logger.info(
        "%s: %d good and %d defective pictures more to judge (those that are known are left out)",
        file,
        good,
        defective,
    )
    if unmarked := int(np.sum(new.unmarked)):
        logger.warning(
            "in %d of them nobody marked the defect: pixel-level measures leave those out", unmarked
        )
    return whole


def painted(config: Config, category: Category) -> pipeline.Painted | None:
    """Training pictures with synthetic anomalies; None where the anomaly sources are not here."""
    try:
        textures = load_textures(config.data, config.model.image_size)
    except UserError as error:
        logger.info("repaint_psnr is not measured: %s", error)
        return None
    return pipeline.painted(category, textures, config.data)


def shown(category: Category) -> Pictures:
    """What a report is about: the test pictures, or where there is none the held-out ones."""
    return category.test if len(category.test.images) else category.held_out


def check(config: Config, category: Category) -> None:
    """What training checks before it begins: `check_best` and `check_threshold`."""
    check_best(config.train.keep_best, category)
    check_threshold(config.evaluate.threshold, category)


def check_threshold(rule: str, category: Category) -> None:
    """Raise UserError where `evaluate.threshold` asks for a recall and no defect is known."""
    if threshold_rule(rule)[0] == "recall" and not np.any(category.test.labels == 1):
        raise UserError(
            f"evaluate.threshold={rule}, but {category.folder} has no defective test pictures: "
            "use f1 or false_alarms:0.01"
        )


def by_held_out(rule: str, category: Category) -> bool:
    """Whether the held-out pictures, if there are some, are judged beside the test pictures."""
    return threshold_rule(rule)[0] == "false_alarms" or not labelled(category.test)


def check_best(metric: str, category: Category) -> None:
    """Raise UserError where the metric of `train.keep_best` will not be known."""
    test = category.test
    if metric and not len(test.images):
        raise UserError(f"train.keep_best={metric}, but {category.folder} has no test pictures")
    defective = int(np.sum(test.labels == 1))
    pixel_level = metric.startswith(("pixel", "aupro"))
    if pixel_level and defective and np.sum(test.unmarked) == defective:
        raise UserError(
            f"train.keep_best={metric}, but none of the {defective} defective pictures in "
            f"{category.folder} has a mask"
        )


def evaluate(
    model: Scorer,
    category: Category,
    workdir: epath.PathLike,
    examples: pipeline.Painted | None = None,
) -> dict[str, float]:
    """Judge the pictures that are `shown`, find the threshold, write all of it.

    WORKDIR/eval/STEP gets metrics.json, scores.csv, reference.json, grid.png and report.html;
    WORKDIR/threshold.json the threshold. The held-out pictures are judged where the threshold is
    theirs (`by_held_out`).

    Returns:
      The measures that metrics.json holds: `metrics.of_images`, `of_pixels`, pixel_pictures (how
      many pictures those are of: all but defective ones without a mask), threshold_*, and in dB
      reconstruction_psnr (`reconstruction.of_good`) and, where there are `examples`, repaint_psnr
      (`reconstruction.of_painted`).
    """
    about = shown(category)
    if about is category.held_out:
        count = len(about.images)
        logger.info("no test pictures: judging the %d good ones held out of training", count)
    evaluation = measure(model, category, examples)
    if jax.process_index() == 0:
        write(workdir, evaluation, model.config)
    return dict(evaluation.values)


def stands(config: Config, category: Category, workdir: epath.PathLike, step: int) -> bool:
    """Whether `evaluate` has judged this step's weights, and would write the same again.

    That is so where the pictures, what scores depend on, and the rule of the threshold are equal.
    """
    file = epath.Path(workdir) / "eval" / str(step) / "metrics.json"
    identity, rule = identify(config, step, shown(category).fingerprint), config.evaluate.threshold
    try:
        values = json.loads(file.read_text()) if file.exists() else {}
        found = threshold.read(workdir)
        if rule == "f1" and values["image_f1_threshold"] is None:
            rule = threshold.GOOD_ONLY
        same = values["identity"] == identity.to_dict()
    except (ValueError, LookupError, TypeError, UserError):  # not there, or damaged
        return False
    return same and found is not None and (found.identity, found.source) == (identity, rule)


def measure(
    model: Judge, category: Category, examples: pipeline.Painted | None = None
) -> results.Evaluation:
    """What `evaluate` writes; nothing is written."""
    about = shown(category)
    judged = model.judge(about)
    pixels = ranking(judged, model.config.evaluate.exact_pictures)
    values = metrics.of_images(judged.labels, judged.scores)
    if pixels is not None:
        values |= metrics.of_pixels(pixels) | {"pixel_pictures": float(np.sum(~judged.unmarked))}
    values["reconstruction_psnr"] = reconstruction.of_good(
        judged.labels, judged.images, judged.reconstructions
    )
    if examples is not None:
        values["repaint_psnr"] = reconstruction.of_painted(model, examples)
    identity = identify(model.config, model.step, about.fingerprint)
    test, held_out = (None, judged) if about is category.held_out else (judged, None)
    rule = model.config.evaluate.threshold
    if test is not None and by_held_out(rule, category):
        held_out = model.judge(category.held_out)
    found = threshold.choose(
        rule,
        values,
        test=good(test),
        held_out=good(held_out),
        defective=np.asarray(judged.scores[judged.labels == 1], np.float64),
        identity=identity,
    )
    values |= {} if found is None else found.numbers()
    values |= corrections_met(judged, found)
    return results.Evaluation(judged, values, pixels, found, identity)


def corrections_met(judged: results.Judged, found: threshold.Threshold | None) -> dict[str, float]:
    """How many corrected pictures there are, and of how many the verdict is now people's own."""
    rows = [row for row, name in enumerate(judged.names) if name.startswith(CORRECTED)]
    if not rows or found is None:
        return {}
    met = int(np.sum((judged.scores[rows] >= found.image) == (judged.labels[rows] == 1)))
    logger.info("%d of %d corrected pictures get the verdict that people gave", met, len(rows))
    return {"corrections": float(len(rows)), "corrections_met": float(met)}


def good(judged: results.Judged | None) -> threshold.Good:
    """Scores and largest map values of the good pictures."""
    if judged is None:
        return threshold.Good(np.zeros(0), np.zeros(0))
    rows = np.flatnonzero(judged.labels == 0)
    peaks = [judged.maps[row].max() for row in rows]
    scores = [judged.scores[row] for row in rows]
    return threshold.Good(np.array(scores, np.float64), np.array(peaks, np.float64))


def ranking(judged: results.Judged, exact_pictures: int) -> Ranking | None:
    """The ranking of all pixels whose truth is known; None where no defective picture has a mask.

    Exact up to `exact_pictures` pictures; in bounded memory beyond.
    """
    rows = np.flatnonzero(~judged.unmarked)
    left_out = len(judged.names) - rows.size
    if left_out and not np.any(judged.labels[rows]):
        return None
    if left_out:
        logger.info("pixel-level measures leave out %d defective pictures without mask", left_out)
    if rows.size <= exact_pictures:
        truth = np.array([judged.truth(row) for row in rows.tolist()], bool)
        return rank_pixels(truth.reshape(-1, *judged.maps.shape[1:]), judged.maps[rows])
    pixels = Pixels()
    for some in chunks(rows.size):
        truth = np.array([judged.truth(row) for row in rows[some].tolist()], bool)
        pixels.add(truth, np.array(judged.maps[rows[some]]))
    return pixels.ranking()


def write(workdir: epath.PathLike, evaluation: results.Evaluation, config: Config) -> None:
    """Write WORKDIR/threshold.json, and what people look at to WORKDIR/eval/STEP."""
    target = epath.Path(workdir) / "eval" / str(evaluation.identity.step)
    target.mkdir(parents=True, exist_ok=True)
    if evaluation.threshold is not None:
        threshold.write(workdir, evaluation.threshold)
    tables.write_metrics(target / "metrics.json", evaluation.values, evaluation.identity)
    tables.write_scores(target / "scores.csv", evaluation)
    tables.write_reference(target / appearance.FILE, evaluation.judged)
    grid.write(target / "grid.png", evaluation, config.evaluate.grid_rows)
    page.write(target / "report.html", evaluation, config)
    numbers = tables.summary(evaluation.values), tables.repainting(evaluation.values)
    logger.info("%s\n%s", evaluation.title, "\n".join(filter(None, numbers)))
    logger.info("report: %s", target / "report.html")
