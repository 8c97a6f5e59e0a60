"""A run's model as a folder that runs without JAX: a bundle.

    python -m diffad_jax.main --mode export --workdir runs/bottle --output bottle_model
    cd bottle_model && python infer.py PICTURES --output results

BUNDLE holds

    model.onnx       picture in; score, verdict, anomaly map, reconstruction, pixel mask out
    infer.py         the runtime: NumPy, Pillow, ONNX Runtime; a program, and a module
    image_files.py   what it reads pictures with
    bundle.json      thresholds, the evaluation they come from, measures by JAX and by this model,
                     the largest differences, time for a picture, versions, checksums
    reference.json   scores and looks of the evaluation's pictures: what drift is told from
    model.stablehlo  the same step for JAX (`jax.export`), any batch, CPU, CUDA and TPU
    README.md        how to use it

The evaluation's pictures are judged by JAX and by the bundle itself: bundle.json says how far they
are apart. A bundle that computes as the run does (model.compute_dtype) has the run's threshold;
one of another precision has its own, found on the same pictures.
"""

import contextlib
import datetime
import importlib.metadata
import logging
import os
import pathlib
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from configs.errors import UserError
from configs.schema import ModelConfig
from diffad_jax import evaluate
from diffad_jax.exporting import bundle, onnx_model, runtime, stablehlo
from diffad_jax.models import torch_file, torch_weights
from diffad_jax.predicting import loading
from diffad_jax.reporting import tables
from diffad_jax.runs import pictures
from diffad_jax.scoring import appearance
from diffad_jax.scoring.results import Evaluation
from diffad_jax.scoring.scorer import Scorer
from diffad_jax.scoring.threshold import Threshold
from input_pipeline.datasets import Category, load_category

logger = logging.getLogger(__name__)
PRECISIONS = ("float32", "float16", "int8")
CALIBRATED_ON = 64  # good training pictures, of int8
PACKAGES = ("jax", "flax", "onnx", "onnxruntime", "numpy", "pillow")


def run(
    workdir: epath.PathLike,
    output: str | os.PathLike,
    precision: str = "float32",
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Write a bundle.

    Args:
      workdir: the run's folder, local or gs://.
      output: the bundle, a local folder that is not there yet, or empty.
      precision: one of PRECISIONS, of the convolutions.
      overrides: dotted keys to change in the run's configuration, such as {"data.root": "parts"}.

    Raises:
      UserError: no run, no checkpoint, none of the evaluation's pictures, a folder that holds
        something; or a run that predicts in tiles.
    """
    target = _new(output)
    model, found = loading.restored(workdir, None, overrides or {})
    if model.config.predict.tile_overlap:
        raise UserError(
            f"predict.tile_overlap is {model.config.predict.tile_overlap}, but a bundle judges "
            "whole pictures: export with --config.predict.tile_overlap=0"
        )
    kept_aside = pictures.held_out(workdir) or {}
    category = load_category(model.config.data, model.config.model.image_size, kept_aside)
    if not len(evaluate.shown(category).images):
        raise UserError(f"no test pictures in {category.folder}: nothing to compare the bundle on")
    reference = evaluate.measure(model, category)
    with _partial(target) as folder:
        facts = _write(folder, model, category, reference, found, precision)
    _tell(facts, target)


def to_torch(
    workdir: epath.PathLike,
    output: str | os.PathLike,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Write a run's weights as the file that the authors' code saves and loads.

    Args:
      workdir: as `run`.
      output: the file, a local one that is not there yet.
      overrides: as `run`.

    Raises:
      UserError: no run, no checkpoint, a model that the authors' code does not know, or no torch.
    """
    target = _new(output)
    model, _ = loading.restored(workdir, None, overrides or {})
    check_theirs(model.config.model)
    host = jax.device_get(model.variables)
    states = torch_weights.to_torch(host.params, host.batch_stats, model.config.model)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch_file.write(target, model.step, *states)
    logger.info("%s, step %d -> %s", model.config.data.category, model.step, target)


def check_theirs(model: ModelConfig) -> None:
    """Raise UserError for a model that the authors' code does not know."""
    for key, value in {"prediction": "epsilon", "image_range": "unit", "difference": 0.0}.items():
        if getattr(model, key) != value:
            raise UserError(
                f"model.{key} is {getattr(model, key)!r}, the authors' code knows {value!r} alone: "
                "export it as onnx"
            )


def _write(
    folder: pathlib.Path,
    model: Scorer,
    category: Category,
    reference: Evaluation,
    found: Threshold | None,
    precision: str,
) -> dict[str, Any]:
    """Write a bundle's files; returns what bundle.json says."""
    graph = onnx_model.write(model, half=precision == "float16")
    if precision == "int8":
        from diffad_jax.exporting import int8  # late: it loads what only quantising needs

        images = category.train.images
        rows = np.linspace(0, len(images) - 1, min(CALIBRATED_ON, len(images))).astype(int)
        int8.quantise(graph, images[rows], folder / bundle.GRAPH)
    else:
        bundle.write_graph(graph, folder / bundle.GRAPH)
    (folder / "model.stablehlo").write_bytes(stablehlo.write(model))
    used = found or reference.threshold
    facts = bundle.describe(model.config, reference.identity, used, precision)
    bundle.seal(folder, facts)  # for the runtime, which measures it as it is

    measured = evaluate.measure(runtime.Runtime(folder), category)
    if precision != model.config.model.compute_dtype:
        used = measured.threshold
        facts = bundle.describe(model.config, reference.identity, used, precision)
    bundle.set_thresholds(folder / bundle.GRAPH, used)
    tables.write_reference(folder / appearance.FILE, measured.judged)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    facts |= bundle.origin(datetime.date.today(), versions)
    facts["metrics"] = {"jax": bundle.numbers(reference), "exported": bundle.numbers(measured)}
    facts["parity"] = bundle.compare(reference, measured, used)
    bundle.seal(folder, facts)
    timed = runtime.Runtime(folder)
    facts["latency"] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "milliseconds": [runtime.milliseconds(timed, size) for size in (1, 8)],
    }
    facts["warnings"] = bundle.warnings(facts)
    bundle.seal(folder, facts)
    return facts


def _new(output: str | os.PathLike) -> pathlib.Path:
    """Where the result goes: nothing is there yet, or an empty folder."""
    target = pathlib.Path(output).expanduser()
    if "://" in os.fspath(output):
        raise UserError(f"{output} cannot be the output: it must be local")
    if jax.process_count() > 1:
        raise UserError(f"export works on one host, this is one of {jax.process_count()}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already: give a new --output, or remove it")
    return target


@contextlib.contextmanager
def _partial(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder of this export alone, beside the target, that becomes it if nothing fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    try:
        yield partial
        _new(target)  # another export may have been faster
        partial.chmod(0o755)
        partial.rename(target)  # an empty folder gives way
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _tell(facts: dict[str, Any], target: pathlib.Path) -> None:
    """What was written, in the log."""
    parity, time = facts["parity"], facts["latency"]["milliseconds"][0]
    for warning in facts["warnings"]:
        logger.warning("%s", warning)
    logger.info(
        "%s, %s: on %d pictures scores within %.1e of JAX's, maps within %.1e, %d other verdicts; "
        "%.1f ms a picture (median) -> %s",
        facts["category"],
        facts["precision"],
        parity["pictures"],
        parity["score"],
        parity["anomaly_map"],
        len(parity["turned"]),
        time["median"],
        target,
    )
