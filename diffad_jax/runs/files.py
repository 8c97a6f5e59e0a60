"""Files that are whole or not there, on a file system or an object store."""

import contextlib
import io
import os
from collections.abc import Iterator

from etils import epath

from configs.errors import of_store
from input_pipeline.on_disk import replacing


def write(path: epath.PathLike, content: str | bytes) -> None:
    """Write a file so that a killed process leaves the old one or the new one, never a half.

    Raises:
      OSError: it cannot be written, as on a full disk; the old one stays.
    """
    data = content.encode() if isinstance(content, str) else content
    target = epath.Path(path)
    with named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            partial.write_bytes(data)


def append(path: str | os.PathLike, line: str) -> None:
    """Append a line to a local file: it is on disk when this returns, and never a half of it.

    What a killed process has left of a line is cut away before.

    Args:
      path: made if need be.
      line: with its end. Odd bytes of a file name are shown by their numbers.

    Raises:
      OSError: it cannot be written, as on a full disk; the file ends as it did.
    """
    data = line.encode("utf-8", "backslashreplace")
    with named(path), open(path, "a+b", buffering=0) as file:
        end = _cut(file)
        try:
            while data:
                data = data[file.write(data) or 0 :]
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise


def _cut(file: io.FileIO) -> int:
    """Cut what comes after the last line; returns where that ends."""
    end = file.seek(0, os.SEEK_END)
    if end:
        file.seek(end - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            end = file.truncate(file.readall().rfind(b"\n") + 1)
    return end


@contextlib.contextmanager
def named(path: epath.PathLike) -> Iterator[None]:
    """A context whose OSError names the path: writing to a full disk does not by itself.

    What an object store refused becomes one.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not of_store(error):
            raise
        said = getattr(error, "strerror", None) or error
        raise OSError(f"{path} cannot be written: {said}") from error
