"""What a person looks at: the grid of pictures, tables, and the panel for TensorBoard.

Figures are made with matplotlib's objects (no pyplot, no global state),
and every file is written under a temporary name and then renamed, so a kill leaves no half file.
Paths may be local or `gs://`.
"""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import matplotlib
import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int32, UInt8
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw

from diffad_jax.workdir import write

# Perceptually uniform, told apart with every kind of colour blindness, and still in order in grey.
COLOURS = "inferno"
OUTLINE = "#2fe6e6"  # of the truth; far from every colour of inferno and from grey
INK, FAINT, WRONG = "#1a1a1a", "#6b6b6b", "#b3261e"
FONT = "DejaVu Sans"  # comes with matplotlib

_Key = TypeVar("_Key")  # of a group of pictures; sortable

# The grid's lengths, in inches.
DPI = 120
WIDTH, CELL, GAP = 10.0, 1.62, 0.06
LEFT, MARGIN, HEADER, FOOTER = 1.52, 0.12, 0.9, 0.06
COLUMNS = ("input", "truth", "reconstruction", "anomaly map", "overlay")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A test set and what the model made of it; n pictures of s x s pixels.

    names: file names to show, unique within the set; defects: the type of each, "good" for good
    ones; labels: 1 where defective; scores: one a picture; maps: anomaly maps, >= 0; images and
    reconstructions: RGB, 0..255; masks: defective where > 0, or None where no truth is known
    pixel by pixel; has_mask: False where a picture's mask is missing.
    """

    names: Sequence[str]
    defects: Sequence[str]
    labels: Int32[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    maps: Float[np.ndarray, "n s s"]
    images: UInt8[np.ndarray, "n s s 3"]
    reconstructions: UInt8[np.ndarray, "n s s 3"]
    masks: UInt8[np.ndarray, "n s s 1"] | None
    has_mask: Bool[np.ndarray, " n"]

    def __post_init__(self):
        count = len(self.names)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != count:
                raise ValueError(f"{count} names but {len(value)} {field.name} in the evaluation")

    def truth(self, row: int) -> Bool[np.ndarray, "s s"] | None:
        """Where picture `row` is defective; None where that is not known.

        A good picture needs no mask: nothing in it is defective.
        """
        if self.masks is not None and self.has_mask[row]:
            return self.masks[row, ..., 0] > 0
        return np.zeros(self.maps[row].shape, bool) if self.labels[row] == 0 else None


def verdict(score: float, threshold: float) -> str:
    """'defective' where score >= threshold, else 'good'; '' for a NaN threshold (not known)."""
    if math.isnan(threshold):
        return ""
    return "defective" if score >= threshold else "good"


def choose_rows(evaluation: Evaluation, count: int) -> list[int]:
    """At most `count` pictures to show: good ones first, then each type of defect by name.

    As `sample`, in the set's order: never by score, so nothing is picked for looking well, and two
    evaluations of one test set show the same pictures.

    Raises:
      ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"a grid needs at least 1 row, got {count}")
    groups: dict[tuple[int, str], list[int]] = {}
    for row, (label, defect) in enumerate(zip(evaluation.labels, evaluation.defects, strict=True)):
        groups.setdefault((int(label), defect if label else ""), []).append(row)
    return [row for rows in sample(groups, count).values() for row in rows]


def sample(groups: Mapping[_Key, Sequence[int]], count: int) -> dict[_Key, list[int]]:
    """At most `count` rows out of all groups, in the order of their keys.

    Every group gives the same number (one more for the first ones, fewer where it has no more),
    taken at even distances.
    """
    shares = dict.fromkeys(sorted(groups), 0)
    left = min(count, sum(map(len, groups.values())))
    while left:
        for key in shares:
            if left and shares[key] < len(groups[key]):
                shares[key] += 1
                left -= 1
    return {
        key: [groups[key][(2 * i + 1) * len(groups[key]) // (2 * share)] for i in range(share)]
        for key, share in shares.items()
    }


def write_grid(
    path: str | os.PathLike,
    evaluation: Evaluation,
    rows: Sequence[int],
    title: str,
    threshold: float,
) -> None:
    """Write a PNG, 1200 px wide: for each row the input, truth, reconstruction, map and overlay.

    All maps share one colour scale, from 0 to the largest value in the whole set (not only in the
    rows shown), so colours can be compared between pictures and a good one does not glow. The
    overlay lays the map over the grey input, the more opaque the more anomalous, and outlines the
    truth. Names are cut and cleaned to what the font can show. The same input gives the same bytes.

    Args:
      path: of the file to write.
      evaluation: the whole test set.
      rows: indices of the pictures, in order.
      title: first line.
      threshold: a picture is called defective where score >= threshold; NaN: no verdicts.

    Raises:
      ValueError: no rows.
    """
    if not len(rows):
        raise ValueError("a grid needs at least 1 row, got 0")
    height = HEADER + len(rows) * (CELL + GAP) + FOOTER
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    scale = full_scale(evaluation.maps)
    _draw_header(figure, title, threshold, scale)
    for position, row in enumerate(rows):
        y = HEADER + position * (CELL + GAP)
        _draw_label(figure, y, evaluation, row, threshold)
        truth, maps = evaluation.truth(row), evaluation.maps[row]
        image, reconstruction = evaluation.images[row], evaluation.reconstructions[row]
        cells = views(image, truth, reconstruction, maps, scale)
        for column, cell in enumerate(cells):
            axes = _axes(figure, LEFT + column * (CELL + GAP), y, CELL, CELL)
            _draw_cell(axes, cell)
        if truth is not None and truth.any():
            _outline(axes, truth)  # on the last column, the overlay
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write(epath.Path(path), buffer.getvalue())


def full_scale(maps: Float[np.ndarray, "n h w"]) -> float:
    """The anomaly that gets the brightest colour: the largest of a whole set, 1 where all are 0."""
    top = float(np.max(maps, initial=0.0))
    return top if top > 0 else 1.0


def colours(anomaly_map: Float[np.ndarray, "h w"], scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """The map in colours, RGB: 0 is the darkest, `scale` and all above it the brightest."""
    return matplotlib.colormaps[COLOURS](_unit(anomaly_map / scale), bytes=True)[..., :3]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], anomaly_map: Float[np.ndarray, "h w"], scale: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The map in colours over the picture in grey, the more opaque the more anomalous."""
    grey = image @ np.array([[0.299], [0.587], [0.114]])
    opacity = 0.85 * np.minimum(1.5 * _unit(anomaly_map / scale), 1.0)[..., None]
    heat = colours(anomaly_map, scale)
    return np.rint((1 - opacity) * grey + opacity * heat).astype(np.uint8)


def outline(
    picture: UInt8[np.ndarray, "h w 3"], boxes: Sequence[tuple[int, int, int, int]]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with a frame around each box (x, y, width, height, px), outside of its pixels."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    line = max(1, round(min(picture.shape[:2]) / 250))
    for x, y, width, height in boxes:
        corners = (x - line, y - line, x + width - 1 + line, y + height - 1 + line)
        draw.rectangle(corners, outline=OUTLINE, width=line)
    return np.asarray(image)


def views(
    image: UInt8[np.ndarray, "h w 3"],
    truth: Bool[np.ndarray, "h w"] | None,
    reconstruction: UInt8[np.ndarray, "h w 3"],
    anomaly_map: Float[np.ndarray, "h w"],
    scale: float,
) -> list[UInt8[np.ndarray, "h w 3"] | Bool[np.ndarray, "h w"] | None]:
    """The five pictures that COLUMNS names, the truth as it came."""
    heat, laid = colours(anomaly_map, scale), overlay(image, anomaly_map, scale)
    return [image, truth, reconstruction, heat, laid]


def write_scores(path: str | os.PathLike, evaluation: Evaluation, threshold: float) -> None:
    """Write scores.csv (UTF-8): name, defect, label, score, verdict; a line a picture.

    Scores are written in full: reading them back gives the same numbers. With a NaN threshold the
    verdicts stay empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "defect", "label", "score", "verdict"])
    columns = (evaluation.names, evaluation.defects, evaluation.labels, evaluation.scores)
    for name, defect, label, score in zip(*columns, strict=True):
        writer.writerow([name, defect, int(label), float(score), verdict(score, threshold)])
    # A file name on disk need not be valid Unicode; its odd bytes are then shown, not lost.
    write(epath.Path(path), text.getvalue().encode("utf-8", "backslashreplace"))


def write_metrics(path: str | os.PathLike, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json, keys sorted; NaN and infinite values as null, which JSON can hold."""
    text = json.dumps(_plain(metrics), indent=2, sort_keys=True, allow_nan=False)
    write(epath.Path(path), (text + "\n").encode())


def table(metrics: Mapping[str, float]) -> str:
    """The results of `metrics.evaluate` as a Markdown table that also reads well in a console.

    Numbers as `number` writes them.
    """
    heads = ["", "AUROC", "AP", "F1-max", "threshold", "AUPRO 0.30", "AUPRO 0.05"]
    body = []
    for level in ("image", "pixel"):
        keys = [f"{level}_{name}" for name in ("auroc", "ap", "f1_max", "f1_threshold")]
        keys += ["aupro_30", "aupro_05"] if level == "pixel" else ["", ""]
        body.append([level, *(number(metrics.get(key)) for key in keys)])
    lines = [heads, *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        "| " + " | ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) + " |"
        for line in (heads, rule, *body)
    )


def number(value: float | None) -> str:
    """Four decimals; '-' for a measure that is not there, 'n/a' for one not defined (NaN)."""
    if value is None:
        return "-"
    return "n/a" if math.isnan(value) else f"{value:.4f}"


def training_panel(
    image: Float[np.ndarray, "b s s 3"],
    reconstruction: Float[np.ndarray, "b s s 3"],
    anomaly_map: Float[np.ndarray, "b s s 1"],
    mask: Float[np.ndarray, "b s s 1"],
) -> UInt8[np.ndarray, "h w 3"]:
    """One picture of a training batch: a row a picture; input, guided reconstruction, map, mask.

    Everything is shown on the fixed scale [0, 1] and cut to it, so that panels of different steps
    compare. Rows and columns are 2 px apart.
    """
    heat = matplotlib.colormaps[COLOURS](_unit(anomaly_map[..., 0]))[..., :3]
    columns = [_unit(image), _unit(reconstruction), heat, np.repeat(_unit(mask), 3, axis=-1)]
    edge = ((0, 0), (0, 2), (0, 2), (0, 0))
    padded = [np.pad(column, edge, constant_values=1.0) for column in columns]
    wide = np.concatenate(padded, axis=2)
    panel = wide.reshape(-1, wide.shape[2], 3)[:-2, :-2]
    return np.rint(panel * 255).astype(np.uint8)


def _unit(values: np.ndarray) -> np.ndarray:
    return np.clip(values.astype(np.float32), 0.0, 1.0)


def _plain(value: Any) -> Any:
    """Only what JSON knows: NumPy numbers become Python's, non-finite ones None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _axes(figure: Figure, x: float, y: float, width: float, height: float):
    """Axes without ticks at inches from the upper left corner."""
    full_width, full_height = figure.get_size_inches()
    box = (x / full_width, 1 - (y + height) / full_height, width / full_width, height / full_height)
    axes = figure.add_axes(box)
    axes.set(xticks=[], yticks=[])
    return axes


def _draw_cell(axes, cell: np.ndarray | None) -> None:
    for spine in axes.spines.values():
        spine.set(color="#c8c8c8", linewidth=0.5)
    if cell is None:
        axes.set_facecolor("#f0f0f0")
        axes.text(0.5, 0.5, "no mask", color=FAINT, ha="center", va="center", size=9, family=FONT)
    else:
        axes.imshow(cell, cmap="gray", vmin=0, vmax=1, interpolation="hanning", aspect="auto")


def _outline(axes, truth: np.ndarray) -> None:
    """The border of the truth, closed also where it meets the picture's edge."""
    size = truth.shape[0]
    at = np.arange(-1, size + 1)
    lines = {"levels": [0.5], "colors": [OUTLINE], "linewidths": [1.3]}
    axes.contour(at, at, np.pad(truth, 1).astype(float), **lines)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))


def _text(figure: Figure, x: float, y: float, text: str, room: float = WIDTH, **style) -> None:
    """Text at inches from the upper left corner, made smaller where it is wider than `room`.

    It is taken as it is: a `$` starts no formula.
    """
    width, height = figure.get_size_inches()
    style = {"family": FONT, "color": INK, "size": 8.5, "va": "center", **style}
    drawn = figure.text(x / width, 1 - y / height, text, parse_math=False, **style)
    wide = drawn.get_window_extent().width / figure.dpi
    if wide > room:
        drawn.set_size(style["size"] * room / wide)


def _draw_header(figure: Figure, title: str, threshold: float, scale: float) -> None:
    """Title; threshold; above their columns the maps' colour bar and the outline's legend."""
    room = WIDTH - 2 * MARGIN
    _text(figure, MARGIN, 0.22, _shown(title, 120), room, size=13, weight="bold")
    if not math.isnan(threshold):
        note = f"called defective where score ≥ {threshold:.4g}"
        _text(figure, MARGIN, 0.5, note, color=FAINT)
    left = [LEFT + column * (CELL + GAP) for column in range(len(COLUMNS))]
    for x, name in zip(left, COLUMNS, strict=True):
        _text(figure, x + CELL / 2, HEADER - 0.12, name, ha="center", weight="bold", size=9)
    bar = _axes(figure, left[3] + 0.28, 0.44, CELL - 0.56, 0.12)
    key = ScalarMappable(Normalize(0.0, scale), COLOURS)
    figure.colorbar(key, cax=bar, orientation="horizontal", ticks=[]).outline.set_visible(False)
    _text(figure, left[3] + 0.22, 0.5, "0", ha="right")
    _text(figure, left[3] + CELL - 0.22, 0.5, f"{scale:.2g}")
    width, height = figure.get_size_inches()
    key = Line2D([(left[4] + 0.5) / width, (left[4] + 0.7) / width], [1 - 0.5 / height] * 2)
    key.set(color=OUTLINE, linewidth=2.2, transform=figure.transFigure)
    figure.add_artist(key)
    _text(figure, left[4] + 0.77, 0.5, "truth")


def _draw_label(
    figure: Figure, y: float, evaluation: Evaluation, row: int, threshold: float
) -> None:
    """Left of a row: type of defect, file, score, and the verdict with what is wrong about it."""
    score, label = float(evaluation.scores[row]), int(evaluation.labels[row])
    called = verdict(score, threshold)
    wrong = bool(called) and (called == "defective") != bool(label)
    remark = ("missed" if label else "false alarm") if wrong else ""
    colour, middle, room = WRONG if wrong else INK, y + CELL / 2, LEFT - MARGIN - 0.1
    defect, name = _shown(evaluation.defects[row], 26), _shown(evaluation.names[row], 28)
    _text(figure, MARGIN, middle - 0.33, defect, room, weight="bold", size=9)
    _text(figure, MARGIN, middle - 0.13, name, room, color=FAINT, size=7.5)
    _text(figure, MARGIN, middle + 0.11, f"score {score:.3f}")
    _text(figure, MARGIN, middle + 0.31, f"→ {called}" if called else "", color=colour)
    _text(figure, MARGIN, middle + 0.51, remark, color=colour, weight="bold")


def _shown(text: str, length: int) -> str:
    """`text` in characters that the font has, its middle cut out where it is too long."""
    glyphs = font_manager.get_font(font_manager.findfont(FONT)).get_charmap()
    text = "".join(c if c.isprintable() and ord(c) in glyphs else "?" for c in text)
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
