"""VisA's table of all pictures, as downloaded or as a spreadsheet has saved it."""

import csv
import dataclasses
import os
import pathlib

from configs.errors import UserError
from input_pipeline.folders import listing

_COLUMNS = ("object", "split", "label", "image", "mask")
_DELIMITERS = ",;\t|"


@dataclasses.dataclass(frozen=True)
class Row:
    """A picture of a category. Paths are relative to the category's folder; '': no mask."""

    split: str  # train or test
    label: str  # as written
    picture: str
    mask: str


def rows(table: pathlib.Path, folder: pathlib.Path) -> list[Row]:
    r"""What a CSV file says of the category in `folder`; [] where it does not name it.

    Columns object, split, label, image, mask in any order, among others; between them commas,
    semicolons, tabs or bars; UTF-8, UTF-16 or, as old spreadsheets, Windows-1252. Capital letters
    do not matter. Paths are relative to the folder of all categories; \ is read as /.

    Raises:
      UserError: a column is missing, or a line of the category says nothing that is understood.
    """
    lines = _text(table).splitlines()
    if lines and lines[0].lower().startswith("sep="):  # a spreadsheet's own mark
        lines = lines[1:]
    found = []
    try:
        reader = csv.reader(lines, delimiter=_delimiter(lines))
        names = [name.strip().lower() for name in next(reader, [])]
        if missing := sorted(set(_COLUMNS) - set(names)):
            raise UserError(
                f"{table} has no column {', '.join(missing)}; its first line is "
                f"{(lines or [''])[0][:80]!r}: save it as CSV with {', '.join(_COLUMNS)}"
            )
        places = [names.index(column) for column in _COLUMNS]
        for cells in reader:
            cells += [""] * (len(names) - len(cells))
            category, *values = (cells[place].strip() for place in places)
            if listing.key(category) == listing.key(folder.name):
                found.append(_row(values, folder, f"{table}, line {reader.line_num}"))
    except csv.Error as error:
        raise UserError(f"{table} cannot be read as CSV: {error}") from error
    return found


def _text(table: pathlib.Path) -> str:
    content = table.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _delimiter(lines: list[str]) -> str:
    """What stands between the names of the columns."""
    header = lines[0].lower().replace('"', "") if lines else ""
    return max(_DELIMITERS, key=lambda d: len({*header.split(d)} & {*_COLUMNS}) + header.count(d))


def _row(values: list[str], folder: pathlib.Path, line: str) -> Row:
    split, label, image, mask = values
    if split.lower() not in ("train", "test") or not label or not image:
        raise UserError(
            f"{line}: {split=} {label=} {image=}: need train or test, a label and a picture"
        )
    return Row(split.lower(), label, _path(image, folder), mask and _path(mask, folder))


def _path(text: str, folder: pathlib.Path) -> str:
    """A path of the table, below the category's folder and as on disk."""
    path = os.path.normpath(text.replace("\\", "/"))
    first, _, rest = path.partition("/")
    if listing.key(first) != listing.key(folder.name):
        return os.path.relpath(path, folder.name).replace(os.sep, "/")
    return listing.file(folder, rest).relative_to(folder).as_posix()
