"""The test split -> anomaly maps, scores, metrics, report."""

import logging
import zlib
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Int32, UInt8

from diffad_jax import checkpoint, metrics, optim, report, sharding, steps, workdir
from diffad_jax.config import Config
from diffad_jax.train_state import TrainState, Variables, define, init
from input_pipeline.datasets import Pictures, load_category

logger = logging.getLogger(__name__)


def run(config: Config, folder: epath.PathLike) -> dict[str, float]:
    """Evaluate a run's newest checkpoint and write the report to `WORKDIR/eval/STEP`.

    Raises:
      ValueError: no run, no checkpoint, another model's run, or unusable pictures.
    """
    workdir.check_model(folder, config)  # before the pictures are read
    pictures = load_category(config.data, config.model.image_size).test
    check(pictures, config)
    mesh = sharding.data_mesh()
    variables, step = restore(config, folder, mesh)
    step_fn = steps.jit_evaluate_step(define(config.model), config, mesh)
    key = run_key(config, mesh)
    return write(folder, step, judge(step_fn, variables, key, pictures, config, mesh), config)


def check(pictures: Pictures, config: Config) -> None:
    """Raise ValueError where there is nothing to evaluate."""
    if not len(pictures.images):
        folder = epath.Path(config.data.root) / config.data.category / "test"
        raise ValueError(f"no test pictures in {folder}: nothing to evaluate")


def restore(config: Config, folder: epath.PathLike, mesh: Mesh) -> tuple[Variables, int]:
    """The variables that evaluation reads, on every device, and the checkpoint's step.

    Raises:
      ValueError: no run, no such checkpoint, or another model's run.
    """
    workdir.check_model(folder, config)
    name = {"last": checkpoint.LAST, "best": checkpoint.BEST}[config.evaluate.checkpoint]
    with checkpoint.Checkpoints(folder, writer=False, name=name) as checkpoints:
        state = checkpoints.restore(restore_target(config, mesh))
    return weights(state, config), int(state.step)


def restore_target(config: Config, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and placement of a checkpoint of this configuration."""
    # Only the structure of the optimizer's state matters here, not the length of its schedule.
    optimizer = optim.optimizer(config, total_steps=1)
    shapes = jax.eval_shape(lambda: init(config, optimizer, jax.random.key(config.seed)))
    return checkpoint.abstract(shapes, sharding.replicated(mesh))


def weights(state: TrainState, config: Config) -> Variables:
    """The variables that evaluation reads."""
    return state.ema if config.evaluate.weights == "ema" else state.variables


def run_key(config: Config, mesh: Mesh) -> jax.Array:
    """The key that all of a run's draws follow from, on every device."""
    return jax.jit(lambda: jax.random.key(config.seed), out_shardings=sharding.replicated(mesh))()


def judge(
    step_fn: steps.EvaluateStep,
    variables: Variables,
    key: jax.Array,
    pictures: Pictures,
    config: Config,
    mesh: Mesh,
) -> report.Evaluation:
    """Run every picture through the model, in batches padded to one shape.

    The noise of a picture is a function of (key, the picture), so neither the batch size, the
    number of devices nor the other pictures change it.
    """
    scores, maps, reconstructions = [], [], []
    for batch, index, count in padded_batches(pictures.images, config.evaluate.batch_size, mesh):
        judged = jax.device_get(step_fn(variables, batch, index, key))
        scores.append(judged.score[:count])
        maps.append(judged.anomaly_map[:count, ..., 0])
        reconstructions.append(np.round(judged.reconstruction[:count] * 255).astype(np.uint8))
    return report.Evaluation(
        names=pictures.names,
        defects=pictures.defects,
        labels=pictures.labels,
        scores=np.concatenate(scores).astype(np.float64),
        maps=np.concatenate(maps),
        images=pictures.images,
        reconstructions=np.concatenate(reconstructions),
        masks=pictures.masks,
        has_mask=pictures.has_mask,
    )


def noise_index(images: UInt8[np.ndarray, "n s s 3"]) -> Int32[np.ndarray, " n"]:
    """What the noise of a picture follows from in `steps.evaluate_step`: 31 bits of its CRC-32.

    A function of the picture alone, as the networks see it (resized, 8 bit): not of its name, nor
    of its place among others.
    """
    hashes = [zlib.crc32(np.ascontiguousarray(image)) & 0x7FFFFFFF for image in images]
    return np.array(hashes, np.int32)


def padded_batches(
    images: np.ndarray, batch_size: int, mesh: Mesh
) -> Iterator[tuple[jax.Array, jax.Array, int]]:
    """(image f32[b,s,s,3] in [0,1], its `noise_index`, real pictures among them), over the mesh.

    b is `batch_size` rounded up to a multiple of the devices; the last batch repeats its last
    picture.
    """
    size = -(-batch_size // mesh.size) * mesh.size
    for start in range(0, len(images), size):
        real = np.arange(start, min(start + size, len(images)))
        picture = images[np.pad(real, (0, size - len(real)), mode="edge")]
        image = picture.astype(np.float32) / np.float32(255)
        index = noise_index(picture)
        yield sharding.share(image, mesh), sharding.share(index, mesh), len(real)


def write(
    folder: epath.PathLike, step: int, evaluation: report.Evaluation, config: Config
) -> dict[str, float]:
    """Write metrics.json, scores.csv and grid.png to `WORKDIR/eval/STEP`; returns the metrics."""
    values = metrics.evaluate(
        evaluation.labels, evaluation.scores, truth(evaluation), evaluation.maps
    )
    if jax.process_index() == 0:
        target = epath.Path(folder) / "eval" / str(step)
        target.mkdir(parents=True, exist_ok=True)
        report.write_metrics(target / "metrics.json", values)
        threshold = values["image_f1_threshold"]
        report.write_scores(target / "scores.csv", evaluation, threshold)
        rows = report.choose_rows(evaluation, config.evaluate.grid_rows)
        title = f"{config.data.category}, step {step}"
        report.write_grid(target / "grid.png", evaluation, rows, title, threshold)
        logger.info("%s, step %d\n%s", config.data.category, step, report.table(values))
        logger.info("report: %s", target)
    return values


def truth(evaluation: report.Evaluation) -> np.ndarray | None:
    """Masks as bool[n,s,s], or None where a defective picture has none: no pixel-level metrics."""
    masks = [evaluation.truth(row) for row in range(len(evaluation.names))]
    return None if any(mask is None for mask in masks) else np.stack(masks)
