"""An overview of a category's foregrounds, for a person to judge and to override them.

Shows every training picture with its background dimmed and the outline drawn, its area, and where
it comes from. Standard output is a table that names the file which overrides each of them.
"""

import dataclasses
import io
import logging
import pathlib
import statistics

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from configs.schema import Config
from diffad_jax.reporting import drawing
from diffad_jax.runs import files
from input_pipeline.datasets import Category, load_category
from input_pipeline.folders.layouts import LAYOUTS
from input_pipeline.foreground import COMPUTED, FILE, RANDOM, Foregrounds, foregrounds_for

logger = logging.getLogger(__name__)

CELL, CAPTION, GAP, COLUMNS = 160, 30, 8, 8  # px, px, px, pictures
_PAPER, _INK, _ALARM = (250, 250, 250), (40, 40, 40), (200, 0, 30)
_UNUSUAL = 8.0  # medians of the distance to the median area; and at least:
_UNUSUAL_LEAST = 0.03  # of the picture


@dataclasses.dataclass
class Row:
    """What is known of one picture's foreground."""

    name: str
    source: str  # one of `foreground.SOURCES`
    area: float  # share of the picture
    override: str  # file that takes its place; "": the layout has none
    alarm: str = ""  # why a person should look at it


def write(config: Config, output: epath.PathLike) -> None:
    """Write the overview, a PNG file, local or gs://, and print the table.

    Raises:
      UserError: unusable pictures.
    """
    category = load_category(config.data, config.model.image_size)
    found = foregrounds_for(category, config.data.foreground, config.data.cache_dir)
    known = rows(category, found, config.data.layout)
    for row in known:
        alarm, override = row.alarm or "-", row.override or "-"
        print(row.name, row.source, f"{row.area:.1%}", alarm, override, sep="\t")
    buffer = io.BytesIO()
    overview(category, found, known, config.data.category).save(buffer, "PNG")
    files.write(output, buffer.getvalue())
    logger.info("wrote %s", output)


def rows(category: Category, found: Foregrounds, layout: str) -> list[Row]:
    """One row for each training picture, in their order."""
    result = []
    for index, (name, source) in enumerate(zip(category.train.names, found.sources, strict=True)):
        plane = foreground(found, index, category.train.images.shape[1])
        row = Row(name, source, float(plane.mean()) / 255, override_of(category, name, layout))
        if source == COMPUTED and plane.min() == 255:
            row.alarm = "no object found: full frame"
        elif source == FILE and plane.max() == 0:
            row.alarm = "empty: no anomaly can be painted"
        result.append(row)
    judged = [row for row in result if row.source in (FILE, COMPUTED) and not row.alarm]
    if judged:
        middle = statistics.median(row.area for row in judged)
        spread = statistics.median(abs(row.area - middle) for row in judged)
        for row in judged:
            if abs(row.area - middle) > max(_UNUSUAL * spread, _UNUSUAL_LEAST):
                row.alarm = f"unusual area: the median is {middle:.1%}"
    return result


def override_of(category: Category, name: str, layout: str) -> str:
    """The file that overrides a picture's foreground; "" in pictures prepared elsewhere."""
    if layout == "prepared":
        return ""
    path = pathlib.PurePosixPath(name)
    # Every layout that 'auto' may stand for keeps them in one place.
    template = LAYOUTS["folder" if layout == "auto" else layout].foreground[0]
    place = template.format(folder=path.parent, defect=path.parent.name, stem=path.stem)
    return f"{pathlib.Path(category.folder) / place}.png"


def foreground(found: Foregrounds, index: int, size: int) -> UInt8[np.ndarray, "s s 1"]:
    """The foreground of one picture; full where it is drawn anew each time."""
    planes = {FILE: found.files, COMPUTED: found.computed}.get(found.sources[index])
    if planes is None:
        return np.full((size, size, 1), 255, np.uint8)
    return np.array(planes[np.array([index])][0])


def dimmed(
    picture: UInt8[np.ndarray, "s s 3"], plane: UInt8[np.ndarray, "s s 1"]
) -> UInt8[np.ndarray, "cell cell 3"]:
    """The picture with its background dimmed and the outline of its foreground."""
    small = Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.BILINEAR)
    grey = Image.fromarray(plane[..., 0]).resize((CELL, CELL), Image.Resampling.BILINEAR)
    share = np.asarray(grey)[..., None] / 255
    levels = np.asarray(small) * (0.3 + 0.7 * share)
    shown = Image.fromarray(levels.round().astype(np.uint8))
    draw = ImageDraw.Draw(shown)
    for line in drawing.outlines(share[..., 0] > 0.5):
        pixels = np.clip(np.floor(line), 0, CELL - 1)  # the last of an edge lie outside
        draw.line([tuple(pixel) for pixel in pixels], fill=drawing.OUTLINE, width=2)
    return np.asarray(shown)


def overview(category: Category, found: Foregrounds, known: list[Row], title: str) -> Image.Image:
    """The picture of all `rows`, with a heading."""
    columns = min(COLUMNS, len(known))
    head = 70
    width = max(columns * (CELL + GAP) + GAP, 760)
    height = head + -(-len(known) // columns) * (CELL + CAPTION + GAP) + GAP
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for line, text in enumerate(_heading(known, found, title)):
        draw.text((GAP, GAP + 19 * line), text, fill=_INK, font_size=14)
    for index, row in enumerate(known):
        row_number, column = divmod(index, columns)
        corner = (GAP + column * (CELL + GAP), head + row_number * (CELL + CAPTION + GAP))
        picture = category.train.images[np.array([index])][0]
        _cell(canvas, corner, row, dimmed(picture, foreground(found, index, len(picture))))
    return canvas


def _cell(canvas: Image.Image, corner: tuple[int, int], row: Row, shown: np.ndarray) -> None:
    """Draw one picture with its caption."""
    draw = ImageDraw.Draw(canvas)
    x, y = corner
    canvas.paste(Image.fromarray(shown), corner)
    colour = _ALARM if row.alarm else _INK
    name = pathlib.PurePosixPath(row.name).name
    name = name if len(name) <= 24 else f"…{name[-23:]}"
    failed = row.alarm.startswith("no object")
    source = "nothing found: full" if failed else row.source
    draw.text((x, y + CELL + 1), name, fill=colour, font_size=12)
    draw.text((x, y + CELL + 14), f"{row.area:.1%}  {source}", fill=colour, font_size=12)
    if row.alarm:
        draw.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), outline=_ALARM, width=2)


def _heading(known: list[Row], found: Foregrounds, title: str) -> list[str]:
    counts = {source: found.sources.count(source) for source in dict.fromkeys(found.sources)}
    alarms = sum(bool(row.alarm) for row in known)
    kinds = ", ".join(f"{count} {source}" for source, count in counts.items())
    drawn = "; 'random': another part of the picture each time" if RANDOM in counts else ""
    override = known[0].override
    way = (
        f"{override}; the printed table names the others' files"
        if override
        else "(not possible: these pictures were prepared elsewhere)"
    )
    return [
        f"{title}: {len(known)} pictures ({kinds}{drawn}), {alarms} to check (red)",
        "Anomalies are painted inside the outline. To change it, save a mask (white: inside); for "
        "the first picture:",
        way,
    ]
