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

from diffad_jax.reporting.html import Html, text
from diffad_jax.scoring.metrics import Ranking

# Lengths in units of the drawing, which a browser scales to the room there is.
WIDTH, HEIGHT = 400, 320
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
    at = [np.searchsorted(rates, shares * rates[-1]) for rates in (recall, alarms)]
    at = np.union1d(*at)
    # Up to a score only false alarms grow; at it, recall does, with the false alarms that tie.
    roc = [[0.0, 0.0], *_pairs((above, before), (alarms, recall), at), [1.0, 1.0]]
    return Curve(np.array(roc), _pairs((before, precision), (recall, precision), at))


def _pairs(left: Sequence[np.ndarray], right: Sequence[np.ndarray], at: np.ndarray) -> np.ndarray:
    """For each of `at` the point of the left line, then that of the right one: [2k, 2]."""
    points = [np.stack([xs[at] for xs in side], axis=1) for side in (left, right)]
    return np.stack(points, axis=1).reshape(-1, 2)


def roc_chart(lines: Mapping[str, Curve], mark: tuple[float, float] | None) -> Html:
    """False alarms against recall; one line a name, and a ring where the threshold in use lies."""
    points = {name: line.roc for name, line in lines.items()}
    axes = ("false alarms: good called defective", "recall: defective found")
    return _line_chart("ROC curve", axes, points, mark)


def precision_recall_chart(lines: Mapping[str, Curve], mark: tuple[float, float] | None) -> Html:
    """Recall against precision, as `roc_chart`."""
    points = {name: line.precision_recall for name, line in lines.items()}
    axes = ("recall: defective found", "precision: rightly called so")
    return _line_chart("Precision and recall", axes, points, mark)


def histogram_chart(
    labels: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], threshold: float
) -> Html:
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
        x = f"{_x((threshold - low) / (high - low)):.2f}"
        line = f'x1="{x}" x2="{x}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"'
        parts.append(f'<line class="threshold" {line}/>')
        note = f"threshold {threshold:.4g}, called defective from there on"
        parts.append(_key(LEFT, "line", "threshold", note))
        words += f" below; the threshold is at {threshold:.4g}"
    return _svg("Scores", words + ".", parts)


def _key(x: float, shape: str, style: str, words: str) -> str:
    """What a line or a ring means, below the axis."""
    y = HEIGHT - 8
    if shape == "line":
        drawn = f'<line class="{style}" x1="{x}" x2="{x + 26}" y1="{y - 4}" y2="{y - 4}"/>'
    else:
        drawn = f'<circle class="{style}" cx="{x + 13}" cy="{y - 4}" r="5"/>'
    return f'{drawn}<text x="{x + 32}" y="{y}">{text(words)}</text>'


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


def _svg(name: str, words: str, parts: Sequence[str]) -> Html:
    return Html(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{text(name)}: {text(words)}">{"".join(parts)}</svg>'
    )


def _x_axis(ticks: Sequence[tuple[float, str]], name: str) -> str:
    bottom = HEIGHT - BOTTOM
    marks = "".join(
        f'<line class="grid" x1="{x:.2f}" x2="{x:.2f}" y1="{TOP}" y2="{bottom}"/>'
        f'<text x="{x:.2f}" y="{bottom + 16}" text-anchor="middle">{label}</text>'
        for x, label in ticks
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'{marks}<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle">{text(name)}</text>'
    )


def _y_axis(ticks: Sequence[tuple[float, str]], name: str) -> str:
    marks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.2f}" y2="{y:.2f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.2f}" text-anchor="end">{label}</text>'
        for y, label in ticks
    )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'{marks}<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{text(name)}</text>"
    )


def _line_chart(
    name: str,
    axes: tuple[str, str],
    lines: Mapping[str, np.ndarray],
    mark: tuple[float, float] | None,
) -> Html:
    """Lines in the unit square, and the key to them below."""
    shares = [(value, f"{value:g}") for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    parts = [
        _x_axis([(_x(value), label) for value, label in shares], axes[0]),
        _y_axis([(_y(value), label) for value, label in shares], axes[1]),
    ]
    for number, (label, points) in enumerate(lines.items(), start=1):
        path = " ".join(f"{_x(x):.2f},{_y(y):.2f}" for x, y in points)
        parts.append(f'<polyline class="line c{number}" points="{path}"/>')
        parts.append(_key(LEFT + 95 * (number - 1), "line", f"line c{number}", label))
    if mark is not None:
        parts.append(f'<circle class="mark" cx="{_x(mark[0]):.2f}" cy="{_y(mark[1]):.2f}" r="5"/>')
        parts.append(_key(LEFT + 95 * len(lines), "ring", "mark", "threshold in use"))
    return _svg(name, f"{axes[1]}, against {axes[0]}.", parts)


def _bars(counts: np.ndarray, kind: str, style: str, above: float, room: float) -> str:
    """One half of the histogram: bars on a base line, the largest count at the axis."""
    largest = max(int(counts.max()), 1)
    base, width = above + room, (WIDTH - LEFT - RIGHT) / len(counts)
    tall = (room - 18) / largest
    bars = "".join(
        f'<rect class="bar {style}" x="{LEFT + i * width + 0.5:.2f}" y="{base - count * tall:.2f}" '
        f'width="{width - 1:.2f}" height="{count * tall:.2f}"><title>{count}</title></rect>'
        for i, count in enumerate(counts)
        if count
    )
    return (
        f'{bars}<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base:.2f}" '
        f'y2="{base:.2f}"/><text x="{LEFT - 6}" y="{base - largest * tall + 4:.2f}" '
        f'text-anchor="end">{largest}</text>'
        f'<text x="{LEFT - 6}" y="{base:.2f}" text-anchor="end">0</text>'
        f'<text transform="translate(13 {above + room / 2:.2f}) rotate(-90)" '
        f'text-anchor="middle">{kind}</text>'
    )
