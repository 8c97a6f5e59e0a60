"""A contact sheet of a category's foregrounds, for a person to judge and to override them.

    python -m input_pipeline.foreground_sheet --config configs/default.py \
        --config.data.root=parts --config.data.category=screw --output sheet.png

Shows every training picture with its background dimmed and the outline drawn, its area, and where
it comes from. Standard output is a table that names the file which overrides each of them.
"""

import pathlib
import statistics
from collections.abc import Sequence

import numpy as np
from absl import app, flags, logging
from jaxtyping import UInt8
from ml_collections import config_flags
from PIL import Image, ImageDraw
from scipy import ndimage

from diffad_jax import config as configs
from input_pipeline.datasets import Category, load_category
from input_pipeline.foreground import COMPUTED, FILE, RANDOM, Foregrounds, foregrounds_for
from input_pipeline.layouts import LAYOUTS

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/.")
_OUTPUT = flags.DEFINE_string("output", None, "The sheet, a PNG file.")

CELL, CAPTION, GAP, COLUMNS = 160, 30, 8, 8  # px, px, px, pictures
_PAPER, _INK, _ALARM, _OUTLINE = (250, 250, 250), (40, 40, 40), (200, 0, 30), (255, 0, 140)
_UNUSUAL = 8.0  # medians of the distance to the median area; and at least:
_UNUSUAL_LEAST = 0.03  # of the picture


class Row:
    """What is known of one picture's foreground."""

    def __init__(self, name: str, source: str, area: float, override: str):
        self.name, self.source, self.area, self.override = name, source, area, override
        self.alarm = ""  # why a person should look at it


def rows(category: Category, found: Foregrounds, layout: str) -> list[Row]:
    """One row for each training picture, in their order."""
    result = []
    for index, (name, source) in enumerate(zip(category.train.names, found.sources, strict=True)):
        plane = foreground(found, index, category.train.images.shape[1])
        template = LAYOUTS[layout].foreground
        path = pathlib.PurePosixPath(name)
        wanted = template.format(defect=path.parent.name, stem=path.stem)
        override = f"{pathlib.Path(category.folder) / wanted}.png" if template else ""
        row = Row(name, source, float(plane.mean()) / 255, override)
        if source == COMPUTED and plane.min() == 255:
            row.alarm = "no object found: full frame"
        elif source == FILE and plane.max() == 0:
            row.alarm = "empty: no anomaly can be painted"
        result.append(row)
    judged = [row.area for row in result if row.source in (FILE, COMPUTED) and not row.alarm]
    if judged:
        middle = statistics.median(judged)
        spread = statistics.median([abs(area - middle) for area in judged])
        for row in result:
            away = abs(row.area - middle)
            unusual = away > max(_UNUSUAL * spread, _UNUSUAL_LEAST)
            if row.source in (FILE, COMPUTED) and not row.alarm and unusual:
                row.alarm = f"unusual area: the median is {middle:.1%}"
    return result


def foreground(found: Foregrounds, index: int, size: int) -> UInt8[np.ndarray, "s s 1"]:
    """The foreground of one picture; full where it is drawn anew each time."""
    planes = {FILE: found.files, COMPUTED: found.computed}.get(found.sources[index])
    if planes is None:
        return np.full((size, size, 1), 255, np.uint8)
    return np.array(planes[np.array([index])][0])


def overlay(
    picture: UInt8[np.ndarray, "s s 3"], plane: UInt8[np.ndarray, "s s 1"]
) -> UInt8[np.ndarray, "{CELL} {CELL} 3"]:
    """The picture with its background dimmed and the outline of its foreground."""
    image = np.asarray(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.BILINEAR))
    grey = Image.fromarray(plane[..., 0]).resize((CELL, CELL), Image.Resampling.BILINEAR)
    share = np.asarray(grey)[..., None] / 255
    shown = image * (0.3 + 0.7 * share)
    inside = share[..., 0] > 0.5
    shown[inside & ~ndimage.binary_erosion(inside, border_value=1)] = _OUTLINE
    return shown.round().astype(np.uint8)


def sheet(category: Category, found: Foregrounds, layout: str, title: str) -> Image.Image:
    """The contact sheet."""
    known = rows(category, found, layout)
    columns = min(COLUMNS, len(known))
    head = 70
    width = max(columns * (CELL + GAP) + GAP, 760)
    height = head + -(-len(known) // columns) * (CELL + CAPTION + GAP) + GAP
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for line, text in enumerate(_heading(known, found, title)):
        draw.text((GAP, GAP + 19 * line), text, fill=_INK, font_size=14)
    for index, row in enumerate(known):
        x = GAP + index % columns * (CELL + GAP)
        y = head + index // columns * (CELL + CAPTION + GAP)
        picture = category.train.images[np.array([index])][0]
        plane = foreground(found, index, len(picture))
        canvas.paste(Image.fromarray(overlay(picture, plane)), (x, y))
        colour = _ALARM if row.alarm else _INK
        name = pathlib.PurePosixPath(row.name).name
        name = name if len(name) <= 24 else f"…{name[-23:]}"
        draw.text((x, y + CELL + 1), name, fill=colour, font_size=12)
        failed = "nothing found: full" if row.alarm.startswith("no object") else row.source
        draw.text((x, y + CELL + 14), f"{row.area:.1%}  {failed}", fill=colour, font_size=12)
        if row.alarm:
            draw.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), outline=_ALARM, width=2)
    return canvas


def _heading(known: list[Row], found: Foregrounds, title: str) -> list[str]:
    counts = {source: found.sources.count(source) for source in dict.fromkeys(found.sources)}
    alarms = sum(bool(row.alarm) for row in known)
    kinds = ", ".join(f"{count} {source}" for source, count in counts.items())
    drawn = "; 'random': another part of the picture each time" if RANDOM in counts else ""
    override = known[0].override
    return [
        f"{title}: {len(known)} pictures ({kinds}{drawn}), {alarms} to look at (red)",
        "Anomalies are painted inside the outline. To override one, save a mask (white: inside) as",
        override if override else "(this layout has no place for masks)",
    ]


def main(arguments: Sequence[str]) -> None:
    """Write the sheet and print the table."""
    del arguments
    logging.set_verbosity(logging.INFO)
    try:
        config = configs.parse(_CONFIG.value)
        category = load_category(config.data, config.model.image_size)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    found = foregrounds_for(category, config.data.foreground, config.data.cache_dir)
    for row in rows(category, found, config.data.layout):
        print(
            row.name, row.source, f"{row.area:.1%}", row.alarm or "-", row.override or "-", sep="\t"
        )
    output = pathlib.Path(_OUTPUT.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet(category, found, config.data.layout, config.data.category).save(output, "PNG")
    logging.info("wrote %s", output)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "output"])
    app.run(main)
