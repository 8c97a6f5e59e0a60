"""The report of an evaluation that people read: one HTML file with everything in it.

It begins with the verdicts in plain words and ends with the configuration; between them stand the
measures, the curves and the pictures, the worst mistakes first. Nothing is loaded from elsewhere,
no script runs, and the same input gives the same bytes.
"""

import importlib.metadata
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from markupsafe import Markup

from configs.rules import threshold_rule
from configs.schema import Config
from diffad_jax.reporting import cards, charts, drawing, tables
from diffad_jax.reporting.html import document, element, join, table
from diffad_jax.runs import files
from diffad_jax.scoring import metrics, ranking
from diffad_jax.scoring.results import Evaluation
from diffad_jax.scoring.threshold import Threshold, in_words

PACKAGES = ("jax", "jaxlib", "flax", "numpy")
WEIGHTS = {
    "ema": "its EMA weights (exponential moving average: a running average of the weights over the "
    "training steps)",
    "raw": "its raw weights (as that step left them, not averaged)",
}
CHECKPOINT = {
    "last": "the last checkpoint (the newest, not chosen by its results)",
    "best": "the best checkpoint (of those evaluated during training, the one with the best "
    "results)",
}
BEST = (
    "The best checkpoint was chosen for its results on test pictures. Where they are the pictures "
    "below, the numbers flatter it."
)
MEANING = (
    "1 is perfect. AUROC: the chance that a defective picture (pixel) scores above a good one. "
    "AP: average precision, the area under the precision-recall curve. F1-max: the best balance "
    "of precision and recall over all thresholds, found at the threshold beside it. AUPRO: share "
    "of each defective region found, averaged up to 30 % (5 %) of good pixels called defective. "
    "Small numbers: 95 % confidence interval. -: not measured. n/a: not defined, a class is empty."
)
COLOURS = (
    "All maps have the same colours, in every picture: dark at 0, the middle one at the threshold "
    "of pixels, the brightest at twice that and above."
)
NO_MIDDLE = (
    "All maps have the same colours, in every picture: dark at 0, the brightest at the largest "
    "value of the whole set, for there is no threshold of pixels."
)


def write(path: epath.PathLike, evaluation: Evaluation, config: Config) -> None:
    """Write the report, an HTML file that opens anywhere, also without a network.

    Args:
      path: of the file to write, local or gs://.
      evaluation: of the whole test set; `cards.grouped` says which of a large one are shown. What
        is missing of its values shows as '-'.
      config: of the run, to be shown; `evaluate.exact_pictures` says what is a large set.
    """
    groups = cards.grouped(evaluation.judged, evaluation.cut)
    large = len(evaluation.judged.names) > config.evaluate.exact_pictures
    sections = [*_numbers(evaluation, large), *_curves(evaluation), *_pictures(evaluation, groups)]
    sections += _setting(evaluation, config)
    body = join([_head(evaluation, groups), element("main", join(sections))])
    files.write(path, document(evaluation.title, body))


def _head(evaluation: Evaluation, groups: Sequence[cards.Group]) -> Markup:
    """Heading, the result in a sentence, where its threshold comes from, and the contents."""
    bad, good = (_rows(evaluation, label).size for label in (1, 0))
    settings = evaluation.identity.settings
    checkpoint, weights = (str(settings[f"evaluate.{key}"]) for key in ("checkpoint", "weights"))
    links = [("numbers", "Numbers"), ("curves", "Curves")]
    links += [(f"group{i}", f"{group.title} ({group.total})") for i, group in enumerate(groups)]
    links.append(("configuration", "Configuration"))
    items = [element("li", element("a", name, href=f"#{anchor}")) for anchor, name in links]
    parts = [
        element("h1", evaluation.title),
        element("p", _result(evaluation), "lede"),
        _note(f"{_count(bad + good, 'picture')}: {bad} defective, {good} good."),
        *_left_out(evaluation),
        _note(_origin(evaluation)),
        _note(f"Scored with {CHECKPOINT[checkpoint]} and {WEIGHTS[weights]}."),
        *([_note(BEST)] if checkpoint == "best" else []),
        element("nav", element("ul", join(items)), aria_label="Contents"),
    ]
    return element("header", join(parts))


def _left_out(evaluation: Evaluation) -> Iterator[Markup]:
    if count := int(np.sum(evaluation.judged.unmarked)):
        measured = "pixel_auroc" in evaluation.values
        then = "pixel-level measures leave them out" if measured else "no pixel-level measures"
        yield _note(f"{count} defective without a mask: {then}.")


def _result(evaluation: Evaluation) -> str:
    """The verdicts in plain words."""
    bad, good = _rows(evaluation, 1), _rows(evaluation, 0)
    if math.isnan(evaluation.cut):
        return "There is no threshold: the pictures have scores, but no verdicts."
    words = []
    if bad.size:
        found = _called(evaluation, bad)
        words.append(f"{found} of {_count(bad.size, 'defective picture')} found")
    if good.size:
        alarms = _called(evaluation, good)
        words.append(f"{alarms} of {_count(good.size, 'good picture')} falsely called defective")
    return f"{', '.join(words)}, at threshold {evaluation.cut:.4g}."


def _origin(evaluation: Evaluation) -> str:
    """How the threshold was chosen, and what that means for a reader."""
    threshold = evaluation.threshold
    if threshold is None:
        return (
            "A threshold needs defective and good test pictures, or good pictures held out: kept "
            "out of training (data.holdout)."
        )
    kind, share = threshold_rule(threshold.source)
    if kind == "f1":
        words = (
            f"The threshold gives the best F1 on {_count(threshold.pictures, 'labelled picture')}"
        )
    elif kind == "recall":
        words = (
            f"The threshold is the highest that at least {100 * share:g} % of "
            f"{_count(threshold.pictures, 'defective picture')} reach"
        )
    else:
        words = (
            f"The threshold is the lowest that at most {100 * share:g} % of "
            f"{_count(threshold.pictures, 'good picture')} reach that training did not see: held "
            "out (kept out of it), or test pictures"
        )
    words = f"{words} (evaluate.threshold={threshold.source})."
    words += " Where these are the pictures below, expect slightly more mistakes on new ones."
    return " ".join([words, *_expected(evaluation, threshold)])


def _expected(evaluation: Evaluation, threshold: Threshold) -> Iterator[str]:
    """The shares of false alarms and of defects found, with their intervals."""
    for label, words, rate, ends in (
        (0, "False alarms", threshold.false_alarm_rate, threshold.false_alarm_interval),
        (1, "Defects found", threshold.recall, threshold.recall_interval),
    ):
        rows, what = _rows(evaluation, label), ("good picture", "defective picture")[label]
        if ends is None:
            continue
        of = f"{100 * rate:.1f} % of the {what}s held out of training"
        if rows.size:
            of = f"{_called(evaluation, rows)} of {_count(rows.size, what)}"
        yield f"{words}: {of}, {in_words(ends)}."


def _numbers(evaluation: Evaluation, large: bool) -> Iterator[Markup]:
    """The measures; the verdicts; the types of defect."""
    yield _heading("numbers", "Numbers")
    columns = tables.measure_columns()
    rows = [
        [f"{level}s", *(_measure(evaluation.values, column[row]) for column in columns)]
        for row, level in enumerate(("image", "pixel"), start=1)
    ]
    heads = ["", *(name for name, *_ in columns)]
    measures = table("How well the scores separate", heads, rows)
    yield element("div", join([*_verdicts(evaluation), measures]), "side")
    yield _note(f"{MEANING} {tables.repainting(evaluation.values)}")
    yield from _types(evaluation, large)


def _measure(values: Mapping[str, Any], key: str) -> Markup:
    """A number, and below it its confidence interval where there is one."""
    number = values.get(key)
    if key.endswith("threshold") and number is not None and not math.isnan(number):
        return join([f"{number:.4g}"])  # no share: it may be tiny
    value = join([tables.number(number)])
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return value
    return join([value, element("small", f"{low:.3f} – {high:.3f}")])


def _verdicts(evaluation: Evaluation) -> Iterator[Markup]:
    """What was called what."""
    if math.isnan(evaluation.cut):
        return
    rows = []
    for label, truth in ((1, "truly defective"), (0, "truly good")):
        members = _rows(evaluation, label)
        called = _called(evaluation, members)
        rows.append([truth, called, members.size - called])
    yield table("Verdicts (pictures)", ["", "called defective", "called good"], rows)


def _types(evaluation: Evaluation, large: bool) -> Iterator[Markup]:
    """A line for each type of defect, and one for the good pictures."""
    good = _rows(evaluation, 0)
    members: dict[str, list[int]] = {}
    for row in _rows(evaluation, 1).tolist():
        members.setdefault(evaluation.judged.defects[row], []).append(row)
    heads = ["type", "pictures", "called defective", "mean score", "lowest", "highest"]
    heads += ["image AUROC", "pixel AP", "AUPRO 0.30"]
    lines = []
    for name, rows in sorted(members.items()):
        counts, separation = _scores(evaluation, np.array(rows)), _separation(evaluation, rows)
        lines.append([name, *counts, separation, *_found(evaluation, rows, large)])
    if good.size:
        lines.append(["good", *_scores(evaluation, good), *map(tables.number, [None] * 3)])
    yield table("By type of defect", heads, lines)
    words = "Image AUROC: this type against all good pictures. Pixel AP and AUPRO: within the "
    words += "pictures of this type that have a mask"
    if large:
        words += "; not measured in a set of more than evaluate.exact_pictures"
    yield _note(f"{words}.")


def _scores(evaluation: Evaluation, rows: np.ndarray) -> list[object]:
    """Of some pictures: how many, how many called defective; mean, lowest and highest score."""
    scores, called = evaluation.judged.scores[rows], _called(evaluation, rows)
    share = f"{called} ({100 * called / rows.size:.0f} %)"
    share = "–" if math.isnan(evaluation.cut) else share
    return [rows.size, share, *(f"{v:.4g}" for v in (scores.mean(), scores.min(), scores.max()))]


def _separation(evaluation: Evaluation, rows: Sequence[int]) -> str:
    """Image AUROC of some defective pictures against all good ones."""
    judged, good = evaluation.judged, _rows(evaluation, 0)
    if not good.size:
        return tables.number(None)
    both = np.concatenate([rows, good])
    return tables.number(metrics.auroc(judged.labels[both], judged.scores[both]))


def _found(evaluation: Evaluation, rows: Sequence[int], large: bool) -> list[str]:
    """Pixel AP and AUPRO within those of some pictures that have a mask; '-' in a large set."""
    missing, judged = [tables.number(None)] * 2, evaluation.judged
    known = [row for row in rows if not judged.unmarked[row]]
    masks = np.array([judged.truth(row) for row in known], bool)
    if large or not masks.any() or masks.all():
        return missing
    found = metrics.of_pixels(ranking.rank_pixels(masks, judged.maps[known]))
    return [tables.number(found[key]) for key in ("pixel_ap", "aupro_30")]


def _curves(evaluation: Evaluation) -> Iterator[Markup]:
    """ROC and precision-recall curves of pictures and pixels, and the histogram of the scores."""
    judged, cut = evaluation.judged, evaluation.cut
    bad, good = _rows(evaluation, 1), _rows(evaluation, 0)
    yield _heading("curves", "Curves")
    ranked: dict[str, ranking.Ranking] = {}
    if bad.size and good.size:
        ranked["pictures"] = ranking.rank_items(judged.labels, judged.scores, "pictures")
    if evaluation.pixels is not None:
        ranked["pixels"] = evaluation.pixels
    lines = {name: line for name, of in ranked.items() if (line := charts.curve(of)) is not None}
    drawn = []
    if lines:
        roc = rank = None
        if not math.isnan(cut) and "pictures" in lines:
            found, alarms = _called(evaluation, bad), _called(evaluation, good)
            roc = (alarms / good.size, found / bad.size)
            rank = (found / bad.size, found / (found + alarms)) if found + alarms else None
        drawn.append(("ROC curve", charts.roc_chart(lines, roc)))
        drawn.append(("Precision and recall", charts.precision_recall_chart(lines, rank)))
    histogram = charts.histogram_chart(judged.labels, judged.scores, cut)
    drawn.append(("Scores of the pictures", histogram))
    figures = [
        element("figure", join([element("figcaption", name), chart])) for name, chart in drawn
    ]
    yield element("div", join(figures), "charts")


def _pictures(evaluation: Evaluation, groups: Sequence[cards.Group]) -> Iterator[Markup]:
    """A section for each group, with a note on what is not shown."""
    scale = drawing.full_scale(evaluation.pixel_cut, evaluation.judged.maps)
    yield _heading("pictures", "Pictures")
    shown, total = sum(len(g.rows) for g in groups), sum(g.total for g in groups)
    if shown < total:
        yield _note(
            f"{shown} of {total} pictures are shown: the worst mistakes and, of those judged "
            f"correctly, an evenly spaced sample. scores.csv lists all."
        )
    yield cards.legend(scale, evaluation.pixel_cut)
    yield _note(COLOURS if evaluation.pixel_cut > 0 else NO_MIDDLE)
    for i, group in enumerate(groups):
        count = str(group.total)
        if len(group.rows) < group.total:
            count = f"{len(group.rows)} of {group.total} shown"
        yield _heading(f"group{i}", f"{group.title} ({count})", "h3")
        yield _note(group.order)
        for row in group.rows:
            yield cards.card(evaluation, row, scale)


def _setting(evaluation: Evaluation, config: Config) -> Iterator[Markup]:
    """What the scores were made with, what the report was made on, and the run's configuration."""
    yield _heading("configuration", "Configuration and versions")
    made = tables.made_with(evaluation.identity)
    lines = [[name, value, tables.MEANINGS.get(name, "")] for name, value in made.items()]
    yield table("What the scores were made with", ["", "value", "meaning"], lines, style="words")
    devices = jax.devices()
    versions = [[name, importlib.metadata.version(name)] for name in PACKAGES]
    versions.append(["Python", platform.python_version()])
    versions.append(["device", f"{len(devices)} × {devices[0].device_kind}"])
    yield table("Versions", ["", "version"], versions, style="words")
    lines = [[name, value] for name, value in _flat(config.to_dict())]
    keys = table("Configuration of the run", ["key", "value"], lines, style="words")
    yield element("details", join([element("summary", "Configuration of the run"), keys]))


def _rows(evaluation: Evaluation, label: int) -> np.ndarray:
    """The defective (1) or the good (0) pictures."""
    return np.flatnonzero(evaluation.judged.labels == label)


def _called(evaluation: Evaluation, rows: np.ndarray) -> int:
    """How many of these pictures are called defective."""
    return int((evaluation.judged.scores[rows] >= evaluation.cut).sum())


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", repr(value)


def _heading(anchor: str, name: str, level: str = "h2") -> Markup:
    return element(level, name, id=anchor)


def _note(words: str) -> Markup:
    return element("p", words, "faint")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
