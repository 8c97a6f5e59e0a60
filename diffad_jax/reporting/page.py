"""The report of an evaluation that people read: one HTML file with everything in it.

It begins with the verdicts in plain words and ends with the configuration; between them stand the
measures, the curves and the pictures, the worst mistakes first. Nothing is loaded from elsewhere,
no script runs, and the same input gives the same bytes.
"""

import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

import diffad_jax
from configs.schema import Config
from diffad_jax.reporting import cards, charts, drawing, tables
from diffad_jax.reporting.html import Html, document, element, join, table
from diffad_jax.runs.files import write as write_file
from diffad_jax.scoring import metrics, results
from diffad_jax.scoring.threshold import Threshold

PACKAGES = ("jax", "jaxlib", "flax", "numpy")
WEIGHTS = {"ema": "averaged weights (EMA)", "raw": "raw weights"}
MEASURES = (
    ("auroc", "AUROC"),
    ("ap", "AP"),
    ("f1_max", "F1-max"),
    ("f1_threshold", "its threshold"),
    ("aupro_30", "AUPRO 0.30"),
    ("aupro_05", "AUPRO 0.05"),
)
MEANING = (
    "1 is perfect. AUROC: the chance that a defective picture (pixel) scores above a good one. "
    "AP: average precision, the area under the precision-recall curve. F1-max: the best balance "
    "of precision and recall over all thresholds. AUPRO: share of each defective region found, "
    "averaged up to 30 % (5 %) of good pixels called defective."
)
BEST = (
    "evaluate.checkpoint=best: where this step was chosen for its results on these very pictures, "
    "the numbers flatter it."
)


@dataclasses.dataclass(frozen=True, eq=False)
class _Case:
    """All that a report is about; the sections below read it."""

    step: int
    evaluation: results.Evaluation
    values: Mapping[str, Any]
    pixels: metrics.Ranking | None
    threshold: Threshold | None
    config: Config

    @property
    def cut(self) -> float:
        """The threshold of pictures; NaN where there is none."""
        return math.nan if self.threshold is None else self.threshold.image

    @property
    def title(self) -> str:
        return f"{self.config.data.category}, step {self.step}"

    @property
    def large(self) -> bool:
        """Whether the maps may be too many to hold them in memory."""
        return len(self.evaluation.names) > self.config.evaluate.exact_pictures

    def rows(self, label: int) -> np.ndarray:
        """The defective (1) or the good (0) pictures."""
        return np.flatnonzero(self.evaluation.labels == label)

    def called(self, rows: np.ndarray) -> int:
        """How many of these pictures are called defective."""
        return int((self.evaluation.scores[rows] >= self.cut).sum())


def write(
    path: epath.PathLike,
    step: int,
    evaluation: results.Evaluation,
    values: Mapping[str, Any],
    pixels: metrics.Ranking | None,
    threshold: Threshold | None,
    config: Config,
) -> None:
    """Write the report, an HTML file that opens anywhere, also without a network.

    Args:
      path: of the file to write, local or gs://.
      step: of the checkpoint.
      evaluation: the whole test set; `gallery.choose` says which of a large one are shown.
      values: as `metrics.evaluate` returns them; what is missing shows as '-'.
      pixels: the ranking of all pixels, for their curves; None where no truth is known.
      threshold: from which score on a picture counts as defective; None: no verdicts.
      config: of the run.
    """
    case = _Case(step, evaluation, values, pixels, threshold, config)
    groups = cards.choose(evaluation.labels, evaluation.defects, evaluation.scores, case.cut)
    sections = [*_numbers(case), *_curves(case), *_pictures(case, groups), *_setting(config)]
    body = join([_head(case, groups), element("main", join(sections))])
    write_file(epath.Path(path), document(case.title, body))


def _head(case: _Case, groups: Sequence[cards.Group]) -> Html:
    """Heading, the result in a sentence, where its threshold comes from, and the contents."""
    bad, good = len(case.rows(1)), len(case.rows(0))
    about = f"{WEIGHTS[case.config.evaluate.weights]} · {_count(bad + good, 'picture')}: "
    links = [("numbers", "Numbers"), ("curves", "Curves")]
    links += [(f"group{i}", f"{group.title} ({group.total})") for i, group in enumerate(groups)]
    links.append(("configuration", "Configuration"))
    items = [
        element("li", Html(f'<a href="#{anchor}">{join([name])}</a>')) for anchor, name in links
    ]
    parts = [
        element("h1", case.title),
        element("p", f"{about}{bad} defective, {good} good", "faint"),
        element("p", _result(case), "lede"),
        element("p", _origin(case), "faint"),
        *([_note(BEST)] if case.config.evaluate.checkpoint == "best" else []),
        Html(f'<nav aria-label="Contents">{element("ul", join(items))}</nav>'),
    ]
    return element("header", join(parts))


def _result(case: _Case) -> str:
    """The verdicts in plain words."""
    bad, good = case.rows(1), case.rows(0)
    if math.isnan(case.cut):
        return "There is no threshold: the pictures have scores, but no verdicts."
    words = []
    if bad.size:
        words.append(f"{case.called(bad)} of {_count(bad.size, 'defective picture')} found")
    if good.size:
        words.append(
            f"{case.called(good)} of {_count(good.size, 'good picture')} falsely called defective"
        )
    return f"{', '.join(words)}, at threshold {case.cut:.4g}."


def _origin(case: _Case) -> str:
    """How the threshold was chosen, and what that means for a reader."""
    threshold = case.threshold
    if threshold is None:
        return "A threshold needs defective and good pictures, or good ones kept out of training."
    if threshold.source == "f1_max":
        words = f"The threshold gives the best F1 on {threshold.pictures} labelled pictures."
    else:
        share = "" if threshold.quantile is None else f"{100 * threshold.quantile:g} % "
        count = _count(threshold.pictures, "good picture")
        words = f"The threshold is the {share}quantile of the scores of {count}."
    words += " Where these are the pictures below, expect slightly more mistakes on new ones."
    if not math.isnan(threshold.false_alarm_rate) and not case.rows(0).size:
        rate = 100 * threshold.false_alarm_rate
        words += f" It calls {rate:.1f} % of good pictures defective."
    if threshold.step != case.step:
        words += f" It was found at step {threshold.step}."
    return words


def _numbers(case: _Case) -> Iterator[Html]:
    """The measures; the verdicts; the types of defect."""
    yield _heading("numbers", "Numbers")
    rows = []
    for level in ("image", "pixel"):
        keys = [key if key.startswith("aupro") else f"{level}_{key}" for key, _ in MEASURES]
        keys = ["" if level == "image" and key.startswith("aupro") else key for key in keys]
        rows.append([f"{level}s", *(_measure(case.values, key) for key in keys)])
    heads = ["", *(name for _, name in MEASURES)]
    measures = table("How well the scores separate", heads, rows)
    yield element("div", join([*_verdicts(case), measures]), "side")
    yield _note(MEANING)
    yield from _types(case)


def _measure(values: Mapping[str, Any], key: str) -> Html:
    """A number, and below it its confidence interval where there is one."""
    number = values.get(key)
    if key.endswith("threshold") and number is not None and not math.isnan(number):
        return join([f"{number:.4g}"])  # no share: it may be tiny
    value = join([tables.number(number)])
    low, high = values.get(f"{key}_low"), values.get(f"{key}_high")
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return value
    return join([value, element("small", f"{low:.3f} – {high:.3f}")])


def _verdicts(case: _Case) -> Iterator[Html]:
    """What was called what."""
    if math.isnan(case.cut):
        return
    rows = []
    for label, truth in ((1, "truly defective"), (0, "truly good")):
        members = case.rows(label)
        called = case.called(members)
        rows.append([truth, called, members.size - called])
    yield table("Verdicts (pictures)", ["", "called defective", "called good"], rows)


def _types(case: _Case) -> Iterator[Html]:
    """A line for each type of defect, and one for the good pictures."""
    evaluation, good = case.evaluation, case.rows(0)
    members: dict[str, list[int]] = {}
    for row in case.rows(1):
        members.setdefault(evaluation.defects[row], []).append(row)
    heads = ["type", "pictures", "called defective", "mean score", "lowest", "highest"]
    heads += ["image AUROC", "pixel AP", "AUPRO 0.30"]
    lines = [_type_line(case, name, np.array(rows), good) for name, rows in sorted(members.items())]
    if good.size:
        lines.append(_type_line(case, "good", good, None))
    yield table("By type of defect", heads, lines)
    words = "Image AUROC: this type against all good pictures. Pixel AP and AUPRO: within the "
    words += "pictures of this type"
    if case.large:
        words += "; not measured in a set of more than evaluate.exact_pictures"
    yield _note(f"{words}.")


def _type_line(case: _Case, name: str, rows: np.ndarray, good: np.ndarray | None) -> list[object]:
    """Counts, scores and measures of one type; `good` None for the good pictures themselves."""
    evaluation = case.evaluation
    scores = evaluation.scores[rows]
    called = case.called(rows)
    share = "–" if math.isnan(case.cut) else f"{called} ({100 * called / rows.size:.0f} %)"
    line = [name, rows.size, share, f"{scores.mean():.4g}"]
    line += [f"{scores.min():.4g}", f"{scores.max():.4g}"]
    auroc = ap = aupro = None
    if good is not None and good.size:
        both = np.concatenate([rows, good])
        auroc = metrics.auroc(evaluation.labels[both], evaluation.scores[both])
    masks = _truths(case, rows) if good is not None else None
    if masks is not None and masks.any() and not masks.all():
        found = metrics.of_pixels(metrics.rank_pixels(masks, evaluation.maps[rows]))
        ap, aupro = found["pixel_ap"], found["aupro_30"]
    return [*line, tables.number(auroc), tables.number(ap), tables.number(aupro)]


def _truths(case: _Case, rows: np.ndarray) -> np.ndarray | None:
    """The masks of some pictures, bool[n, s, s]; None where one is missing, or in a large set."""
    if case.large:
        return None
    truths = [case.evaluation.truth(row) for row in rows.tolist()]
    return None if any(truth is None for truth in truths) else np.stack(truths)


def _curves(case: _Case) -> Iterator[Html]:
    """ROC and precision-recall curves of pictures and pixels, and the histogram of the scores."""
    evaluation = case.evaluation
    yield _heading("curves", "Curves")
    lines = {}
    if case.rows(1).size and case.rows(0).size:
        ranking = metrics.rank_items(evaluation.labels, evaluation.scores, "pictures")
        lines["pictures"] = charts.curve(ranking)
    lines["pixels"] = None if case.pixels is None else charts.curve(case.pixels)
    lines = {name: line for name, line in lines.items() if line is not None}
    figures = []
    if lines:
        found, alarms = (case.called(rows) / max(rows.size, 1) for rows in map(case.rows, (1, 0)))
        called = case.called(np.arange(len(evaluation.names)))
        roc = rank = None
        if not math.isnan(case.cut) and "pictures" in lines:
            roc = (alarms, found)
            rank = (found, case.called(case.rows(1)) / called) if called else None
        figures.append(("ROC curve", charts.roc_chart(lines, roc)))
        figures.append(("Precision and recall", charts.precision_recall_chart(lines, rank)))
    histogram = charts.histogram_chart(evaluation.labels, evaluation.scores, case.cut)
    figures.append(("Scores of the pictures", histogram))
    figures = [
        element("figure", join([element("figcaption", name), chart])) for name, chart in figures
    ]
    yield element("div", join(figures), "charts")


def _pictures(case: _Case, groups: Sequence[cards.Group]) -> Iterator[Html]:
    """A section for each group, with a note on what is not shown."""
    scale = drawing.full_scale(case.evaluation.maps)
    yield _heading("pictures", "Pictures")
    shown, total = sum(len(g.rows) for g in groups), sum(g.total for g in groups)
    if shown < total:
        yield _note(
            f"{shown} of {total} pictures are shown: the worst mistakes and, of those judged "
            f"rightly, a sample at even distances in the set's order. scores.csv has all."
        )
    yield cards.legend(scale, math.nan if case.threshold is None else case.threshold.pixel)
    for i, group in enumerate(groups):
        count = str(group.total)
        if len(group.rows) < group.total:
            count = f"{len(group.rows)} of {group.total} shown"
        yield _heading(f"group{i}", f"{group.title} ({count})", "h3")
        yield _note(group.order)
        for row in group.rows:
            yield cards.pictures(case.evaluation, row, scale, case.cut)


def _setting(config: Config) -> Iterator[Html]:
    """The configuration, folded, and what the evaluation ran on."""
    yield _heading("configuration", "Configuration and versions")
    devices = jax.devices()
    versions = [["diffad_jax", diffad_jax.__version__]]
    versions += [[name, importlib.metadata.version(name)] for name in PACKAGES]
    versions.append(["Python", platform.python_version()])
    versions.append(["device", f"{len(devices)} × {devices[0].device_kind}"])
    yield table("Versions", ["", "version"], versions, style="words")
    lines = [[name, value] for name, value in _flat(config.to_dict())]
    keys = table("Configuration", ["key", "value"], lines, style="words")
    yield element("details", join([element("summary", "Configuration"), keys]))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", repr(value)


def _heading(anchor: str, name: str, level: str = "h2") -> Html:
    return Html(f'<{level} id="{anchor}">{join([name])}</{level}>')


def _note(words: str) -> Html:
    return element("p", words, "faint")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
