"""The pictures of one category, found by how its folder is arranged. No picture is opened."""

import collections
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator

from configs.errors import UserError
from input_pipeline.decoding.pictures import EXTENSIONS

GOOD = "good"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the files of one category lie, relative to its folder; a row of `layouts.LAYOUTS`.

    In `masks` and `foreground`, `{folder}` stands for the folder of a picture, `{defect}` for that
    folder's own name and `{stem}` for the picture's file name without its extension; masks and
    foregrounds may have any picture extension.
    """

    train: tuple[str, ...] = ()  # folders of good training pictures: one of them holds some
    test: str = ""  # folder with one sub-folder for each defect and one of good pictures; "": none
    good: tuple[str, ...] = (GOOD,)  # names of that last one, in small letters
    masks: tuple[str, ...] = ()  # paths of a picture's mask, the first that exists is taken
    foreground: str = "DISthresh/good/{stem}"  # of a training picture; files are optional
    # `train` and `test` hold good and defective pictures alike: those that have a mask are
    # defective, and are not trained on.
    by_mask: bool = False
    table: str = ""  # CSV file beside the categories that lists all pictures instead
    recursive: bool = False  # training pictures may lie in sub-folders
    category: bool = True  # has labels, masks and foregrounds; else pictures and nothing more
    description: str
    citation: str
    licence: str


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture on disk. Paths are relative to the category's folder, with forward slashes."""

    split: str  # train, test or parts
    picture: str
    mask: str  # "": none
    foreground: str  # "": none
    defect: str  # good, or the kind of defect
    # 12 hexadecimal digits that change with the size or modification time of any of its files;
    # "" until `stamped`.
    stamp: str = ""

    @property
    def has_mask(self) -> bool:
        """Whether the mask is known: a good test picture's is empty."""
        return bool(self.mask) or (self.split == "test" and self.defect == GOOD)


def scan(folder: pathlib.Path, layout: Layout, missing_masks: str = "error") -> list[Record]:
    """The pictures of one category, sorted by split (train first) and name.

    Hidden files and other extensions are passed over. Links are followed.

    Raises:
      UserError: no such folder; no good training pictures, or more than one folder of them;
        test pictures without a sub-folder; two pictures with the same mask; a table that cannot be
        read; a defective test picture without its mask while `missing_masks` is 'error'.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    try:
        if layout.table:
            records = _from_table(folder, layout)
        else:
            records = [*_train(folder, layout), *_test(folder, layout)]
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    check_masks(folder, layout, records, missing_masks)
    return records


def parts(folder: pathlib.Path) -> list[Record]:
    """Pictures of where anomalies may lie in a texture: of `thresh/` beside `train/`, else of
    carpet's, which the authors use for every texture. Often none.
    """
    for place in ("thresh", "../carpet/thresh"):
        found = pictures_under(folder / place)
        if found:
            return [Record("parts", f"{place}/{p.name}", "", "", GOOD) for p in found]
    return []


def stamped(folder: pathlib.Path, records: Iterable[Record]) -> list[Record]:
    """The records with their `stamp`, which does not depend on where the folder is.

    Raises:
      UserError: a file of a record is not there.
    """
    return [
        dataclasses.replace(
            record,
            stamp=digest(
                [
                    _facts(folder / f) if f else None
                    for f in (record.picture, record.mask, record.foreground)
                ]
            ),
        )
        for record in records
    ]


def _facts(file: pathlib.Path) -> list[int]:
    """Size in bytes and modification time in ns."""
    try:
        stat = file.stat()
    except OSError as error:
        raise UserError(f"{file} cannot be read as a picture: {error.strerror}") from error
    return [stat.st_size, stat.st_mtime_ns]


def digest(facts: list) -> str:
    """12 hexadecimal digits that change with `facts`: anything that JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def pictures_under(folder: pathlib.Path, recursive: bool = False) -> list[pathlib.Path]:
    """Picture files of a folder, sorted by path; [] when there is no such folder.

    A link that leads nowhere is listed: it is a picture that cannot be read. A folder that is
    reached twice, as through a link to one above it, is listed once.
    """
    if not folder.is_dir():
        return []
    files = (e.path for e in _walk(folder, recursive, set()) if e.name.lower().endswith(EXTENSIONS))
    return sorted(map(pathlib.Path, files), key=lambda f: f.as_posix())


def _walk(folder: pathlib.Path, recursive: bool, seen: set[str]) -> Iterator[os.DirEntry]:
    """The files of a folder, hidden ones excepted."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if not _is_folder(entry):
            yield entry
        elif recursive:
            yield from _walk(pathlib.Path(entry.path), True, seen)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _place(folder: pathlib.Path, path: str) -> pathlib.Path:
    """A folder below, with its name as on disk where that differs in capital letters only."""
    for part in filter(None, path.split("/")):
        if not (folder / part).is_dir() and folder.is_dir():
            same = (e.name for e in os.scandir(folder) if e.name.lower() == part.lower())
            part = min(same, default=part)
        folder = folder / part
    return folder


def unused(folder: pathlib.Path, records: Iterable[Record]) -> dict[str, int]:
    """Folders of a category with pictures that are in no record, and how many."""
    used = {
        os.path.normpath(f)
        for r in (*records, *parts(folder))
        for f in (r.picture, r.mask, r.foreground)
        if f
    }
    places = (
        _relative(f.parent, folder)
        for f in pictures_under(folder, True)
        if _relative(f, folder) not in used
    )
    return dict(collections.Counter(places))


def _train(folder: pathlib.Path, layout: Layout) -> list[Record]:
    """The good training pictures."""
    places = {place: _place(folder, place) for place in layout.train}
    found = {p: pictures_under(p, layout.recursive) for p in dict.fromkeys(places.values())}
    held = [place for place, pictures in found.items() if pictures]
    if not held:
        looked = ", ".join(place or "the folder itself" for place in places)
        there = [f"{n} in {place}" for place, n in unused(folder, ()).items()]
        raise UserError(
            f"no good pictures in {folder}: looked into {looked}; it holds "
            f"{'; '.join(there[:5]) or 'no ' + ' '.join(EXTENSIONS)}"
        )
    if len(held) > 1:
        raise UserError(
            f"{' and '.join(map(str, held))} hold pictures: which are the good ones? Give "
            f"data.layout, or keep the others elsewhere"
        )
    pictures = found[held[0]]
    files = _Files(folder)
    if layout.by_mask:
        pictures = [picture for picture in pictures if not files.find(layout.masks, picture)]
    return [
        Record("train", _relative(p, folder), "", files.find((layout.foreground,), p), GOOD)
        for p in pictures
    ]


def _test(folder: pathlib.Path, layout: Layout) -> list[Record]:
    """The test pictures; none where there is no such folder."""
    top = _place(folder, layout.test)
    if not layout.test or not top.is_dir():
        return []
    files, loose = _Files(folder), pictures_under(top)
    if layout.by_mask:
        masks = [files.find(layout.masks, picture) for picture in loose]
        pairs = zip(loose, masks, strict=True)
        return [Record("test", _relative(p, folder), m, "", "bad" if m else GOOD) for p, m in pairs]
    if loose:
        raise UserError(
            f"{loose[0]} is neither good nor defective: test pictures lie in {top / GOOD} "
            f"and in a folder for each defect, such as {top / 'bad'}"
        )
    records = []
    for sub in sorted(p for p in top.iterdir() if p.is_dir()):
        defect = GOOD if sub.name.lower() in layout.good else sub.name
        # A good picture's mask, which is empty, has no place among those of all defects.
        templates = [
            t for t in layout.masks if defect != GOOD or "{defect}" in t or "{folder}" in t
        ]
        mask_of = {picture: files.find(templates, picture) for picture in pictures_under(sub)}
        # Masks may lie beside the pictures.
        names = {picture: _relative(picture, folder) for picture in mask_of}
        records += [
            Record("test", name, mask_of[picture], "", defect)
            for picture, name in names.items()
            if name not in mask_of.values()
        ]
    return records


def _from_table(folder: pathlib.Path, layout: Layout) -> list[Record]:
    """The pictures that a CSV file lists: columns object, split, label, image, mask.

    Paths in it are relative to the folder of all categories.
    """
    table, columns = folder.parent / layout.table, ("object", "split", "label", "image", "mask")
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise UserError(f"{table} has no column {', '.join(sorted(missing))}")
        rows = [
            {k: row[k] or "" for k in columns} for row in reader if row["object"] == folder.name
        ]
    records = []
    for row in rows:
        paths = [row[k] and os.path.relpath(row[k], folder.name) for k in ("image", "mask")]
        picture, mask = (path.replace(os.sep, "/") for path in paths)
        defect = GOOD if row["label"] in ("normal", GOOD) else row["label"]
        if row["split"] == "test" or defect == GOOD:
            records.append(Record(row["split"], picture, mask, "", defect))
    records.sort(key=lambda record: (record.split != "train", record.picture))
    if not records or records[0].split != "train":
        raise UserError(f"no good pictures: {table} lists no training picture of {folder.name}")
    return records


def check_masks(
    folder: pathlib.Path, layout: Layout, records: Iterable[Record], missing_masks: str
) -> None:
    """Raise UserError where a defective picture has no mask, or another picture's."""
    owners: dict[str, Record] = {}
    for record in records:
        if record.mask:
            other = owners.setdefault(record.mask, record)
            if other is not record:
                raise UserError(
                    f"{folder / other.picture} and {folder / record.picture} have the same mask: "
                    f"{folder / record.mask}"
                )
        elif record.defect != GOOD and missing_masks == "error":
            wanted = _candidates(layout.masks, folder / record.picture, folder)
            place = f"{folder / wanted[0]}.png" if wanted else folder.parent / layout.table
            raise UserError(
                f"{folder / record.picture} has no mask: it is not in {place}"
                f"{' nor in the other usual places' if len(wanted) > 1 else ''}; "
                f"set data.missing_masks=ignore to evaluate without it"
            )


def _candidates(templates: Iterable[str], picture: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """What a picture's mask or foreground may be called, without extension."""
    parent = picture.parent
    values = {"folder": _relative(parent, folder), "defect": parent.name, "stem": picture.stem}
    return [template.format(**values) for template in templates]


class _Files:
    """Finds files whose extension is not known, reading each folder once."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._stems: dict[pathlib.Path, dict[str, pathlib.Path]] = {}

    def find(self, templates: Iterable[str], picture: pathlib.Path) -> str:
        """Relative path of the first file that belongs to `picture`, or ''."""
        for candidate in _candidates(templates, picture, self._folder):
            path = self._folder / candidate
            if path.parent not in self._stems:
                self._stems[path.parent] = {f.stem: f for f in pictures_under(path.parent)}
            found = self._stems[path.parent].get(path.name)
            if found and found != picture:
                return _relative(found, self._folder)
        return ""


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix()
