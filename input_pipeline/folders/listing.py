"""What lies in a folder. The one place that decides what is a picture, and what is passed over."""

import collections
import contextlib
import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

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
UNREADABLE, FOLDER, PASSED_OVER = "unreadable folder", "folder", "passed over"


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

    def add(self, path: pathlib.Path, kind: str | None = None) -> None:
        """Sort a path in; `kind` as of `entries`, by default that of a file of this name."""
        kind = kind_of(path) if kind is None else kind
        if kind == FOLDER:
            self.folders.append(path)
        elif kind == PASSED_OVER:
            self.passed_over.append(path)
        elif kind:
            self.left_out.append((path, kind))
        else:
            self.pictures.append(path)


def kind_of(path: pathlib.PurePath) -> str:
    """What a file of this name is: "" a picture, another format's ending, or `PASSED_OVER`."""
    ending = path.suffix.lower()
    if is_junk(path.name):
        return PASSED_OVER
    if ending in EXTENSIONS:
        return ""
    return ending if ending in _OTHER_PICTURES else PASSED_OVER


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or none of a person's own."""
    return name.startswith((".", "~$")) or name.lower() in _JUNK


def walk(folder: str | os.PathLike, recursive: bool = False) -> Listing:
    """What lies in a folder, or at any depth below it; nothing where there is no such folder.

    Links are followed. One that leads nowhere is listed: it is a picture that cannot be read. A
    folder that is reached twice, as through a link to one above it, is searched once.
    """
    found = Listing()
    for path, kind in entries(folder, recursive):
        found.add(path, kind)
    for things in (found.pictures, found.folders, found.passed_over):
        things.sort(key=lambda path: path.as_posix())
    found.left_out.sort(key=lambda pair: pair[0].as_posix())
    return found


def entries(
    folder: str | os.PathLike, recursive: bool = False, seen: set[str] | None = None
) -> Iterator[tuple[pathlib.Path, str]]:
    """What `walk` lists, one after another: a path, and "" for a picture, else what it is.

    Pictures come sorted by path, whatever their number: a folder is read when its turn has come,
    and no more than the names in it and in those above it are held.

    Args:
      folder: where to begin.
      recursive: also what lies in the folders in it.
      seen: real paths of folders that are not searched (again).
    """
    seen = set() if seen is None else seen
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    folder = pathlib.Path(folder)
    try:
        with os.scandir(folder) as found:
            # A folder's slash counts: so those below it come in the order of whole paths.
            names = sorted(entry.name + "/" * _is_folder(entry) for entry in found)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        yield folder, UNREADABLE
        return
    for name in names:
        path = folder / name
        if not name.endswith("/"):
            yield path, kind_of(path)
        elif is_junk(path.name):
            yield path, PASSED_OVER
        else:
            yield path, FOLDER
            if recursive:
                yield from entries(path, True, seen)


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
        with os.scandir(folder) as found:
            entries = [entry for entry in found if key(entry.name) == key(name)]
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
    """How often each reason occurs, in words; see `counted`."""
    return counted(collections.Counter(reason for _, reason in left_out))


def counted(reasons: Mapping[str, int]) -> str:
    """How often each reason occurs, in words: '3 .heic, 2 unreadable folders'; '' for none."""
    return ", ".join(
        f"{count} {reason}{'s' * (count > 1 and reason[0] != '.')}"
        for reason, count in sorted(reasons.items())
    )
