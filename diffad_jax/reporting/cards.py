"""The pictures of a report: which ones, in which order, and each with its map beside it."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool
from markupsafe import Markup

from diffad_jax.reporting import drawing
from diffad_jax.reporting.html import element, image, join, text
from diffad_jax.scoring import results

NOTHING = Markup("")
MOST = 200  # pictures in a page, so that a browser opens it at once
MOST_WRONG = 60  # misses among them, and as many false alarms
SIDE = 256  # px; larger pictures are shrunk to no more


@dataclasses.dataclass(frozen=True)
class Group:
    """Pictures judged alike. rows: those to show, in order; total: how many there are."""

    title: str
    order: str
    rows: Sequence[int]
    total: int


def grouped(judged: results.Judged, cut: float) -> list[Group]:
    """The pictures to show: the worst misses and false alarms first, then the others by type.

    All of them where the set has at most MOST; else the MOST_WRONG worst of both kinds of mistakes
    and a sample of the others, taken at even distances in the set's order. With a NaN `cut`
    there are no mistakes.
    """
    labels, scores = judged.labels, judged.scores
    wrong: dict[int, list[int]] = {0: [], 1: []}
    right: dict[tuple[int, str], list[int]] = {}
    for row, (label, defect) in enumerate(zip(labels.tolist(), judged.defects, strict=True)):
        called = results.verdict(float(scores[row]), cut)
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
        verdict = "" if math.isnan(cut) else ", found" if sign else ", passed"
        order = "the lowest score first" if sign else "the highest score first"
        rows = ordered(shown[sign, defect], -sign)
        groups.append(Group(f"{defect}{verdict}", order, rows, len(members)))
    return [group for group in groups if group.total]


def card(evaluation: results.Evaluation, row: int, scale: float) -> Markup:
    """One picture: what it is and how it was judged, then its `drawing.views`."""
    judged = evaluation.judged
    name, label = judged.names[row], judged.labels[row]
    score, sure = float(judged.scores[row]), float(evaluation.confidences[row])
    called = results.verdict(score, evaluation.cut)
    lines = [
        element("h4", _breakable(name)),
        element("p", judged.defects[row]),
        element("p", f"score {score:.4g}"),
    ]
    if not math.isnan(sure):
        lines.append(element("p", f"confidence {sure:.2f}"))
    if called and (called == "defective") != bool(label):
        remark = "missed" if label else "false alarm"
        lines.append(element("p", f"✗ {remark}: called {called}", "wrong"))
    elif called:
        lines.append(element("p", f"✓ called {called}"))
    views = _views(judged, row, scale)
    outline = NOTHING if views[1] is None else _outline(views[1])
    cells = []
    for kind, view in zip(drawing.COLUMNS, views, strict=True):
        cell = _cell(view, f"{kind} of {name}", outline if kind == "overlay" else NOTHING)
        cells.append(element("figure", join([cell, element("figcaption", kind)])))
    return element("article", join([element("header", join(lines)), *cells]), "picture")


def legend(scale: float, pixel_threshold: float) -> Markup:
    """The colours of all maps with their numbers, and the line that marks the truth.

    scale: of `drawing.full_scale`; pixel_threshold: NaN where there is none.
    """
    shares = np.linspace(0, 1, 17, dtype=np.float32)
    stops = join(
        element("stop", offset=f"{share:.3f}", stop_color=f"rgb({','.join(map(str, colour))})")
        for share, colour in zip(shares, drawing.colours(shares, 1.0).tolist(), strict=True)
    )
    gradient = element("defs", element("linearGradient", stops, id="scale"))
    marks = [_mark(0.0, "0", 54), _mark(1.0, f"{scale:.3g}", 54)]
    if 0 < pixel_threshold < scale:
        note = f"threshold of pixels {pixel_threshold:.3g}"
        marks.append(_mark(pixel_threshold / scale, note, 11))
    strip = element("rect", y=20, width=400, height=18, fill="url(#scale)")
    words = f"Colour scale of all anomaly maps, from 0 (dark) to {scale:.3g} (bright)"
    about = {"viewBox": "0 0 400 56", "role": "img", "aria_label": words}
    bar = element("svg", join([gradient, strip, *marks]), **about)
    key = join([element("span", style="key"), "outline of the true defect"])
    return element("div", join([bar, element("span", key)]), "legend")


def _breakable(name: str) -> Markup:
    """A file name that a line may break in at its parts."""
    return text(name).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>"))


def _mark(share: float, label: str, y: int) -> Markup:
    """A number above or below the colour bar, within its ends, and a tick to it."""
    anchor = "start" if share < 0.3 else "end" if share > 0.7 else "middle"
    x, ends = f"{400 * share:.1f}", (38, 43) if y > 20 else (14, 20)
    tick = element("line", x1=x, x2=x, y1=ends[0], y2=ends[1])
    return join([tick, element("text", label, x=x, y=y, text_anchor=anchor)])


def _cell(view: np.ndarray | None, words: str, over: Markup = NOTHING) -> Markup:
    """A square with a picture and what lies over it, or with the note that there is none."""
    if view is None:
        return element("div", element("span", "no mask", "none"), "cell")
    return element("div", join([image(view, words, lossy=view.dtype != bool), over]), "cell")


def _views(judged: results.Judged, row: int, scale: float) -> list[np.ndarray | None]:
    """`drawing.views` of at most SIDE px."""
    truth = judged.truth(row)
    return drawing.views(
        _shrink(judged.images[row], np.mean),
        None if truth is None else _shrink(truth, np.max),
        _shrink(judged.reconstructions[row], np.mean),
        _shrink(judged.maps[row], np.max),  # a small peak must stay to be seen
        scale,
    )


def _shrink(values: np.ndarray, how: Callable[..., np.ndarray]) -> np.ndarray:
    """[s, s, ...] in blocks of whole pixels, at most SIDE a side; `how` joins a block."""
    side = values.shape[0]
    block = next(k for k in range(1, side + 1) if side % k == 0 and side // k <= SIDE)
    if block == 1:
        return values
    blocks = values.reshape(side // block, block, side // block, block, *values.shape[2:])
    return how(blocks, axis=(1, 3)).astype(values.dtype)


def _outline(truth: Bool[np.ndarray, "h w"]) -> Markup:
    """The border of the truth, drawn with the same width at every size of the picture."""
    rows, columns = truth.shape
    lines = drawing.outlines(truth)
    path = "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in line) for line in lines)
    drawn = element("path", d=path, stroke=drawing.OUTLINE) if lines else NOTHING
    return element("svg", drawn, viewBox=f"0 0 {columns} {rows}", aria_hidden="true")
