"""What is wrong with the pictures of a category, one line each, before any training.

    python -m diffad_jax.main --mode check --config default --config.data.category=bottle

Reads every file of the category (of all with category=all) and of the textures. Exit status 1
where there is an error; a warning is for a person to look at.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from configs import schema
from configs.errors import UserError
from input_pipeline import textures
from input_pipeline.builder import kind_of
from input_pipeline.datasets import held_out
from input_pipeline.decoding.pictures import decode_foreground, decode_mask, decode_rgb
from input_pipeline.decoding.resizing import resize_nearest
from input_pipeline.folders import layouts, listing
from input_pipeline.folders.contents import readable
from input_pipeline.folders.scan import GOOD, Record, parts, scan, unused
from input_pipeline.on_disk import chunks

_DARK = 32  # grey levels: a picture without a brighter pixel


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something wrong. An error would stop training or spoil its figures."""

    severity: str  # error or warning
    path: str
    text: str

    def __str__(self) -> str:
        return readable(f"{self.severity}: {self.path}: {self.text}")


@dataclasses.dataclass
class Seen:
    """What was found in the files of one picture."""

    record: Record
    problems: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    size: str = ""  # WIDTHxHEIGHT px; "": cannot be read
    pixels: bytes = b""  # digest of the decoded picture
    file: bytes = b""  # digest of the file

    def add(self, severity: str, file: str, text: str) -> None:
        """Note a problem of one of the picture's files."""
        self.problems.append((severity, file, text))


def check_category(config: schema.Config, category: str) -> tuple[list[Finding], str]:
    """All findings of one category, and a line that says what it holds."""
    folder = pathlib.Path(config.data.root).expanduser() / category
    findings, name, records = _scan(folder, config.data.layout)
    findings += _names(folder, records)
    seen = list(_read_all(folder, records, config))
    for one in seen:
        findings += [Finding(level, str(folder / file), text) for level, file, text in one.problems]
    if name and kind_of(folder.name, config.data.kind) == "texture":
        findings += _parts(folder)
    if name:
        findings += _missing_masks(folder, records, config.data.missing_masks)
        findings += _duplicates(folder, seen)
        findings += _sizes(folder, seen)
        findings += _counts(folder, records, config)
        for place, what in unused(folder, records):
            findings.append(Finding("warning", str(folder / place), what))
    return findings, readable(f"{category}: {_summary(name, records, seen)}")


def check_textures(config: schema.Config) -> list[Finding]:
    """Findings of the anomaly sources."""
    given = config.data.textures
    if not given or given.startswith(textures.PREFIX):
        return []
    folder = pathlib.Path(given).expanduser()
    try:
        records = scan(folder, layouts.LAYOUTS["textures"])
    except UserError as error:
        return [Finding("error", given, f"data.textures: {error}")]
    seen = _read_all(folder, records, config)
    return [Finding(p[0], str(folder / p[1]), p[2]) for one in seen for p in one.problems]


def _scan(folder: pathlib.Path, layout: str) -> tuple[list[Finding], str, list[Record]]:
    """(findings, layout, pictures); every picture below the folder where no layout fits."""
    try:
        if layout == "auto":
            return [], *layouts.recognise(folder)
        return [], layout, scan(folder, layouts.LAYOUTS[layout], "ignore")
    except UserError as error:
        everything = listing.walk(folder, recursive=True).pictures
        records = [
            Record("", file.relative_to(folder).as_posix(), "", "", GOOD) for file in everything
        ]
        return [Finding("error", str(folder), str(error))], "", records


def _read_all(
    folder: pathlib.Path, records: Sequence[Record], config: schema.Config
) -> Iterator[Seen]:
    """Every picture with its files read, in order."""

    def read(record: Record) -> Seen:
        return _read(folder, record, config.model.image_size, config.data.fit)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in chunks(len(records)):
            yield from pool.map(read, [records[row] for row in rows.tolist()])


def _read(folder: pathlib.Path, record: Record, image_size: int, fit: str) -> Seen:
    """Read the files of one picture."""
    seen, picture = Seen(record), None
    try:
        picture = decode_rgb(folder / record.picture)
        seen.file = hashlib.sha256((folder / record.picture).read_bytes()).digest()
    except UserError as error:
        seen.add("error", record.picture, _reason(error, folder / record.picture))
    if picture is not None:
        seen.size = f"{picture.shape[1]}x{picture.shape[0]}"
        seen.pixels = hashlib.sha256(seen.size.encode() + picture.tobytes()).digest()
        if not record.split:  # it may be a mask
            return seen
        if not np.ptp(picture, (0, 1)).any():
            seen.add("error", record.picture, f"one colour everywhere: {picture[0, 0].tolist()}")
        elif picture.max() < _DARK:
            seen.add("warning", record.picture, f"dark: no level above {picture.max()} of 255")
    if record.mask:
        _read_mask(folder, seen, image_size, fit)
    if record.foreground:
        shape = None if picture is None else picture.shape[:2]
        for level, text in _foreground(folder / record.foreground, shape):
            seen.add(level, record.foreground, text)
    return seen


def _foreground(file: pathlib.Path, shape: tuple[int, int] | None) -> list[tuple[str, str]]:
    """(severity, text) of what is wrong with a foreground of a picture of `shape`."""
    try:
        plane = decode_foreground(file, shape)
    except UserError as error:
        return [("error", _reason(error, file))]
    return [] if plane.any() else [("warning", "a foreground without any object")]


def _parts(folder: pathlib.Path) -> list[Finding]:
    """Findings of the pictures of where anomalies may lie in a texture."""
    files = [folder / part.picture for part in parts(folder)]
    return [Finding(level, str(f), text) for f in files for level, text in _foreground(f, None)]


def _read_mask(folder: pathlib.Path, seen: Seen, image_size: int, fit: str) -> None:
    """Read the mask of one picture."""
    file = seen.record.mask
    try:
        mask = decode_mask(folder / file)
    except UserError as error:
        seen.add("error", file, _reason(error, folder / file))
        return
    size = f"{mask.shape[1]}x{mask.shape[0]}"
    if seen.size and size != seen.size:
        seen.add("error", file, f"{size} px, but its picture {seen.record.picture} {seen.size}")
    marked = int(mask.sum())
    if seen.record.defect == GOOD:
        if marked:
            seen.add("error", file, f"marks {marked} px of {seen.record.picture}, a good picture")
    elif not marked:
        seen.add("error", file, "an empty mask of a defective picture")
    elif marked > mask.size / 2:
        share = 100 * marked / mask.size
        seen.add("warning", file, f"the mask covers {share:.0f} % of the picture: is it inverted?")
    elif not resize_nearest(mask, image_size, fit).any():
        seen.add("warning", file, f"marks {marked} px, nothing of it is left at {image_size} px")


def _names(folder: pathlib.Path, records: Iterable[Record]) -> list[Finding]:
    """Files whose names no table, report or prepared set could hold."""
    files = [folder / f for r in records for f in (r.picture, r.mask, r.foreground) if f]
    odd = [str(file) for file in (folder, *files) if readable(file) != str(file)]
    return [Finding("error", file, "the name is not UTF-8: rename it") for file in odd]


def _missing_masks(
    folder: pathlib.Path, records: Iterable[Record], missing_masks: str
) -> list[Finding]:
    """Defective pictures without mask."""
    severity = "warning" if missing_masks == "ignore" else "error"
    return [
        Finding(severity, str(folder / record.picture), "defective, but has no mask")
        for record in records
        if record.defect != GOOD and not record.mask
    ]


def _duplicates(folder: pathlib.Path, seen: Iterable[Seen]) -> list[Finding]:
    """Pictures that are there twice, by their pixels: an error between train and test, or between
    good and defective; else a warning.
    """
    first: dict[bytes, Seen] = {}
    findings = []
    for one in seen:
        if not one.pixels:
            continue
        other = first.setdefault(one.pixels, one)
        if other is one:
            continue
        a, b = other.record, one.record
        apart = (a.split, a.defect == GOOD) != (b.split, b.defect == GOOD)
        what = "the same file as" if one.file == other.file else "the same pixels as"
        severity = "error" if apart else "warning"
        findings.append(Finding(severity, str(folder / b.picture), f"{what} {a.picture}"))
    return findings


def _sizes(folder: pathlib.Path, seen: Iterable[Seen]) -> list[Finding]:
    """One warning where pictures differ in size."""
    sizes = collections.Counter(one.size for one in seen if one.size)
    if len(sizes) < 2:
        return []
    listed = ", ".join(f"{size} px ({count})" for size, count in sizes.most_common(5))
    return [Finding("warning", str(folder), f"pictures of {len(sizes)} sizes: {listed}")]


def _counts(
    folder: pathlib.Path, records: Sequence[Record], config: schema.Config
) -> list[Finding]:
    """Too few pictures to train on or to evaluate with."""
    findings = []
    train = sum(record.split == "train" for record in records)
    test = [record.defect == GOOD for record in records if record.split == "test"]
    if train:
        left = int((~held_out(train, any(test) and not all(test), config.data.holdout)).sum())
        if left < config.train.batch_size:
            text = f"{left} good pictures to train on, fewer than {config.train.batch_size=}"
            findings.append(Finding("error", str(folder), text.replace("config.", "")))
    if test and all(test):
        findings.append(Finding("warning", str(folder), "no defective test picture: no metrics"))
    if test and not any(test):
        findings.append(Finding("warning", str(folder), "no good test picture: no metrics"))
    return findings


def _summary(name: str, records: Sequence[Record], seen: Sequence[Seen]) -> str:
    """What a category holds."""
    if not name:
        return f"{len(records)} pictures, no layout"
    train = sum(record.split == "train" for record in records)
    test = collections.Counter(record.defect for record in records if record.split == "test")
    good = test.pop(GOOD, 0)
    kinds = f" ({', '.join(f'{k} {n}' for k, n in sorted(test.items()))})" if test else ""
    masks = sum(bool(record.mask) for record in records)
    sizes = sorted({one.size for one in seen if one.size})
    return (
        f"layout {name}, {train} good training pictures, {good} good and {test.total()} defective "
        f"test pictures{kinds}, {masks} masks, {' '.join(sizes[:3])}{' ...' * (len(sizes) > 3)} px"
    )


def _reason(error: UserError, path: pathlib.Path) -> str:
    """The message of an error without the path that begins it."""
    return str(error).removeprefix(f"{path} ")


def run(config: schema.Config) -> int:
    """Print all findings and a line for each category; 1 where one is an error, else 0.

    Raises:
      UserError: data.layout is 'prepared', or no such folder or category.
    """
    if config.data.layout == "prepared":
        raise UserError("data.layout=prepared: check the pictures where they are")
    names = layouts.chosen(config.data.category, pathlib.Path(config.data.root), config.data.layout)
    findings = check_textures(config)
    print(*findings, sep="\n", end="\n" if findings else "")
    for name in names:
        found, summary = check_category(config, name)
        print(*found, summary, sep="\n")
        findings += found
    counts = collections.Counter(finding.severity for finding in findings)
    print(f"errors: {counts['error']}, warnings: {counts['warning']}")
    return 1 if counts["error"] else 0
