"""The folder that an exported model is: its files, and what bundle.json says about them."""

import dataclasses
import datetime
import hashlib
import json
import math
import pathlib
import shutil
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import diffad_jax
from configs.schema import Config
from diffad_jax.exporting import stablehlo
from diffad_jax.exporting.runtime import FACTS
from diffad_jax.scoring.identity import Identity
from diffad_jax.scoring.results import Evaluation
from diffad_jax.scoring.threshold import Threshold

FORMAT = 1  # that infer.py reads
LARGEST = 2**31 - 2**24  # bytes of a file that protobuf writes, and room for all but weights
MOST_COST = 0.005  # of image AUROC, below that of float32
GRAPH = "model.onnx"
RUNTIME = [pathlib.Path(__file__).with_name(name) for name in ("infer.py", "image_files.py")]


def write_graph(model: onnx.ModelProto, file: pathlib.Path) -> None:
    """Write a graph; weights of more than protobuf's 2 GiB lie in FILE.data beside it."""
    if model.ByteSize() <= LARGEST:
        onnx.save(model, file)
        return
    own = onnx.ModelProto()
    own.CopyFrom(model)  # its weights are moved out
    onnx.save(own, file, save_as_external_data=True, location=f"{file.name}.data")


def set_thresholds(file: pathlib.Path, found: Threshold | None) -> None:
    """The defaults of a graph's thresholds; NaN, which marks nothing, where there is none."""
    model = onnx.load(file, load_external_data=False)
    for name in ("image", "pixel"):
        value = np.array(math.nan if found is None else getattr(found, name), np.float32)
        place = next(t for t in model.graph.initializer if t.name == f"{name}_threshold")
        place.CopyFrom(numpy_helper.from_array(value, place.name))
    onnx.save(model, file)


def describe(
    config: Config, identity: Identity, found: Threshold | None, precision: str
) -> dict[str, Any]:
    """What the runtime needs to know, and what the model is."""
    thresholds = dict.fromkeys(("image", "pixel", "slope"))
    if found is not None:
        thresholds = _plain(dataclasses.asdict(found))
        del thresholds["identity"]
    return {
        "format": FORMAT,
        "category": identity.category,
        "precision": precision,
        "picture": {
            "size": config.model.image_size,
            "fit": config.data.fit,
            "resize": config.data.resize,
            "channels": "RGB",
        },
        "thresholds": thresholds,
        "identity": identity.to_dict(),
        "files": {},
        "config": config.to_dict(),
    }


def compare(reference: Evaluation, measured: Evaluation, used: Threshold | None) -> dict[str, Any]:
    """How far the exported model is from JAX on the same pictures.

    Args:
      reference: by JAX, with the threshold of the run.
      measured: by the exported model.
      used: the threshold that goes with it.

    Returns:
      pictures: how many; score and anomaly_map: the largest difference; turned: names of pictures
      of another verdict.
    """
    ours, theirs = reference.judged, measured.judged
    cut = math.nan if used is None else used.image
    verdicts = [ours.scores >= reference.cut, theirs.scores >= cut]
    maps = zip(ours.maps, theirs.maps, strict=True)
    return {
        "pictures": len(ours.names),
        "score": float(np.max(np.abs(ours.scores - theirs.scores))),
        "anomaly_map": float(max(np.max(np.abs(a - b)) for a, b in maps)),
        "turned": [ours.names[row] for row in np.flatnonzero(verdicts[0] != verdicts[1]).tolist()],
    }


def warnings(facts: dict[str, Any]) -> list[str]:
    """What a person should know before using it."""
    found = []
    kept, own = (facts["metrics"][name].get("image_auroc") for name in ("jax", "exported"))
    if kept is not None and own is not None and kept - own > MOST_COST:
        found.append(f"{facts['precision']} costs image AUROC: {own:.4f}, {kept:.4f} by JAX")
    turned = facts["parity"]["turned"]
    if turned:
        named = ", ".join(turned[:5]) + (", ..." if len(turned) > 5 else "")
        found.append(f"{len(turned)} pictures have another verdict than by JAX: {named}")
    return found


def numbers(evaluation: Evaluation) -> dict[str, float | None]:
    """An evaluation's measures, as JSON can hold them."""
    return _plain(evaluation.values)


def seal(folder: pathlib.Path, facts: dict[str, Any]) -> None:
    """Write the runtime, README.md and bundle.json, which has the checksums of all other files."""
    for part in RUNTIME:
        shutil.copyfile(part, folder / part.name)
    (folder / "README.md").write_text(_readme(facts), "utf-8")
    names = sorted(path.name for path in folder.iterdir() if path.name != FACTS)
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    text = json.dumps(facts | {"files": sums}, indent=2, allow_nan=False) + "\n"
    (folder / FACTS).write_text(text, "utf-8")


def origin(today: datetime.date, versions: dict[str, str]) -> dict[str, Any]:
    """When and with what it was made."""
    until = stablehlo.readable_until(today)
    return {
        "created": today.isoformat(),
        "program": diffad_jax.__version__,
        "versions": versions,
        "stablehlo": {"platforms": list(stablehlo.PLATFORMS), "readable_until": until.isoformat()},
    }


def _plain(values: Any) -> dict[str, Any]:
    """NaN and infinity as null: JSON has neither."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _readme(facts: dict[str, Any]) -> str:
    auroc = facts.get("metrics", {}).get("exported", {}).get("image_auroc")
    measured = "not measured" if auroc is None else f"{auroc:.4f}"
    warned = "".join(f"\n**{warning}**" for warning in facts.get("warnings", ()))
    return f"""# {facts["category"]}: is it defective, and where?

A model of diffad_jax, {facts["precision"]}, image AUROC {measured}.{warned}

    pip install numpy pillow onnxruntime
    python infer.py PICTURES --output results

`python infer.py --help` says more; bundle.json where the thresholds come from, how far the scores
are from those of training, and how fast it was. model.stablehlo is for JAX, see bundle.json.
"""
