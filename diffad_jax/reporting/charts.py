"""Charts of an evaluation as SVG: ROC curve, precision-recall curve, histogram of the scores.

Drawn to be put into a page: colours come from the page's style sheet, so that a chart follows it
into dark mode and onto paper, and lines differ in dashes as well as in colour. The same input gives
the same text.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from diffad_jax.reporting.html import element, join
from diffad_jax.scoring.ranking import Ranking

# Lengths in units of the drawing, which a browser scales to the room there is.
WIDTH, HEIGHT = 400.0, 320.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 8.0, 66.0  # room around the axes
BINS = 40
POINTS = 400  # of a line; a screen shows no more
NICE = (0.2, 0.5, 1.0, 2.0)  # steps of an axis that ends between 1 and 10


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """How well thresholds separate two classes, as lines in the unit square.

    roc: (share of the good that reach a threshold, share of the defective), from (0, 0) to (1, 1);
    the area below is the AUROC. precision_recall: (share of the defective that reach a threshold,
    share of defective ones among all that do), as steps; the area below is the AP.
    """

    roc: Float[np.ndarray, "p 2"]
    precision_recall: Float[np.ndarray, "q 2"]


def curve(ranking: Ranking) -> Curve | None:
    """The curves through every distinct score; None where a class is empty.

    Of many thresholds only those are kept at which a share reaches a multiple of 1 / POINTS. All
    points stay exact, the lines between them are then not.
    """
    if not ranking.scores.size:
        return None
    recall = ranking.hits / ranking.defective
    before = np.concatenate([[0.0], recall[:-1]])
    above = ranking.false_alarms_above / ranking.good
    alarms = ranking.false_alarms / ranking.good
    precision = ranking.hits / (ranking.hits + ranking.false_alarms)
    shares = np.linspace(0, 1, POINTS)
    by_recall, by_alarms = (np.searchsorted(xs, shares * xs[-1]) for xs in (recall, alarms))
    at = np.union1d(by_recall, by_alarms)
    # Up to a score only false alarms grow; at it, recall does, with the false alarms that tie.
    roc = [[0.0, 0.0], *_pairs((above, before), (alarms, recall), at), [1.0, 1.0]]
    return Curve(np.array(roc), _pairs((before, precision), (recall, precision), at))


def _pairs(left: Sequence[np.ndarray], right: Sequence[np.ndarray], at: np.ndarray) -> np.ndarray:
    """For each of `at` the point of the left line, then that of the right one: [2k, 2]."""
    points = [np.stack([xs[at] for xs in side], axis=1) for side in (left, right)]
    return np.stack(points, axis=1).reshape(-1, 2)


def roc_chart(lines: Mapping[str, Curve], mark: tuple[float, float] | None) -> Markup:
    """False alarms against recall; one line a name, and a ring where the threshold in use lies."""
    points = {name: line.roc for name, line in lines.items()}
    axes = ("false alarms: good called defective", "recall: defective found")
    return _line_chart("ROC curve", axes, points, mark)


def precision_recall_chart(lines: Mapping[str, Curve], mark: tuple[float, float] | None) -> Markup:
    """Recall against precision, as `roc_chart`."""
    points = {name: line.precision_recall for name, line in lines.items()}
    axes = ("recall: defective found", "precision: rightly called defective")
    return _line_chart("Precision and recall", axes, points, mark)


def histogram_chart(
    labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], threshold: float
) -> Markup:
    """Number of pictures by score: defective ones above, good ones below, one axis for both.

    The axis begins at 0, or at the lowest score where all lie far above 0. A NaN threshold draws no
    line. Each half has a scale of its own.
    """
    values = scores if math.isnan(threshold) else np.append(scores, threshold)
    low, high = float(values.min()), float(values.max())
    low = 0.0 if 0 <= low <= 0.5 * high else low
    high = high + 0.02 * (high - low) if high > low else low + 1.0
    edges = np.linspace(low, high, BINS + 1)
    middle = (HEIGHT - TOP - BOTTOM) / 2
    ticks = [(_x((value - low) / (high - low)), f"{value:g}") for value in _ticks(low, high)]
    parts = [_x_axis(ticks, "score of a picture")]
    for label, kind, style, above in ((1, "defective", "c2", TOP), (0, "good", "c1", TOP + middle)):
        counts, _ = np.histogram(scores[labels == label], edges)
        parts.append(_bars(counts, kind, style, above, middle))
    words = f"{int((labels == 1).sum())} defective pictures above, {int((labels == 0).sum())} good"
    if not math.isnan(threshold):
        x = _x((threshold - low) / (high - low))
        parts.append(_line("threshold", x, TOP - 6, x, HEIGHT - BOTTOM))
        note = f"threshold {threshold:.4g}: defective from there on"
        parts.append(_key(LEFT, "line", "threshold", note))
        words += f" below; the threshold is at {threshold:.4g}"
    return _svg("Scores", words + ".", parts)


def _line_chart(
    name: str,
    axes: tuple[str, str],
    lines: Mapping[str, np.ndarray],
    mark: tuple[float, float] | None,
) -> Markup:
    """Lines in the unit square, and the key to them below."""
    shares = [(value, f"{value:g}") for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    parts = [
        _x_axis([(_x(value), label) for value, label in shares], axes[0]),
        _y_axis([(_y(value), label) for value, label in shares], axes[1]),
    ]
    for number, (label, points) in enumerate(lines.items(), start=1):
        path = " ".join(f"{_x(x):.2f},{_y(y):.2f}" for x, y in points)
        parts.append(element("polyline", style=f"line c{number}", points=path))
        parts.append(_key(LEFT + 95 * (number - 1), "line", f"line c{number}", label))
    if mark is not None:
        parts.append(_ring(_x(mark[0]), _y(mark[1])))
        parts.append(_key(LEFT + 95 * len(lines), "ring", "mark", "threshold in use"))
    return _svg(name, f"{axes[1]}, against {axes[0]}.", parts)


def _bars(counts: np.ndarray, kind: str, style: str, above: float, room: float) -> Markup:
    """One half of the histogram: bars on a base line, the largest count at the axis."""
    largest = max(int(counts.max()), 1)
    base, width = above + room, (WIDTH - LEFT - RIGHT) / len(counts)
    tall = (room - 18) / largest
    parts = []
    for i in np.flatnonzero(counts).tolist():
        count = int(counts[i])
        place = {"x": _px(LEFT + i * width + 0.5), "y": _px(base - count * tall)}
        size = {"width": _px(width - 1), "height": _px(count * tall)}
        title = element("title", count)  # what a pointer shows
        parts.append(element("rect", title, f"bar {style}", **place, **size))
    parts.append(_line("axis", LEFT, base, WIDTH - RIGHT, base))
    parts.append(_label(largest, LEFT - 6, base - largest * tall + 4, "end"))
    parts.append(_label(0, LEFT - 6, base, "end"))
    parts.append(_upright(kind, above + room / 2))
    return join(parts)


def _x_axis(ticks: Sequence[tuple[float, str]], name: str) -> Markup:
    bottom = HEIGHT - BOTTOM
    parts = []
    for x, label in ticks:
        parts += [_line("grid", x, TOP, x, bottom), _label(label, x, bottom + 16)]
    parts.append(_line("axis", LEFT, bottom, WIDTH - RIGHT, bottom))
    parts.append(_label(name, (LEFT + WIDTH - RIGHT) / 2, bottom + 34))
    return join(parts)


def _y_axis(ticks: Sequence[tuple[float, str]], name: str) -> Markup:
    parts = []
    for y, label in ticks:
        parts += [_line("grid", LEFT, y, WIDTH - RIGHT, y), _label(label, LEFT - 6, y + 4, "end")]
    parts.append(_upright(name, (TOP + HEIGHT - BOTTOM) / 2))
    return join(parts)


def _key(x: float, shape: str, style: str, words: str) -> Markup:
    """What a line or a ring means, below the axis."""
    y = HEIGHT - 8
    line = shape == "line"
    drawn = _line(style, x, y - 4, x + 26, y - 4) if line else _ring(x + 13, y - 4)
    return join([drawn, _label(words, x + 32, y, "start")])


def _ring(x: float, y: float) -> Markup:
    return element("circle", style="mark", cx=_px(x), cy=_px(y), r=5)


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return element("line", style=style, x1=_px(x1), y1=_px(y1), x2=_px(x2), y2=_px(y2))


def _label(words: object, x: float, y: float, anchor: str = "middle") -> Markup:
    return element("text", words, x=_px(x), y=_px(y), text_anchor=anchor)


def _upright(words: str, y: float) -> Markup:
    """The name of a vertical axis, read from below."""
    turned = f"translate(13 {_px(y)}) rotate(-90)"
    return element("text", words, transform=turned, text_anchor="middle")


def _px(value: float) -> str:
    return f"{value:.2f}"


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, two to six of them."""
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(power * n for n in NICE if (high - low) / (power * n) <= 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{step * i:.6g}") for i in range(first, last + 1)]


def _svg(name: str, words: str, parts: Sequence[Markup]) -> Markup:
    about = {
        "viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}",
        "role": "img",
        "aria_label": f"{name}: {words}",
    }
    return element("svg", join(parts), "chart", **about)
