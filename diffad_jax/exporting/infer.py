"""Judge pictures with the model of this folder; needs NumPy, Pillow and ONNX Runtime.

    python infer.py PICTURES... [--output DIR] [--maps] [--threshold T] [--provider cpu]

PICTURES are pictures, or folders with all folders in them. Every picture becomes a line of JSON;
with --output, of DIR/predictions.csv and .jsonl, and with --maps DIR/maps/NAME.png (16-bit grey,
anomaly = value / 65535). Exit status: 0 all pictures were read, 1 nothing to do or wrong use, 3
some could not be read (their lines say why), 130 Ctrl-C. In Python:

    result = infer.Model()("picture.png")  # or its bytes, u8[h,w,3], grey u8[h,w], or a list of any
"""

import argparse
import collections
import csv
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING or __package__:  # in diffad_jax
    from diffad_jax.exporting.image_files import Refused, put_back, read_picture, resize_picture
else:  # in a bundle: the file beside this one
    from image_files import Refused, put_back, read_picture, resize_picture

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")
COLUMNS = "picture score threshold confidence verdict width height boxes map error".split()
PROVIDERS = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt", "openvino": "OpenVINO"}
Box = collections.namedtuple("Box", "x y width height area peak")  # px from the upper left


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What the model makes of a picture of h x w px."""

    score: float  # in [0, 1]
    defective: bool | None  # score >= threshold; None: there is none
    confidence: float | None  # in [0, 1], that it is defective; 0.5 at the threshold
    anomaly_map: np.ndarray  # f32[h,w] in [0, 1]
    boxes: tuple[Box, ...]  # regions of the map, the highest peak first
    reconstruction: np.ndarray  # u8[h,w,3]


class Model:
    """The model of a bundle. It sees squares of `size` px."""

    def __init__(self, bundle: Any = pathlib.Path(__file__).parent, provider="cpu", noise=None):
        """Start on a provider; noise f32[k,2,s,s,3] replaces the model's. Raises Refused."""
        facts = _facts(pathlib.Path(bundle))
        picture, self._found = facts["picture"], facts["thresholds"]
        self.size, self._fit, self._resize = (picture[key] for key in ("size", "fit", "resize"))
        self._session, self._noise = _session(pathlib.Path(bundle, "model.onnx"), provider), {}
        if noise is not None:
            defaults = {one.name: one for one in self._session.get_overridable_initializers()}
            shape = tuple(defaults["noise"].shape) if "noise" in defaults else None
            if np.shape(noise) != shape:
                raise Refused(f"the noise has shape {np.shape(noise)}, that of the model {shape}")
            self._noise = {"noise": np.asarray(noise, np.float32)}

    def judge(self, images: np.ndarray) -> list[np.ndarray]:
        """Score f32[n], map f32[n,s,s] and reconstruction f32[n,s,s,3] of images u8[n,s,s,3]."""
        square = (self.size, self.size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != square:
            told = f"{images.dtype} {images.shape}"
            raise Refused(f"the model takes uint8 (n, *{square}), got {told}")
        names = ["score", "anomaly_map", "reconstruction"]
        return self._session.run(names, {"picture": images, **self._noise})

    def limits(self, threshold: float | None = None) -> tuple[float | None, float | None]:
        """The thresholds of scores and maps when `threshold` is given. Raises Refused."""
        if threshold is not None and not 0 <= threshold <= 1:
            raise Refused(f"the threshold is {threshold}, but scores lie in [0, 1]")
        image, pixel = (self._found.get(key) for key in ("image", "pixel"))
        image = image if threshold is None else threshold
        return image, image if pixel is None else pixel

    def __call__(self, pictures: Any, threshold: float | None = None, batch: int = 8) -> Any:
        """A Result of a picture, or a list of them, judged `batch` at a time. Raises Refused."""
        several = isinstance(pictures, (list, tuple)) or getattr(pictures, "ndim", 0) == 4
        given, limits = list(pictures) if several else [pictures], self.limits(threshold)
        results: list[Result] = []
        for start in range(0, len(given), batch):
            chosen = [read_picture(one) for one in given[start : start + batch]]
            shown = [resize_picture(one, self.size, self._resize, self._fit) for one in chosen]
            judged = zip(chosen, *self.judge(np.stack(shown)), strict=True)
            results += [self._result(picture, limits, *said) for picture, *said in judged]
        return results if several else results[0]

    def _result(self, picture, limits, score, anomaly_map, reconstruction) -> Result:
        """At the picture's own size."""
        score, (image, pixel), slope = float(score), limits, self._found.get("slope")
        if not math.isfinite(score):
            raise Refused(f"the score is {score}: the model has diverged")
        confidence = None
        if image is not None and slope is not None:  # 1 / (1 + (threshold / score) ** slope)
            power = slope * (math.log(max(image, 1e-300)) - math.log(max(score, 1e-300)))
            confidence = 1 / (1 + math.exp(min(power, 700.0))) if score else 0.0
        anomaly_map = put_back(anomaly_map, np.zeros(picture.shape[:2], np.float32), self._fit)
        colours = put_back(np.round(reconstruction * 255).astype(np.uint8), picture, self._fit)
        defective, boxes = None if image is None else score >= image, find_boxes(anomaly_map, pixel)
        return Result(score, defective, confidence, anomaly_map, boxes, colours)


def _facts(folder: pathlib.Path) -> dict[str, Any]:
    """bundle.json, when all files that it names are as it says."""
    try:
        facts = json.loads((folder / "bundle.json").read_text("utf-8"))
        if not isinstance(facts, dict) or facts.get("format") != 1:
            told = f"has format {facts.get('format')}" if isinstance(facts, dict) else "is unknown"
            raise Refused(
                f"the bundle {told}, this infer.py reads 1: use the infer.py of the bundle"
            )
        for name, wanted in facts["files"].items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if found != wanted:
                told = f"its checksum is {found[:12]}..., not {wanted[:12]}..."
                raise Refused(f"{folder / name} is not the file that was exported: {told}")
    except OSError as error:
        raise Refused(f"{folder} is no whole bundle: {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{folder / 'bundle.json'} is no JSON: {error}") from error
    return facts


def _session(path: pathlib.Path, provider: str) -> Any:
    """The graph on a provider, and on the CPU what that cannot do."""
    # Since 1.29 it tells its maker about models and machines. What is inspected stays here.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise Refused(f"onnxruntime is not installed ({error}): pip install it") from error
    onnxruntime.disable_telemetry_events()  # on Windows, where the variable means nothing
    names = {key: f"{name}ExecutionProvider" for key, name in PROVIDERS.items()}
    there = [key for key in names if names[key] in onnxruntime.get_available_providers()]
    if provider not in there:
        raise Refused(f"the provider {provider} is not there; there are: {', '.join(there)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of defaults that can be replaced, as is meant
    chosen = list(dict.fromkeys([names[provider], names["cpu"]]))
    exact = [{"use_tf32": "0"} if one == names["cuda"] else {} for one in chosen]  # not 10 bits
    session = onnxruntime.InferenceSession(os.fspath(path), options, chosen, exact)
    if names[provider] not in session.get_providers():
        raise Refused(f"the provider {provider} does not start: are its libraries installed?")
    return session


def find_boxes(anomaly_map: np.ndarray, threshold: float | None) -> tuple[Box, ...]:
    """The regions of f32[h,w] that are >= threshold (None: none); neighbours also diagonally."""
    if threshold is None:
        return ()
    marked = np.pad(anomaly_map >= threshold, ((0, 0), (1, 1)))
    rows, edges = (each.tolist() for each in np.nonzero(marked[:, 1:] != marked[:, :-1]))
    runs = list(zip(rows[::2], edges[::2], edges[1::2], strict=True))  # y, first x, x after
    parents, above = list(range(len(runs))), 0

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    for run, (y, first, after) in enumerate(runs):
        while (runs[above][0], runs[above][2]) < (y - 1, first):
            above += 1
        touched = above
        while runs[touched][:2] <= (y - 1, after):
            low, high = sorted((root(run), root(touched)))
            parents[high], touched = low, touched + 1
    found: dict[int, Box] = {}
    for run, (y, x, after) in enumerate(runs):
        peak = float(anomaly_map[y, x:after].max())
        old = found.get(root(run), Box(x, y, 0, 0, 0, peak))
        left, right = min(old.x, x), max(old.x + old.width, after)
        area, peak = old.area + after - x, max(old.peak, peak)
        found[root(run)] = Box(left, old.y, right - left, y + 1 - old.y, area, peak)
    return tuple(sorted(found.values(), key=lambda box: (-box.peak, box.y, box.x)))


def _sources(inputs: list[str]) -> list[tuple[str, pathlib.Path]]:
    """(name, file), sorted, of pictures and folders; named from what all of these lie in."""
    given = [pathlib.Path(os.path.abspath(one)) for one in inputs]
    if missing := [path for path in given if not path.exists()]:
        raise Refused(f"no such file or folder: {missing[0]}")
    found = [path for path in given if not path.is_dir()]
    for folder in (path for path in given if path.is_dir()):
        for path in folder.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.suffix.lower() in EXTENSIONS and not hidden and not path.is_dir():
                found.append(path)
    base = os.path.commonpath([path if path.is_dir() else path.parent for path in given])
    if not found:
        raise Refused(f"no pictures: no {' '.join(EXTENSIONS)} in {', '.join(inputs)}")
    return sorted({path.relative_to(base).as_posix(): path for path in found}.items())


def _rows(model: Model, sources: list, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line of the tables for every picture; writes the maps."""
    for start in range(0, len(sources), options.batch):
        rows, pictures = [], []
        for name, path in sources[start : start + options.batch]:
            rows.append(dict.fromkeys(COLUMNS) | {"picture": name})
            try:
                pictures.append(read_picture(path))
            except Refused as error:
                rows[-1]["error"] = str(error)
        results = iter(model(pictures, options.threshold, options.batch))
        for row in rows:
            if not row["error"]:
                _fill(row, next(results), model.limits(options.threshold)[0], options)
            yield row


def _fill(row: dict, result: Result, threshold: float | None, options: argparse.Namespace) -> None:
    """A line of the tables, and the map's file."""
    row |= {"score": result.score, "threshold": threshold, "confidence": result.confidence}
    row["verdict"] = {None: None, False: "good", True: "defective"}[result.defective]
    row["height"], row["width"] = result.anomaly_map.shape
    row["boxes"] = [box._asdict() for box in result.boxes]
    if options.maps and options.output:
        row["map"] = f"maps/{row['picture']}.png"
        file = options.output / row["map"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(result.anomaly_map * 65535.0).astype(np.uint16)).save(file)


def _write(rows: Iterable[dict[str, Any]], output: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The rows, which also become the tables of a folder when all are done."""
    output.mkdir(parents=True, exist_ok=True)
    tables = [output / "predictions.csv", output / "predictions.jsonl"]
    partial = [path.with_name(f"{path.name}.partial") for path in tables]
    how: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with open(partial[0], "w", **how) as table, open(partial[1], "w", **how) as lines:
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"boxes": None if row["error"] else len(row["boxes"])})
            lines.write(json.dumps(row) + "\n")
            yield row
    for old, new in zip(partial, tables, strict=True):
        old.replace(new)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Judge pictures with the model of this folder.")
    parser.add_argument("pictures", nargs="+", help="pictures, or folders with all folders in them")
    parser.add_argument("--output", type=pathlib.Path, help="folder for the tables")
    parser.add_argument("--maps", action="store_true", help="also write the maps there")
    parser.add_argument("--threshold", type=float, help="of the scores, instead of the bundle's")
    parser.add_argument("--provider", default="cpu", help=", ".join(PROVIDERS))
    parser.add_argument("--batch", type=int, default=8, help="pictures judged at a time")
    parser.add_argument("--bundle", default=pathlib.Path(__file__).parent, help="folder of a model")
    try:
        options = parser.parse_args(arguments)
        if options.batch < 1:
            raise Refused(f"--batch is {options.batch}, but must be 1 or more")
        sources, failed = _sources(options.pictures), 0
        model = Model(options.bundle, options.provider)
        model.limits(options.threshold)
        rows = _rows(model, sources, options)
        for row in _write(rows, options.output) if options.output else rows:
            failed += bool(row["error"])
            if not options.output:
                print(json.dumps(row), flush=True)
        return 3 if failed else 0
    except SystemExit as end:  # argparse has said why
        return 1 if end.code else 0
    except (Refused, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
