"""Files that are whole or not there, on a file system or an object store."""

import contextlib
import os
from collections.abc import Iterator

from etils import epath

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
