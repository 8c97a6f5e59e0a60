"""The pictures of a report: which ones, in which order, and each with its map beside it."""

import base64
import dataclasses
import io
import math
from collections.abc import Sequence

import contourpy
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from PIL import Image

from diffad_jax.reporting import drawing
from diffad_jax.reporting.html import Html, element, join, text
from diffad_jax.scoring import results

NOTHING = Html("")
MOST = 200  # pictures in a page, so that a browser opens it at once
MOST_WRONG = 60  # misses among them, and as many false alarms
SIDE = 256  # px; larger pictures are shrunk to no more
QUALITY = {"quality": 80, "method": 2}  # WebP; a slower method saves 3 %


@dataclasses.dataclass(frozen=True)
class Group:
    """Pictures judged alike. rows: those to show, in order; total: how many there are."""

    title: str
    order: str
    rows: Sequence[int]
    total: int


def choose(
    labels: Int32[np.ndarray, " n"],
    defects: Sequence[str],
    scores: Float[np.ndarray, " n"],
    threshold: float,
) -> list[Group]:
    """The pictures to show: the worst misses and false alarms first, then the others by type.

    All of them where the set has at most MOST; else the MOST_WRONG worst of both kinds of mistakes
    and a sample of the others, taken at even distances in the set's order. With a NaN threshold
    there are no mistakes.
    """
    wrong: dict[int, list[int]] = {0: [], 1: []}
    right: dict[tuple[int, str], list[int]] = {}
    for row, (label, defect) in enumerate(zip(labels.tolist(), defects, strict=True)):
        called = results.verdict(float(scores[row]), threshold)
        if called and (called == "defective") != bool(label):
            wrong[label].append(row)
        else:
            right.setdefault((-label, defect if label else "good"), []).append(row)

    def ordered(rows: Sequence[int], label: int) -> list[int]:
        """The least convincing first: low scores of defective ones, high ones of good ones."""
        return sorted(rows, key=lambda row: scores[row] if label else -scores[row])

    limit = MOST if len(labels) <= MOST else MOST_WRONG
    missed, alarms = ordered(wrong[1], 1)[:limit], ordered(wrong[0], 0)[:limit]
    groups = [
        Group("Missed defects", "the lowest score first", missed, len(wrong[1])),
        Group("False alarms", "the highest score first", alarms, len(wrong[0])),
    ]
    shown = results.sample(right, MOST - len(missed) - len(alarms))
    for (sign, defect), members in sorted(right.items()):
        verdict = "" if math.isnan(threshold) else ", found" if sign else ", passed"
        order = "the lowest score first" if sign else "the highest score first"
        rows = ordered(shown[sign, defect], -sign)
        groups.append(Group(f"{defect}{verdict}", order, rows, len(members)))
    return [group for group in groups if group.total]


def pictures(evaluation: results.Evaluation, row: int, scale: float, threshold: float) -> Html:
    """One picture: what it is and how it was judged, then the five views that `report` names."""
    name, label = evaluation.names[row], evaluation.labels[row]
    score = float(evaluation.scores[row])
    called = results.verdict(score, threshold)
    lines = [
        element("h4", _breakable(name)),
        element("p", evaluation.defects[row]),
        element("p", f"score {score:.4g}"),
    ]
    if called and (called == "defective") != bool(label):
        remark = "missed" if label else "false alarm"
        lines.append(element("p", f"✗ {remark}: called {called}", "wrong"))
    elif called:
        lines.append(element("p", f"✓ called {called}"))
    views = _views(evaluation, row, scale)
    outline = NOTHING if views[1] is None else _outline(views[1])
    cells = []
    for kind, view in zip(drawing.COLUMNS, views, strict=True):
        cell = _cell(view, f"{kind} of {name}", outline if kind == "overlay" else NOTHING)
        cells.append(element("figure", join([cell, element("figcaption", kind)])))
    return element("article", join([element("header", join(lines)), *cells]), "picture")


def legend(scale: float, pixel_threshold: float) -> Html:
    """The colours of all maps with their numbers, and the line that marks the truth."""
    stops = "".join(
        f'<stop offset="{share:.3f}" stop-color="{_hex(share)}"/>'
        for share in np.linspace(0, 1, 17)
    )
    marks = _mark(0.0, "0", 54) + _mark(1.0, f"{scale:.3g}", 54)
    if 0 < pixel_threshold < scale:
        marks += _mark(pixel_threshold / scale, f"threshold of pixels {pixel_threshold:.3g}", 11)
    bar = Html(
        f'<svg viewBox="0 0 400 56" role="img" aria-label="Colour scale of all anomaly maps, from 0'
        f' (dark) to {scale:.3g} (bright)"><defs><linearGradient id="scale">{stops}'
        f'</linearGradient></defs><rect y="20" width="400" height="18" fill="url(#scale)"/>'
        f"{marks}</svg>"
    )
    key = Html('<span><span class="key"></span>outline of the true defect</span>')
    return element("div", join([bar, key]), "legend")


def _breakable(name: str) -> Html:
    """A file name that a line may break in at its parts."""
    return Html(text(name).replace("/", "/<wbr>").replace("_", "_<wbr>"))


def _mark(share: float, label: str, y: int) -> str:
    """A number above or below the colour bar, within its ends, and a tick to it."""
    anchor = "start" if share < 0.3 else "end" if share > 0.7 else "middle"
    x, ends = f"{400 * share:.1f}", (38, 43) if y > 20 else (14, 20)
    return (
        f'<line x1="{x}" x2="{x}" y1="{ends[0]}" y2="{ends[1]}"/>'
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{label}</text>'
    )


def _cell(picture: np.ndarray | None, words: str, over: Html = NOTHING) -> Html:
    """A square with a picture and what lies over it, or with the note that there is none."""
    if picture is None:
        return element("div", element("span", "no mask", "none"), "cell")
    return element("div", join([_image(picture, words), over]), "cell")


def _views(evaluation: results.Evaluation, row: int, scale: float) -> list[np.ndarray | None]:
    """`report.views` of at most SIDE px."""
    truth = evaluation.truth(row)
    return drawing.views(
        _shrink(evaluation.images[row], np.mean),
        None if truth is None else _shrink(truth, np.max),
        _shrink(evaluation.reconstructions[row], np.mean),
        _shrink(evaluation.maps[row], np.max),  # a small peak must stay to be seen
        scale,
    )


def _shrink(values: np.ndarray, how) -> np.ndarray:
    """[s, s, ...] in blocks of whole pixels, at most SIDE a side; `how` joins a block."""
    side = values.shape[0]
    block = next(k for k in range(1, side + 1) if side % k == 0 and side // k <= SIDE)
    if block == 1:
        return values
    blocks = values.reshape(side // block, block, side // block, block, *values.shape[2:])
    return how(blocks, axis=(1, 3)).astype(values.dtype)


def _image(picture: UInt8[np.ndarray, "h w 3"] | Bool[np.ndarray, "h w"], words: str) -> Html:
    """The picture as an <img> that carries its own data."""
    buffer = io.BytesIO()
    kind, options = ("png", {}) if picture.dtype == bool else ("webp", QUALITY)
    Image.fromarray(picture).save(buffer, kind, **options)
    data = base64.b64encode(buffer.getvalue()).decode()
    height, width = picture.shape[:2]
    return Html(
        f'<img alt="{text(words)}" width="{width}" height="{height}" decoding="async" '
        f'src="data:image/{kind};base64,{data}">'
    )


def _outline(truth: Bool[np.ndarray, "h w"]) -> Html:
    """The border of the truth, drawn with the same width at every size of the picture."""
    rows, columns = truth.shape
    paths = []
    for line in contourpy.contour_generator(z=np.pad(truth, 1).astype(np.float32)).lines(0.5):
        steps = np.diff(line, axis=0)
        turns = steps[1:, 0] * steps[:-1, 1] != steps[1:, 1] * steps[:-1, 0]
        corners = line[np.concatenate([[True], turns, [True]])] - 0.5  # the first pixel's centre
        paths.append("M" + "L".join(f"{x:g} {y:g}" for x, y in corners))
    path = f'<path d="{"".join(paths)}"/>' if paths else ""
    return Html(f'<svg viewBox="0 0 {columns} {rows}" aria-hidden="true">{path}</svg>')


def _hex(share: float) -> str:
    return matplotlib.colors.to_hex(matplotlib.colormaps[drawing.COLOURS](float(share)))
