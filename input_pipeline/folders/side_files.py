"""The masks and foregrounds of pictures: found by name, in any place where they may lie."""

import functools
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

from configs.errors import UserError
from input_pipeline.decoding.pictures import decode_mask
from input_pipeline.folders import listing

SUFFIXES = ("_mask", "", "_label", "_gt")
MASK_FOLDERS = ("ground_truth", "masks", "mask", "gt", "labels", "label")
_LIKE_A_MASK = re.compile(
    r"(.+?)[ _.-]?[ _.-](?:mask|label|gt|ground[ _-]?truth|seg|segmentation|annotation)s?", re.I
)


class SideFiles:
    """Finds files whose extension and capital letters are not known, reading each folder once."""

    def __init__(self, folder: pathlib.Path):
        """`folder`: that of the category, which all paths are relative to."""
        self._folder = folder
        self._places = {"": folder}
        self._stems: dict[str, dict[str, list[pathlib.Path]]] = {}

    def find(self, templates: Iterable[str], picture: pathlib.Path) -> str:
        """Relative path of the first file that belongs to `picture`, or ''.

        Raises:
          UserError: two files that differ in their extension only, or a folder cannot be read.
        """
        for candidate in candidates(templates, picture, self._folder):
            place, _, stem = candidate.rpartition("/")
            same = [f for f in self._in(place).get(listing.key(stem), []) if f != picture]
            same = [f for f in same if f.stem == stem] or same
            if len(same) > 1:
                raise UserError(f"{same[0]} and {same[1]} both belong to {picture}: remove one")
            if same:
                return same[0].relative_to(self._folder).as_posix()
        return ""

    def _in(self, place: str) -> dict[str, list[pathlib.Path]]:
        if place not in self._stems:
            self._stems[place] = by_stem(listing.pictures_under(self._place(place)))
        return self._stems[place]

    def _place(self, path: str) -> pathlib.Path:
        """`listing.place`, each folder on the way looked for once."""
        if path not in self._places:
            parent, _, name = path.rpartition("/")
            self._places[path] = listing.place(self._place(parent), name)
        return self._places[path]


def candidates(templates: Iterable[str], picture: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """What a picture's mask or foreground may be called, relative to `folder`, no extension."""
    parent = picture.parent
    inside = parent.relative_to(folder).as_posix()
    values = {"folder": inside, "defect": parent.name, "stem": picture.stem}
    return [template.format(**values).removeprefix("./") for template in templates]


def by_stem(files: Iterable[pathlib.Path]) -> dict[str, list[pathlib.Path]]:
    """Files by `listing.key` of their names without extension."""
    found: dict[str, list[pathlib.Path]] = {}
    for file in files:
        found.setdefault(listing.key(file.stem), []).append(file)
    return found


def beside(pictures: Sequence[pathlib.Path]) -> dict[pathlib.Path, pathlib.Path]:
    """{picture: its mask} of the files of one folder: `Part0_label.bmp` is that of `Part0.jpg`.

    Any ending that says so, such as -mask, .GT or _GroundTruth.

    Raises:
      UserError: a picture has two masks.
    """
    known = by_stem(pictures)
    found: dict[pathlib.Path, pathlib.Path] = {}
    for file in pictures:
        like = _LIKE_A_MASK.fullmatch(file.stem)
        for picture in known.get(listing.key(like[1]), []) if like else []:
            other = found.setdefault(picture, file)
            if other != file:
                raise UserError(f"{other} and {file} both belong to {picture}: remove one")
    return found


def inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders of masks in a folder of pictures, by their names."""
    folders = listing.readable(folder).folders
    return [place for place in folders if listing.key(place.name) in MASK_FOLDERS]


def check_lonely(pictures: Sequence[pathlib.Path]) -> None:
    """UserError where some, not all, are named like masks: a mask must not be trained on."""
    lonely = [file for file in pictures if _LIKE_A_MASK.fullmatch(file.stem)]
    if lonely and len(lonely) < len(pictures):
        raise UserError(
            f"{lonely[0]} is named like a mask, but its picture is not beside it: rename or remove "
            f"it"
        )


def marks(file: pathlib.Path) -> bool:
    """Whether a mask marks anything.

    Raises:
      UserError: it is not a whole picture.
    """
    try:
        facts = os.stat(file)
    except OSError:
        return bool(decode_mask(file).any())  # which says what is wrong
    return _marks(file, facts.st_size, facts.st_mtime_ns, facts.st_ino)


@functools.lru_cache(maxsize=2**16)
def _marks(file: pathlib.Path, *_: int) -> bool:
    """`marks`, once for as long as the file has not changed: a folder is scanned several times."""
    return bool(decode_mask(file).any())
