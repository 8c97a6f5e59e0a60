"""Which pictures are meant by `--input`, and what each is called in the output folder."""

import dataclasses
import functools
import glob
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator

from configs.errors import UserError
from input_pipeline.decoding.pictures import EXTENSIONS

# Sub-folders of an output folder that hold pictures: never read as input again.
RESULTS = ("maps", "overlays")
# Any of these marks a folder as an output folder; the last two while it is being written.
TABLES = ("predictions.csv", "predictions.jsonl")
PARTIAL = ".partial"
_LONGEST = 200  # bytes of a file name of ours; most file systems take 255


@dataclasses.dataclass(frozen=True, order=True)
class Source:
    """A picture file and its name: the path below the input folder, with forward slashes."""

    name: str
    path: pathlib.Path

    def output(self, suffix: str) -> str:
        """Relative path of a file about this picture: the whole name and one more suffix.

        No two pictures share it, and it has no '..'. A file name too long for that is cut and ends
        in a hash of the whole; a folder that is named like one of our files gets a '_'.
        """
        folder, _, file = self.name.rpartition("/")
        folder = re.sub(r"(\.(?:png|npy)_*)(?=/|$)", r"\1_", folder)
        if len(os.fsencode(file + suffix)) > _LONGEST:
            digest = hashlib.sha256(os.fsencode(self.name)).hexdigest()[:16]
            file = f"{os.fsencode(file)[:120].decode(errors='replace')}-{digest}"
        return f"{folder}/{file}{suffix}" if folder else file + suffix


def find(pattern: str | os.PathLike, output: str | os.PathLike) -> list[Source]:
    """The pictures of a file, a folder with all below it, or a glob pattern, local; sorted by name.

    Of folders and patterns, only files with a picture's extension count; hidden files and
    folders do not, nor what an earlier prediction wrote (into `output` or elsewhere). A pattern may
    have ** for any folders; a folder that it matches is searched like a folder.

    Raises:
      UserError: there is no such file or folder, no match, or no picture.
    """
    text = os.path.expanduser(os.fspath(pattern))
    if not text:
        raise UserError("no input: give a picture, a folder of pictures, or a glob pattern")
    if os.path.isdir(text):
        base, files = text, _walk(text)
    elif os.path.exists(text):
        base, files = os.path.dirname(text), iter([text])
    elif glob.has_magic(text):
        base, files = _base(text), _matches(text)
    else:
        where = " (input is read from local folders only)" if "://" in text else ""
        raise UserError(f"no such file or folder: {text}{where}")
    base, output = os.path.abspath(base), os.path.realpath(output)
    is_output = functools.cache(lambda folder: _is_output(folder, output))
    named = {os.path.relpath(os.path.abspath(file), base): file for file in files}
    sources = [
        Source(name.replace(os.sep, "/"), pathlib.Path(file))
        for name, file in named.items()
        if not _is_result(base, name, is_output)
    ]
    if not sources:
        raise UserError(f"no pictures: {text} has no file in {' '.join(EXTENSIONS)}")
    return sorted(sources)


def _walk(folder: str) -> Iterator[str]:
    """Picture files below a folder, links to folders followed, each folder once."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in files if _is_picture(name))


def _matches(pattern: str) -> Iterator[str]:
    """Picture files that a pattern matches, and those below the folders it matches."""
    for match in glob.iglob(pattern, recursive=True):
        if os.path.isdir(match):
            # ** already gives what lies below, also the folders.
            if "**" not in pattern:
                yield from _walk(match)
        elif _is_picture(os.path.basename(match)):
            yield match


def _base(pattern: str) -> str:
    """The folders of a pattern before its first wildcard."""
    parts = pathlib.PurePath(pattern).parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    if ".." in parts[first:]:
        raise UserError(f"{pattern} has '..' after a wildcard: name the folder from above")
    return os.path.join(*parts[:first]) if first else ""


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def _is_result(base: str, name: str, is_output: Callable[[str], bool]) -> bool:
    """Whether a file below `base` lies in the maps or overlays of an output folder."""
    parts = name.split(os.sep)[:-1]
    return any(
        part in RESULTS and is_output(os.path.join(base, *parts[:i]))
        for i, part in enumerate(parts)
    )


def _is_output(folder: str, output: str) -> bool:
    tables = [table + suffix for table in TABLES for suffix in ("", PARTIAL)]
    return os.path.realpath(folder) == output or any(
        os.path.exists(os.path.join(folder, table)) for table in tables
    )
