"""The grid of test pictures, and the panel of training pictures for TensorBoard.

Figures are made with matplotlib's objects: no pyplot, no global state.
"""

import io
import math

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, UInt8
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from diffad_jax.reporting import drawing
from diffad_jax.runs import files
from diffad_jax.scoring import results

INK, FAINT, WRONG = "#1a1a1a", "#6b6b6b", "#b3261e"
FONT = "DejaVu Sans"  # comes with matplotlib

# The grid's lengths, in inches.
DPI = 120
WIDTH, CELL, GAP = 10.0, 1.62, 0.06
LEFT, MARGIN, HEADER, FOOTER = 1.52, 0.12, 0.9, 0.06


def write(path: epath.PathLike, evaluation: results.Evaluation, rows: int) -> None:
    """Write a PNG, 1200 px wide: for each row the input, truth, reconstruction, map and overlay.

    `results.choose_rows` says which pictures are shown. All maps share one colour scale, that of
    `drawing.full_scale`: from 0 to twice the threshold of pixels, or where there is none to the
    largest value in the whole set (not only in the rows shown). So colours can be compared between
    pictures, and a good one does not glow. The overlay lays the map over the grey input, the
    more opaque the more anomalous, and outlines the truth. Names are cut and cleaned to what the
    font can show. The same input gives the same bytes.

    Args:
      path: of the file to write, local or gs://.
      evaluation: of the whole test set.
      rows: how many pictures are shown, at most.

    Raises:
      UserError: rows below 1.
    """
    judged, cut = evaluation.judged, evaluation.cut
    chosen = results.choose_rows(judged, rows)
    height = HEADER + len(chosen) * (CELL + GAP) + FOOTER
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    scale = drawing.full_scale(evaluation.pixel_cut, judged.maps)
    _draw_header(figure, evaluation, scale)
    for position, row in enumerate(chosen):
        y = HEADER + position * (CELL + GAP)
        _draw_label(figure, y, judged, row, cut)
        truth, anomaly_map = judged.truth(row), judged.maps[row]
        image, reconstruction = judged.images[row], judged.reconstructions[row]
        views = drawing.views(image, truth, reconstruction, anomaly_map, scale)
        for column, view in enumerate(views):
            axes = _axes(figure, LEFT + column * (CELL + GAP), y, CELL, CELL)
            _draw_cell(axes, view)
        if truth is not None:
            _draw_outlines(axes, truth)  # on the last column, the overlay
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    files.write(path, buffer.getvalue())


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
    heat = drawing.colours(anomaly_map[..., 0], 1.0)
    columns = [_levels(image), _levels(reconstruction), heat, np.repeat(_levels(mask), 3, axis=-1)]
    edge = ((0, 0), (0, 2), (0, 2), (0, 0))
    wide = np.concatenate([np.pad(column, edge, constant_values=255) for column in columns], axis=2)
    return wide.reshape(-1, wide.shape[2], 3)[:-2, :-2]


def _levels(values: np.ndarray) -> np.ndarray:
    """Grey levels 0..255 of values that are shown on the scale [0, 1]."""
    return np.rint(drawing.unit(values) * 255).astype(np.uint8)


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes without ticks at inches from the upper left corner."""
    full_width, full_height = figure.get_size_inches()
    box = (x / full_width, 1 - (y + height) / full_height, width / full_width, height / full_height)
    axes = figure.add_axes(box)
    axes.set(xticks=[], yticks=[])
    return axes


def _draw_cell(axes: Axes, view: np.ndarray | None) -> None:
    for spine in axes.spines.values():
        spine.set(color="#c8c8c8", linewidth=0.5)
    if view is None:
        axes.set_facecolor("#f0f0f0")
        axes.text(0.5, 0.5, "no mask", color=FAINT, ha="center", va="center", size=9, family=FONT)
    else:
        axes.imshow(view, cmap="gray", vmin=0, vmax=1, interpolation="hanning", aspect="auto")


def _draw_outlines(axes: Axes, region: Bool[np.ndarray, "s s"]) -> None:
    """The borders of a region over the picture, whose first pixel's centre is at (0, 0)."""
    for line in drawing.outlines(region):
        axes.add_patch(Polygon(line - 0.5, fill=False, edgecolor=drawing.OUTLINE, linewidth=1.3))


def _text(figure: Figure, x: float, y: float, text: str, room: float = WIDTH, **style) -> None:
    """Text at inches from the upper left corner, made smaller where it is wider than `room`.

    It is taken as it is: a `$` starts no formula.
    """
    width, height = figure.get_size_inches()
    style = {"family": FONT, "color": INK, "size": 8.5, "va": "center", **style}
    drawn = figure.text(x / width, 1 - y / height, text, parse_math=False, **style)
    wide = drawn.get_window_extent().width / figure.dpi
    if wide > room:
        drawn.set_fontsize(style["size"] * room / wide)


def _draw_header(figure: Figure, evaluation: results.Evaluation, scale: float) -> None:
    """Title; threshold; above their columns the maps' colour bar and the outline's legend."""
    room, cut, pixel_cut = WIDTH - 2 * MARGIN, evaluation.cut, evaluation.pixel_cut
    _text(figure, MARGIN, 0.22, _shown(evaluation.title, 120), room, size=13, weight="bold")
    if not math.isnan(cut):
        note = f"called defective where score ≥ {cut:.4g}"
        _text(figure, MARGIN, 0.5, note, color=FAINT)
    left = [LEFT + column * (CELL + GAP) for column in range(len(drawing.COLUMNS))]
    for x, name in zip(left, drawing.COLUMNS, strict=True):
        _text(figure, x + CELL / 2, HEADER - 0.12, name, ha="center", weight="bold", size=9)
    bar = _axes(figure, left[3] + 0.28, 0.44, CELL - 0.56, 0.12)
    key = ScalarMappable(Normalize(0.0, scale), drawing.COLOURS)
    figure.colorbar(key, cax=bar, orientation="horizontal", ticks=[]).outline.set_visible(False)
    _text(figure, left[3] + 0.22, 0.5, "0", ha="right")
    _text(figure, left[3] + CELL - 0.22, 0.5, f"{scale:.2g}")
    if 0 < pixel_cut < scale:
        bar.axvline(pixel_cut, color="white", linewidth=1.0)
        note = f"threshold {pixel_cut:.2g}"
        _text(figure, left[3] + CELL / 2, 0.365, note, CELL, ha="center", size=7.5)
    width, height = figure.get_size_inches()
    line = Line2D([(left[4] + 0.5) / width, (left[4] + 0.7) / width], [1 - 0.5 / height] * 2)
    line.set(color=drawing.OUTLINE, linewidth=2.2, transform=figure.transFigure)
    figure.add_artist(line)
    _text(figure, left[4] + 0.77, 0.5, "truth")


def _draw_label(figure: Figure, y: float, judged: results.Judged, row: int, cut: float) -> None:
    """Left of a row: type of defect, file, score, and the verdict with what is wrong about it."""
    score, label = float(judged.scores[row]), int(judged.labels[row])
    called = results.verdict(score, cut)
    wrong = bool(called) and (called == "defective") != bool(label)
    remark = ("missed" if label else "false alarm") if wrong else ""
    colour, middle, room = WRONG if wrong else INK, y + CELL / 2, LEFT - MARGIN - 0.1
    defect, name = _shown(judged.defects[row], 26), _shown(judged.names[row], 28)
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
