"""Checksums of the files in a folder: what proves that one is damaged, and nothing else does."""

import hashlib
import json

from etils import epath

from input_pipeline.on_disk import files_of

NAME = "CHECKSUMS.json"
_BLOCK = 2**22  # bytes read at once


def write(folder: epath.Path, without: tuple[str, ...] = ()) -> None:
    """Write FOLDER/CHECKSUMS.json: the digest of every file in it, by its path.

    Args:
      folder: local or on an object store.
      without: names of files that may still change.

    Raises:
      OSError: a file cannot be read, or this one not be written.
    """
    names = sorted(name for name in files_of(folder) if name.rpartition("/")[2] not in without)
    content = {name: _digest(folder / name) for name in names if name != NAME}
    (folder / NAME).write_text(json.dumps(content, indent=0))


def problem(folder: epath.Path) -> str:
    """What is damaged in a folder that has checksums, in words; '' where every file is whole.

    Raises:
      OSError: a file is there and cannot be read now, which proves nothing about it.
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        expected = {str(name): str(digest) for name, digest in content.items()}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (ValueError, AttributeError):
        return f"{NAME} is not as it was written"
    for name, digest in expected.items():
        try:
            if _digest(folder / name) != digest:
                return f"{name} is not as it was written"
        except FileNotFoundError:
            return f"{name} is missing"
    return ""


def _digest(path: epath.Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
