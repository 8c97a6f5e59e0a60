"""Which pictures are meant by `--input`, and what each is called in the output folder."""

import dataclasses
import glob
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath
from jaxtyping import UInt8

from configs.errors import UserError
from input_pipeline.decoding.pictures import EXTENSIONS, decode_rgb
from input_pipeline.folders import listing

# Sub-folders of an output folder. A picture in a folder called so that bears our mark is a result,
# never read as input again; any other is a picture like all.
RESULTS = ("maps", "overlays")
MARK = ("Software", "diffad_jax")  # a text in our PNG files
_MARKED = b"tEXt" + "\0".join(MARK).encode()
_LONGEST = 200  # bytes of a file name of ours; most file systems take 255


@dataclasses.dataclass(frozen=True, order=True)
class Source:
    """A picture file and its name: the path below the input folder, with forward slashes.

    left_out: why it is not read, in a word or two ('.heic'); '' for a picture. Of a folder that
      cannot be read, the name ends in a slash.
    order: its place among others, where that is not the order of names.
    content: reads the file, where it is none on a disk; raises UserError.
    """

    name: str
    path: pathlib.Path | epath.Path
    left_out: str = ""
    order: int | None = dataclasses.field(default=None, compare=False)
    content: Callable[[], bytes] | None = dataclasses.field(default=None, compare=False)

    @property
    def problem(self) -> str:
        """Why it is not read, in a sentence."""
        if self.left_out == listing.UNREADABLE:
            return f"{self.path} cannot be read as a folder: give the right to, or leave it out"
        return (
            f"{self.path} cannot be read as a picture: {self.left_out} is none of the formats "
            f"that are read ({' '.join(EXTENSIONS)})"
        )

    def decode(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture.

        Raises:
          UserError: it cannot be read.
        """
        if self.left_out:
            raise UserError(self.problem)
        if self.content is None:
            return decode_rgb(pathlib.Path(self.path))
        return decode_rgb(pathlib.PurePath(self.name), self.content())

    def output(self, suffix: str) -> str:
        """Relative path of a file about this picture: the whole name and one more suffix.

        No two pictures share it, and it has no '..'. A file name too long for that, or one of a
        list that leads elsewhere, is cut and ends in a hash of the whole; a folder that is named
        like one of our files gets a '_'.
        """
        parts = [part for part in self.name.split("/") if part not in ("", ".", "..")]
        folder, file = "/".join(parts[:-1]), parts[-1]
        folder = re.sub(r"(\.(?:png|npy)_*)(?=/|$)", r"\1_", folder)
        elsewhere = "/".join(parts) != self.name
        if elsewhere or len(os.fsencode(file + suffix)) > _LONGEST:
            digest = hashlib.sha256(os.fsencode(self.name)).hexdigest()[:16]
            file = f"{os.fsencode(file)[:120].decode(errors='replace')}-{digest}"
        return f"{folder}/{file}{suffix}" if folder else file + suffix


def find(pattern: str | os.PathLike) -> list[Source]:
    """The pictures of a file, a folder with all below it, or a glob pattern, local; sorted by name.

    Of folders and patterns, only files with a picture's extension count. Those with that of another
    format of pictures are there as `left_out`, and so are folders that cannot be read. Hidden
    files, what systems leave in folders (`listing.is_junk`), other files, and what an earlier
    prediction wrote are not there. A pattern may have ** for any folders; a folder that it matches
    is searched like a folder.

    Raises:
      UserError: there is no such file or folder, no match, or no picture.
    """
    text = os.path.expanduser(os.fspath(pattern))
    if not text:
        raise UserError("no input: give a picture, a folder of pictures, or a glob pattern")
    if os.path.isdir(text):
        return _some(text, list(below(pathlib.Path(text))))
    if os.path.exists(text):
        base, found = os.path.dirname(text), listing.Listing([pathlib.Path(text)])
    elif glob.has_magic(text):
        base, tail = _base(text)
        found = _matches(base, tail)
    else:
        where = " (input is read from local folders only)" if "://" in text else ""
        raise UserError(f"no such file or folder: {text}{where}")
    return _some(text, _named(base, found))


def _some(text: str, sources: list[Source]) -> list[Source]:
    """The sources, with a picture among them."""
    if all(source.left_out for source in sources):
        missed = listing.told([(s.path, s.left_out) for s in sources])
        raise UserError(
            f"no pictures: {text} has no file in {' '.join(EXTENSIONS)}"
            + (f"; left out: {missed}" if missed else "")
        )
    return sources


def below(folder: pathlib.Path) -> Iterator[Source]:
    """As `find` of a folder, one after another; no folder, or no pictures, give none."""
    base = os.path.abspath(folder)
    for path, kind in listing.entries(folder, recursive=True):
        if kind not in (listing.FOLDER, listing.PASSED_OVER):
            source = _source(base, path, kind)
            if not is_result(source):
                yield source


def within(folder: pathlib.Path, file: pathlib.Path) -> list[Source]:
    """As `below`, of one file in the folder alone."""
    found = listing.Listing()
    if not any(map(listing.is_junk, file.relative_to(folder).parts)):
        found.add(file)
    return _named(os.fspath(folder), found)


def _named(base: str, found: listing.Listing) -> list[Source]:
    """What was found below a folder, without what a prediction wrote; sorted by name."""
    base = os.path.abspath(base)
    sources = {
        source.name: source
        for path, left_out in [*((path, "") for path in found.pictures), *found.left_out]
        if not is_result(source := _source(base, path, left_out))
    }
    return sorted(sources.values())


def _source(base: str, path: pathlib.Path, left_out: str) -> Source:
    name = os.path.relpath(os.path.abspath(path), base).replace(os.sep, "/")
    return Source(f"{name}/" if left_out == listing.UNREADABLE else name, path, left_out)


def _base(pattern: str) -> tuple[str, tuple[str, ...]]:
    """The folders of a pattern before its first wildcard, and the parts from there on."""
    parts = pathlib.PurePath(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    if ".." in parts[first:]:
        raise UserError(f"{pattern} has '..' after a wildcard: name the folder from above")
    return (os.path.join(*parts[:first]) if first else ""), parts[first:]


def _matches(base: str, tail: tuple[str, ...]) -> listing.Listing:
    """What a pattern matches, and what lies in the folders it matches or would search."""
    found = listing.Listing()
    for path in _glob(base, tail):
        if not path.is_dir():
            found.add(path)
        elif "**" not in tail:  # which gives what lies below folders, too
            below = listing.walk(path, recursive=True)
            found.pictures += below.pictures
            found.left_out += below.left_out
    for count in range(len(tail) + ("**" in tail)):
        for path in _glob(base, tail[:count]):
            if path.is_dir() and not _opens(path):
                found.left_out.append((path, listing.UNREADABLE))
    return found


def _glob(base: str, tail: tuple[str, ...]) -> Iterator[pathlib.Path]:
    """What a pattern matches, outside of hidden folders and those of systems."""
    # A folder called [1] is no wildcard.
    for match in glob.iglob(os.path.join(glob.escape(base), *tail), recursive=True):
        parts = pathlib.PurePath(os.path.relpath(match, base or ".")).parts
        if not any(part not in (".", "..") and listing.is_junk(part) for part in parts):
            yield pathlib.Path(match)


def _opens(folder: pathlib.Path) -> bool:
    try:
        os.scandir(folder).close()
    except OSError:
        return False
    return True


def is_result(source: Source) -> bool:
    """Whether a prediction wrote this file, into the maps or overlays of an output folder."""
    folders, path = source.name.split("/")[:-1], source.path
    if not set(folders) & set(RESULTS):
        return False
    if source.left_out == ".npy" and "maps" in folders:  # it has no mark, but its overlay has
        maps = path.parents[folders[::-1].index("maps")]
        path = maps.with_name("overlays") / path.relative_to(maps).with_suffix(".png")
    try:
        with path.open("rb") as opened:
            return _MARKED in opened.read(256)
    except OSError:
        return False
