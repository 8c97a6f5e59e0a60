"""Verdicts that people correct: a line each, appended; the picture and the region are kept."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import secrets
import threading
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from configs.errors import UserError
from diffad_jax.runs import files
from input_pipeline import corrections
from input_pipeline.decoding import formats
from input_pipeline.on_disk import replacing

FILE, FOLDER = corrections.FILE, "corrections"


class Corrections:
    """The corrections of a station, in its folder; any thread may call.

    What a line names is on disk before it, and a line before its answer: nothing confirmed is lost.
    count: of the pictures that have a last word.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._file, self._lock = folder, folder / FILE, threading.Lock()
        self.count = len(self.all())

    def add(
        self, part: Any, verdict: str, mask: UInt8[np.ndarray, "h w"] | None, time: float
    ) -> dict[str, Any]:
        """Store what a person says of a `station.Part`; the line that was written.

        Raises UserError for what cannot be said of this part, OSError where it cannot be stored.
        """
        row, id, sha256 = part.row, secrets.token_hex(8), hashlib.sha256(part.data).hexdigest()
        if row["error"]:
            raise UserError("this picture could not be read: there is nothing to correct")
        if mask is not None and (mask.shape != (row["height"], row["width"]) or not mask.any()):
            size = f"{row['width']}x{row['height']}"
            raise UserError(f"the mask must mark something and have {size} px as the picture")
        word = corrections.Correction(
            *(id, time, part.id, f"{FOLDER}/{sha256}{formats.extension(part.data)}", sha256),
            *(part.name, verdict, None if mask is None else f"{FOLDER}/{id}-mask.png"),
            *(row["score"], row["threshold"], row["verdict"]),
        )
        with self._lock:
            if mask is not None:
                Image.fromarray((mask > 0) * np.uint8(255)).save(png := io.BytesIO(), "png")
                _store(self._folder / f"{word.mask}", png.getvalue())
            if not (self._folder / word.picture).exists():
                _store(self._folder / word.picture, part.data)
            self._append(dataclasses.asdict(word))
        return dataclasses.asdict(word)

    def withdraw(self, id: str) -> None:
        """Take a word back; the picture then has none. KeyError: there is no such correction."""
        with self._lock:
            if all(word["id"] != id for word in self.all()):
                raise KeyError(id)
            self._append({"withdrawn": id})

    def all(self) -> list[dict[str, Any]]:
        """The last word about each picture, the newest first; see `corrections.read`."""
        return [dataclasses.asdict(word) for word in corrections.read(self._file)]

    def _append(self, values: dict[str, Any]) -> None:
        files.append(self._file, json.dumps(values, allow_nan=False) + "\n")
        self.count = len(self.all())


def _store(path: pathlib.Path, data: bytes) -> None:
    """A file with all its bytes on disk, or none."""
    with replacing(path) as partial, open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
