"""The pictures of one category, found by how its folder is arranged.

No picture is opened, but masks that lie beside training pictures: those that they mark as
defective are never trained on.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable

from configs.errors import UserError
from input_pipeline.decoding.formats import EXTENSIONS
from input_pipeline.folders import listing, side_files, tables
from input_pipeline.folders.listing import pictures_under, place

GOOD = "good"
GOOD_NAMES = (GOOD, "ok", "normal")  # of folders of good pictures, in any capital letters


class NoGoodPictures(UserError):
    """Nothing to train on: not a category's folder, or not arranged in this way."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the files of one category lie, relative to its folder; a row of `layouts.LAYOUTS`.

    In `masks` and `foreground`, `{folder}` stands for the folder of a picture, `{defect}` for that
    folder's own name and `{stem}` for the picture's file name without its extension; masks and
    foregrounds may have any picture extension. Capital letters do not matter anywhere.
    """

    train: tuple[str, ...] = ()  # folders of good training pictures: one of them holds some
    test: str = ""  # folder with a sub-folder for each defect and one of GOOD_NAMES; "": none
    masks: tuple[str, ...] = ()  # paths of a picture's mask, the first that exists is taken
    beside: bool = False  # masks may also lie beside their pictures
    # Of a training picture; files are optional.
    foreground: tuple[str, ...] = (
        *(f"DISthresh/{name}/{{stem}}" for name in GOOD_NAMES),
        "DISthresh/{stem}",
    )
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
    # 12 hexadecimal digits that change with the content of any of its files;
    # "" until `contents.stamped`.
    stamp: str = ""

    @property
    def has_mask(self) -> bool:
        """Whether the mask is known: a good test picture's is empty."""
        return bool(self.mask) or (self.split == "test" and self.defect == GOOD)


def scan(folder: pathlib.Path, layout: Layout, missing_masks: str = "error") -> list[Record]:
    """The pictures of one category, sorted by split (train first) and name.

    What is hidden, junk or of another format is passed over (`listing`). Links are followed.

    Raises:
      NoGoodPictures: no good training pictures.
      UserError: no such folder; more than one folder of good training pictures; test pictures
        without a sub-folder; two pictures with the same mask; a table or a folder that cannot be
        read; a defective test picture without its mask while `missing_masks` is 'error'.
    """
    try:
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}")
        if layout.table:
            records = _from_table(folder, layout)
        else:
            test = _test(folder, layout)
            taken = {record.mask for record in test}
            records = [*_train(folder, layout, taken), *test]
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    check_masks(folder, layout, records, missing_masks)
    return records


def parts(folder: pathlib.Path) -> list[Record]:
    """Pictures of where anomalies may lie in a texture: of `thresh/` beside `train/`, else of
    carpet's, which the authors use for every texture. Often none.
    """
    for where in ("thresh", "../carpet/thresh"):
        found = pictures_under(place(folder, where))
        if found:
            return [Record("parts", _relative(p, folder), "", "", GOOD) for p in found]
    return []


def digest(facts: list) -> str:
    """12 hexadecimal digits that change with `facts`: anything that JSON can hold."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def unused(folder: pathlib.Path, records: Iterable[Record]) -> list[tuple[str, str]]:
    """(place, what) of files that might be meant but are in no record: pictures, pictures of
    formats that are not read, folders that cannot be looked into. Places are relative.
    """
    used = {
        os.path.normpath(f)
        for r in (*records, *parts(folder))
        for f in (r.picture, r.mask, r.foreground)
        if f
    }
    pictures, others = _contents(folder, used)
    lines = [(where, f"its pictures are not used ({count})") for where, count in pictures]
    return lines + [(where, f"not read: {what}") for where, what in others]


def _contents(
    folder: pathlib.Path, used: Iterable[str] = ()
) -> tuple[list[tuple[str, int]], list[tuple[str, str]]]:
    """Below a folder, by place: how many pictures that are not `used`, and what is left out."""
    found = listing.walk(folder, recursive=True)
    spare = [f for f in found.pictures if _relative(f, folder) not in used]
    pictures = collections.Counter(_relative(f.parent, folder) for f in spare)
    others: dict[str, list[tuple[pathlib.Path, str]]] = {}
    for path, reason in found.left_out:
        where = path if reason == listing.UNREADABLE else path.parent
        others.setdefault(_relative(where, folder), []).append((path, reason))
    return list(pictures.items()), [(where, listing.told(them)) for where, them in others.items()]


def _train(folder: pathlib.Path, layout: Layout, taken: set[str]) -> list[Record]:
    """The good training pictures; `taken` are the masks of test pictures."""
    places = {where: place(folder, where) for where in layout.train}
    found = {p: pictures_under(p, layout.recursive) for p in dict.fromkeys(places.values())}
    held = [where for where, pictures in found.items() if pictures]
    if not held:
        looked = ", ".join(where or "the folder itself" for where in places)
        spare, others = _contents(folder)
        there = [f"{what} in {where}" for where, what in (*spare, *others)]
        raise NoGoodPictures(
            f"no good pictures in {folder}: looked into {looked}; it holds "
            f"{'; '.join(there[:5]) or 'no ' + ' '.join(EXTENSIONS)}"
        )
    if len(held) > 1:
        raise UserError(
            f"{' and '.join(map(str, held))} hold pictures: which are the good ones? Give "
            f"data.layout, or keep the others elsewhere"
        )
    pictures = found[held[0]]
    if not layout.category:
        return [Record("train", _relative(p, folder), "", "", GOOD) for p in pictures]
    files = side_files.SideFiles(folder)
    masks = _own_masks(folder, layout, pictures, files, taken)
    good = [p for p, mask in masks.items() if not mask or not side_files.marks(folder / mask)]
    if not good:
        raise NoGoodPictures(
            f"no good pictures in {folder}: all in {held[0]} have a mask that marks a defect"
        )
    return [
        Record("train", _relative(p, folder), masks[p], files.find(layout.foreground, p), GOOD)
        for p in good
    ]


def _own_masks(
    folder: pathlib.Path,
    layout: Layout,
    pictures: list[pathlib.Path],
    files: side_files.SideFiles,
    taken: set[str],
) -> dict[pathlib.Path, str]:
    """{training picture: its mask or ''}: without masks, and without what `by_mask` rules out."""
    beside = side_files.beside(pictures)
    pictures = [p for p in pictures if p not in beside.values()]
    side_files.check_lonely(pictures)
    masks = {p: _relative(beside[p], folder) if p in beside else "" for p in pictures}
    tops = side_files.inside(pictures[0].parent)
    templates = [
        f"{{folder}}/{top.name}/{{stem}}{end}" for top in tops for end in side_files.SUFFIXES
    ]
    inner = {p: files.find(templates, p) for p in pictures} if tops else {}
    inner = {p: mask for p, mask in inner.items() if mask and mask not in taken}
    # Those of the category itself may be of test pictures.
    for top in tops if pictures[0].parent != folder or not taken else ():
        _check_owned(folder, top, {*inner.values()})
    if layout.by_mask:
        if not inner and not any(taken):
            raise UserError(
                f"no labels in {folder}, such as "
                f"{side_files.candidates(layout.masks, pictures[0], folder)[0]}: which pictures "
                f"are defective is not known"
            )
        masks = {p: mask for p, mask in masks.items() if p not in inner}
    return masks | {p: mask for p, mask in inner.items() if p in masks}


def _check_owned(folder: pathlib.Path, top: pathlib.Path, owned: set[str]) -> None:
    """UserError where a mask in `top` has no picture: a defective one could pass for good."""
    lonely = [mask for mask in pictures_under(top) if _relative(mask, folder) not in owned]
    if lonely:
        raise UserError(
            f"{lonely[0]} belongs to no picture in {top.parent}: which one is defective? Give it "
            f"the name of its picture, or take it away"
        )


def _test(folder: pathlib.Path, layout: Layout) -> list[Record]:
    """The test pictures; none where there is no such folder."""
    top = place(folder, layout.test)
    if not layout.test or not top.is_dir():
        return []
    files, here = side_files.SideFiles(folder), listing.readable(top)
    records = _loose(folder, layout, top, here.pictures, files) if here.pictures else []
    for sub in [] if layout.by_mask else here.folders:
        defect = GOOD if listing.key(sub.name) in GOOD_NAMES else sub.name
        # A good picture's mask, which is empty, has no place among those of all defects.
        templates = [t for t in layout.masks if defect != GOOD or "{defect}" in t]
        pictures = pictures_under(sub)
        beside = side_files.beside(pictures)
        for picture in pictures:
            if picture not in beside.values():
                mask = files.find(templates, picture)
                if layout.beside and not mask and picture in beside:
                    mask = _relative(beside[picture], folder)
                records.append(Record("test", _relative(picture, folder), mask, "", defect))
    taken = {record.mask for record in records}
    return [record for record in records if record.picture not in taken]


def _loose(
    folder: pathlib.Path,
    layout: Layout,
    top: pathlib.Path,
    pictures: list[pathlib.Path],
    files: side_files.SideFiles,
) -> list[Record]:
    """Test pictures that lie in no sub-folder: what they are, their masks say."""
    beside = side_files.beside(pictures)
    pictures = [p for p in pictures if p not in beside.values()]
    if layout.by_mask:
        masks = {p: files.find(layout.masks, p) for p in pictures}
        near = {p: mask for p, mask in beside.items() if side_files.marks(mask)}
        masks |= {p: masks[p] or _relative(mask, folder) for p, mask in near.items()}
        bad = {p: bool(mask) for p, mask in masks.items()}
        for inside in side_files.inside(top):
            _check_owned(folder, inside, {*masks.values()})
    else:
        masks = {p: _relative(beside[p], folder) for p in pictures if p in beside}
        if not layout.beside or len(masks) < len(pictures):
            raise UserError(
                f"{next(p for p in pictures if p not in masks or not layout.beside)} is neither "
                f"good nor defective: test pictures lie in {top / GOOD} and in a folder for each "
                f"defect, such as {top / 'bad'}, or have a mask beside them, each"
            )
        bad = {p: side_files.marks(folder / mask) for p, mask in masks.items()}
    return [
        Record("test", _relative(p, folder), masks[p], "", "bad" if bad[p] else GOOD)
        for p in pictures
    ]


def _from_table(folder: pathlib.Path, layout: Layout) -> list[Record]:
    """The pictures that a CSV file lists: `tables.rows`."""
    table = table_of(folder, layout)
    rows = tables.rows(table, folder)
    if not rows:
        raise NoGoodPictures(f"no good pictures: {table} lists no picture of {folder.name}")
    records = []
    for row in rows:
        defect = GOOD if listing.key(row.label) in GOOD_NAMES else row.label
        if row.split == "test" or defect == GOOD:
            records.append(Record(row.split, row.picture, row.mask, "", defect))
    records.sort(key=lambda record: (record.split != "train", record.picture))
    if not records or records[0].split != "train":
        raise UserError(f"{table} lists no good training picture of {folder.name}")
    return records


def table_of(folder: pathlib.Path, layout: Layout) -> pathlib.Path:
    """The table beside the categories, which need not be there."""
    return listing.file(folder.parent, layout.table)


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
            wanted = side_files.candidates(layout.masks, folder / record.picture, folder)
            looked = f"{folder / wanted[0]}.png" if wanted else table_of(folder, layout)
            raise UserError(
                f"{folder / record.picture} has no mask: it is not in {looked}"
                f"{' nor in the other usual places' if len(wanted) > 1 else ''}; "
                f"set data.missing_masks=ignore to evaluate without it"
            )


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix()
