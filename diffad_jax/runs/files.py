"""Files that are whole or not there, on a file system or an object store."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath


def write(path: epath.Path, content: str | bytes) -> None:
    """Write a file so that a killed process leaves the old one or the new one, never a half.

    Raises:
      OSError: it cannot be written, as on a full disk; the old one stays.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.parent / f".{path.name}.partial"
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def named(path: epath.PathLike) -> Iterator[None]:
    """A context whose OSError names the path: writing to a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is on an object store, such as gs://."""
    return "://" in os.fspath(path)
