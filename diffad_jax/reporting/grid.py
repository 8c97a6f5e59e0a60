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
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from PIL import Image

from diffad_jax.reporting import drawing
from diffad_jax.runs import files
from diffad_jax.scoring import results

INK, FAINT, WRONG = "#1a1a1a", "#6b6b6b", "#b3261e"
FONT = "DejaVu Sans"  # comes with matplotlib

# The grid's lengths, in inches.
DPI = 120
WIDTH, CELL, GAP = 10.0, 1.62, 0.06
LEFT, MARGIN, HEADER, FOOTER = 1.52, 0.12, 0.9, 0.06
_COLUMNS = tuple(LEFT + column * (CELL + GAP) for column in range(len(drawing.COLUMNS)))


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
    figure = Figure(figsize=(WIDTH, HEADER + len(chosen) * (CELL + GAP) + FOOTER), dpi=DPI)
    canvas, sheet = FigureCanvasAgg(figure), _sheet(figure)
    scale = drawing.full_scale(evaluation.pixel_cut, judged.maps)
    _draw_header(sheet, evaluation, scale)
    for position, row in enumerate(chosen):
        y = HEADER + position * (CELL + GAP)
        _draw_label(sheet, y, judged, row, cut)
        truth, anomaly_map = judged.truth(row), judged.maps[row]
        image, reconstruction = judged.images[row], judged.reconstructions[row]
        views = drawing.views(image, truth, reconstruction, anomaly_map, scale)
        for x, view in zip(_COLUMNS, views, strict=True):
            _draw_cell(sheet, x, y, view)
        if truth is not None:
            _draw_outlines(sheet, _COLUMNS[-1], y, truth)  # on the overlay
    canvas.draw()
    drawn, buffer = np.asarray(canvas.buffer_rgba())[..., :3], io.BytesIO()
    # A tenth more bytes than by zlib's own level, in half of the time.
    Image.fromarray(drawn).save(buffer, "png", compress_level=3)
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


def _sheet(figure: Figure) -> Axes:
    """One pair of axes for all that is drawn, in inches from the figure's upper left corner.

    Axes for each cell would take half as long again.
    """
    width, height = figure.get_size_inches()
    sheet = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    sheet.set_axis_off()
    sheet.autoscale(False)  # else each picture would fill the sheet
    return sheet


def _draw_cell(sheet: Axes, x: float, y: float, view: np.ndarray | None) -> None:
    frame = Rectangle((x, y), CELL, CELL, edgecolor="#c8c8c8", facecolor="none", linewidth=0.5)
    sheet.add_patch(frame)
    if view is None:
        frame.set_facecolor("#f0f0f0")
        _text(sheet, x + CELL / 2, y + CELL / 2, "no mask", color=FAINT, ha="center", size=9)
    else:
        _image(sheet, (x, y, CELL, CELL), view, interpolation="hanning")


def _image(
    sheet: Axes, box: tuple[float, float, float, float], view: np.ndarray, interpolation: str
) -> None:
    """A picture in a box: left, top, width and height."""
    x, y, width, height = box
    drawn = sheet.imshow(view, cmap="gray", vmin=0, vmax=1, aspect="auto")
    drawn.set_extent((x, x + width, y + height, y))
    drawn.set_interpolation(interpolation)


def _draw_outlines(sheet: Axes, x: float, y: float, region: Bool[np.ndarray, "s s"]) -> None:
    """The borders of a region over the cell at (x, y)."""
    for line in drawing.outlines(region):
        border = Polygon((x, y) + line * (CELL / len(region)), fill=False)
        border.set(edgecolor=drawing.OUTLINE, linewidth=1.3)
        sheet.add_patch(border)


def _text(sheet: Axes, x: float, y: float, text: str, room: float = WIDTH, **style) -> None:
    """Text, made smaller where it is wider than `room`.

    It is taken as it is: a `$` starts no formula.
    """
    style = {"family": FONT, "color": INK, "size": 8.5, "va": "center", **style}
    drawn = sheet.text(x, y, text, parse_math=False, **style)
    wide = drawn.get_window_extent().width / DPI
    if wide > room:
        drawn.set_fontsize(style["size"] * room / wide)


def _draw_header(sheet: Axes, evaluation: results.Evaluation, scale: float) -> None:
    """Title; threshold; above their columns the maps' colour bar and the outline's legend."""
    room, cut, pixel_cut = WIDTH - 2 * MARGIN, evaluation.cut, evaluation.pixel_cut
    _text(sheet, MARGIN, 0.22, _shown(evaluation.title, 120), room, size=13, weight="bold")
    if not math.isnan(cut):
        note = f"called defective where score ≥ {cut:.4g}"
        _text(sheet, MARGIN, 0.5, note, color=FAINT)
    for x, name in zip(_COLUMNS, drawing.COLUMNS, strict=True):
        _text(sheet, x + CELL / 2, HEADER - 0.12, name, ha="center", weight="bold", size=9)
    x, width = _COLUMNS[3] + 0.28, CELL - 0.56
    colours = drawing.colours(np.linspace(0, 1, 256)[None], 1.0)
    _image(sheet, (x, 0.44, width, 0.12), colours, interpolation="nearest")
    _text(sheet, x - 0.06, 0.5, "0", ha="right")
    _text(sheet, x + width + 0.06, 0.5, f"{scale:.2g}")
    if 0 < pixel_cut < scale:
        at = x + width * pixel_cut / scale
        sheet.add_line(Line2D([at, at], [0.44, 0.56], color="white", linewidth=1.0))
        note = f"threshold {pixel_cut:.2g}"
        _text(sheet, x + width / 2, 0.365, note, CELL, ha="center", size=7.5)
    x = _COLUMNS[4]
    sheet.add_line(Line2D([x + 0.5, x + 0.7], [0.5, 0.5], color=drawing.OUTLINE, linewidth=2.2))
    _text(sheet, x + 0.77, 0.5, "truth")


def _draw_label(sheet: Axes, y: float, judged: results.Judged, row: int, cut: float) -> None:
    """Left of a row: type of defect, file, score, and the verdict with what is wrong about it."""
    score, label = float(judged.scores[row]), int(judged.labels[row])
    called = results.verdict(score, cut)
    wrong = bool(called) and (called == "defective") != bool(label)
    remark = ("missed" if label else "false alarm") if wrong else ""
    colour, middle, room = WRONG if wrong else INK, y + CELL / 2, LEFT - MARGIN - 0.1
    defect, name = _shown(judged.defects[row], 26), _shown(judged.names[row], 28)
    _text(sheet, MARGIN, middle - 0.33, defect, room, weight="bold", size=9)
    _text(sheet, MARGIN, middle - 0.13, name, room, color=FAINT, size=7.5)
    _text(sheet, MARGIN, middle + 0.11, f"score {score:.3f}")
    _text(sheet, MARGIN, middle + 0.31, f"→ {called}" if called else "", color=colour)
    _text(sheet, MARGIN, middle + 0.51, remark, color=colour, weight="bold")


def _shown(text: str, length: int) -> str:
    """`text` in characters that the font has, its middle cut out where it is too long."""
    glyphs = font_manager.get_font(font_manager.findfont(FONT)).get_charmap()
    text = "".join(c if c.isprintable() and ord(c) in glyphs else "?" for c in text)
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
