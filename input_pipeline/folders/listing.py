"""What lies in a folder. The one place that decides what is a picture, and what is passed over."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Iterable

from configs.errors import UserError
from input_pipeline.decoding.formats import EXTENSIONS

# Files and folders that systems and their file servers leave beside one's own, in small letters.
# Hidden ones, among them the `._NAME` of macOS, begin with a dot.
_JUNK = frozenset(
    """
    @eadir @recycle @recently-snapshot @tmp @sharebin #recycle #snapshot $recycle.bin recycler
    recycled found.000 lost+found lost.dir __macosx __pycache__ thumbs.db ehthumbs.db desktop.ini
    """.split()
) | {"system volume information", "network trash folder", "temporary items"}
# Pictures, or what a camera writes, in formats that are not read.
_OTHER_PICTURES = frozenset(
    """
    .heic .heif .avif .gif .apng .jp2 .j2k .jpf .jpx .jxl .jxr .wdp .hdp .jls .tga .ico .pcx .psd
    .xcf .svg .eps .pdf .ppm .pgm .pbm .pnm .pfm .exr .hdr .dds .fits .fit .dcm .dng .raw .cr2 .cr3
    .nef .nrw .arw .orf .rw2 .raf .pef .srw .x3f .npy .npz .mat .mp4 .mov .avi .mkv .webm .btf .dib
    """.split()
)
UNREADABLE = "unreadable folder"


@dataclasses.dataclass
class Listing:
    """What lies in a folder, each list sorted by path.

    `left_out` is what a person would miss: pictures of other formats, with their ending as the
    reason, and folders that cannot be read (`UNREADABLE`). Hidden files, junk and files that are no
    pictures are in `passed_over`.
    """

    pictures: list[pathlib.Path] = dataclasses.field(default_factory=list)
    folders: list[pathlib.Path] = dataclasses.field(default_factory=list)
    left_out: list[tuple[pathlib.Path, str]] = dataclasses.field(default_factory=list)
    passed_over: list[pathlib.Path] = dataclasses.field(default_factory=list)

    def add(self, path: pathlib.Path) -> None:
        """Sort a file in by its name."""
        ending = path.suffix.lower()
        if is_junk(path.name):
            self.passed_over.append(path)
        elif ending in EXTENSIONS:
            self.pictures.append(path)
        elif ending in _OTHER_PICTURES:
            self.left_out.append((path, ending))
        else:
            self.passed_over.append(path)


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or none of a person's own."""
    return name.startswith((".", "~$")) or name.lower() in _JUNK


def walk(folder: str | os.PathLike, recursive: bool = False) -> Listing:
    """What lies in a folder, or at any depth below it; nothing where there is no such folder.

    Links are followed. One that leads nowhere is listed: it is a picture that cannot be read. A
    folder that is reached twice, as through a link to one above it, is searched once.
    """
    found = Listing()
    _collect(pathlib.Path(folder), recursive, set(), found)
    for things in (found.pictures, found.folders, found.passed_over):
        things.sort(key=lambda path: path.as_posix())
    found.left_out.sort(key=lambda pair: pair[0].as_posix())
    return found


def _collect(folder: pathlib.Path, recursive: bool, seen: set[str], found: Listing) -> None:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        found.left_out.append((folder, UNREADABLE))
        return
    for entry in entries:
        path = pathlib.Path(entry.path)
        if not _is_folder(entry):
            found.add(path)
        elif is_junk(entry.name):
            found.passed_over.append(path)
        else:
            found.folders.append(path)
            if recursive:
                _collect(path, True, seen, found)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False


def readable(folder: pathlib.Path, recursive: bool = False) -> Listing:
    """`walk`, where nothing may be missing.

    Raises:
      UserError: the folder, or one below it, cannot be read.
    """
    found = walk(folder, recursive)
    if closed := [path for path, reason in found.left_out if reason == UNREADABLE]:
        raise UserError(
            f"the folder {closed[0]} cannot be read: give the right to, or take it away"
        )
    return found


def pictures_under(folder: pathlib.Path, recursive: bool = False) -> list[pathlib.Path]:
    """Picture files of a folder, sorted by path; [] when there is no such folder.

    Raises:
      UserError: as `readable`.
    """
    return readable(folder, recursive).pictures


def place(folder: pathlib.Path, path: str) -> pathlib.Path:
    """A folder below another, with its name as on disk: capital letters do not matter.

    Where there is no such folder, the path as given.

    Raises:
      UserError: two folders whose names differ in capital letters only; or a folder on the way
        cannot be read.
    """
    for part in filter(None, path.split("/")):
        if part == "..":
            folder = folder / part
            continue
        same = _alike(folder, part)
        if len(same) > 1:
            raise UserError(
                f"{folder} holds {' and '.join(same)}, which differ in capital letters only: "
                f"rename one, or put them together"
            )
        folder = folder / (same[0] if same else part)
    return folder


def _alike(folder: pathlib.Path, name: str) -> list[str]:
    """The names of folders in a folder that are this one but for capital letters."""
    try:
        entries = [entry for entry in os.scandir(folder) if key(entry.name) == key(name)]
        return sorted(entry.name for entry in entries if _is_folder(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if os.path.isdir(folder / name):  # it may be entered, but not listed
            return [name]
        raise UserError(f"the folder {folder} cannot be read: {error.strerror}") from error


def file(folder: pathlib.Path, path: str) -> pathlib.Path:
    """A file below a folder, with its name as on disk: as `place`, but for what cannot be listed.

    Where there is none, the path as given.
    """
    for part in path.split("/"):
        names: list[str] = []
        if not os.path.lexists(folder / part):
            with contextlib.suppress(OSError):
                names = sorted(name for name in os.listdir(folder) if key(name) == key(part))
        folder = folder / (names[0] if names else part)
    return folder


def key(name: str) -> str:
    """The same for names that differ in capital letters, or in how an accent is encoded."""
    return unicodedata.normalize("NFC", name).lower()


def told(left_out: Iterable[tuple[pathlib.Path, str]]) -> str:
    """How often each reason occurs, in words: '3 .heic, 2 unreadable folders'; '' for none."""
    counts = collections.Counter(reason for _, reason in left_out)
    return ", ".join(
        f"{count} {reason}{'s' * (count > 1 and reason[0] != '.')}"
        for reason, count in sorted(counts.items())
    )
