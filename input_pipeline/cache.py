"""The folder `data.cache_dir`: how large it is, and what in it is not used.

CACHE/anomaly_pictures/NAME/VERSION/   a prepared set, see `sealed`
CACHE/foregrounds/NAME/                computed foregrounds, sealed likewise
CACHE/contents/ID.json                 which files were read, and when (`contents.Known`)
CACHE/tfds/NAME/                       pictures of a public set
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Collection

from etils import epath

from input_pipeline import sealed
from input_pipeline.folders.contents import MEMORY
from input_pipeline.on_disk import files_of, is_remote

SETS, FOREGROUNDS = "anomaly_pictures", "foregrounds"
# What we make is known by its name (`PicturesConfig.name`, `foreground.path_of`).
_STATE = re.compile(r".*-\d+-[a-z]+-[a-z]+-[0-9a-f]{12}")
_PLANES = re.compile(r".*-[0-9a-f]{16}(\.npy)?")  # a file up to version 0.1
_LEFTOVER = 24 * 3600.0  # seconds: what a killed process left; younger may be being written
_MB = 1e6  # bytes


def told(cache_dir: str) -> str:
    """How much a cache holds, in words."""
    top = epath.Path(cache_dir)
    sets = [path for path in _children(top / SETS) if _STATE.fullmatch(path.name)]
    total = sum(_size(top / place) for place in (SETS, FOREGROUNDS))
    return (
        f"data.cache_dir={cache_dir} holds {len(sets)} prepared sets, {total / _MB:,.0f} MB "
        f"(--mode prepare --prune removes those that are not used)"
    )


def unused(
    cache_dir: str, used: Collection[str], names: Collection[str] | None
) -> list[epath.Path]:
    """What of ours in a cache is not used: prepared sets, foregrounds, what killed processes left.

    Args:
      cache_dir: `data.cache_dir`.
      used: paths of the sets and foregrounds that are.
      names: of the source folders whose sets and foregrounds may go; None: of all.
    """
    top, kept = epath.Path(cache_dir), {os.fspath(epath.Path(path)) for path in used}
    found = []
    for state in _children(top / SETS):
        for path in _children(state) if _STATE.fullmatch(state.name) else ():
            leftover = path.name.startswith(".") or "incomplete" in path.name
            if leftover and _age(path) > _LEFTOVER:
                found.append(path)
            elif not leftover and os.fspath(path) not in kept:
                found += [path] if names is None or source_of(path) in names else []
    for path in _children(top / FOREGROUNDS):
        leftover = path.name.startswith(".")
        ours = names is None or path.name.rpartition("-")[0] in {plain(name) for name in names}
        if leftover and _age(path) > _LEFTOVER:
            found.append(path)
        elif ours and _PLANES.fullmatch(path.name) and os.fspath(path) not in kept:
            found.append(path)
    return found


def forget(cache_dir: str) -> None:
    """Remove what is remembered of folders that are not there any more."""
    for path in () if is_remote(cache_dir) else _children(epath.Path(cache_dir) / MEMORY):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if not os.path.isdir(json.loads(path.read_text())["folder"]):
                path.unlink()


def remove(path: epath.Path) -> float:
    """Remove a set, with the folder of its state where that is empty then, or a file: its MB."""
    size = _size(path) / _MB
    sealed.delete(path)
    if path.parent.parent.name == SETS and not list(path.parent.iterdir()):
        path.parent.rmdir()
    return size


def source_of(path: epath.Path) -> str:
    """The name of the folder that a prepared set was made from; '' where it does not say."""
    try:
        return str(json.loads((path / "metadata.json").read_text())["folder"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def plain(name: str) -> str:
    """A folder's name in Latin letters and digits, as names in the cache begin."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name)


def _children(path: epath.Path) -> list[epath.Path]:
    return sorted(path.iterdir()) if sealed.there(path) and path.is_dir() else []


def _size(path: epath.Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    total = 0
    with contextlib.suppress(OSError):  # it may go away meanwhile
        if not path.is_dir():
            return path.stat().length
        for name in files_of(path):
            total += (path / name).stat().length
    return total


def _age(path: epath.Path) -> float:
    """Seconds since it was changed."""
    try:
        return time.time() - path.stat().mtime
    except OSError:
        return 0.0
