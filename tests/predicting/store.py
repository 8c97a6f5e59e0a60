"""A folder in the place of an object store, for paths that begin with gs://."""

import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

import pytest
from etils.epath import backend, gpath


class Store:
    """What epath asks of an object store, done in ROOT/BUCKET/... of a file system."""

    def __init__(self, root: pathlib.Path):
        self._root = f"{root}/"

    def __getattr__(self, name: str) -> Any:
        method = getattr(backend.os_backend, name)

        def call(*paths: Any, **options: Any) -> Any:
            local = [os.fspath(path).replace("gs://", self._root, 1) for path in paths]
            found = method(*local, **options)
            if name == "glob":
                return [path.replace(self._root, "gs://", 1) for path in found]
            return _File(found) if name == "open" else found

        return call


class _File:
    """An open file that can no more than TensorFlow's: it does not tell whether it is closed."""

    def __init__(self, file: IO):
        self._file = file
        self.read, self.write, self.close = file.read, file.write, file.close

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __iter__(self) -> Iterator:
        return iter(self._file)


def stand_in(patch: pytest.MonkeyPatch, root: pathlib.Path) -> None:
    """Let gs://BUCKET/... be ROOT/BUCKET/..."""
    store = Store(root)
    patch.setattr(gpath.backend_lib, "tf_backend", store)
    patch.setattr(gpath, "_GCS_BACKENDS", {store})
    patch.setattr(gpath, "_is_tf_installed", lambda: True)
    patch.setattr(gpath, "_is_zonal_gcs_bucket", lambda bucket: False)
